"""The small network for MinAtar's 10x10 images."""

from __future__ import annotations

from torch import Tensor, nn

from protorl.data import ObsSpec, ProtoRLError
from protorl.networks.bases import ArrayBase
from protorl.networks.layers import dense, initialise


class MinAtarCNN(ArrayBase):
    """The network of MinAtar's DQN: one 3x3 convolution of 16 channels, one dense layer of 128, both with ReLU.

    [..., C, H, W] -> [..., 128]; bytes count from 0..255 unless the observation's upper bound says otherwise (MinAtar: 1).
    Raises ProtoRLError for anything but an image of at least 3x3.
    Source: Young and Tian 2019, "MinAtar", arXiv 1903.03176, and its examples/dqn.py.
    """

    def __init__(self, obs: ObsSpec, channels: int = 16, width: int = 128, init: str = "default") -> None:
        super().__init__(obs, image=True)
        inputs, high, wide = self.shape
        if min(high, wide) < 3:
            raise ProtoRLError(f"MinAtarCNN needs images of at least 3x3, but these are {high}x{wide}: use MLP")
        flat = channels * (high - 2) * (wide - 2)
        self.layers = nn.Sequential(nn.Conv2d(inputs, channels, 3), nn.ReLU(), nn.Flatten(), *dense(flat, (width,), "relu"))
        self.features = width
        initialise(self, init)

    def forward(self, obs: Tensor) -> Tensor:
        features: Tensor = self.layers(self.inputs(obs).reshape(-1, *self.shape))
        return features.reshape(*obs.shape[:-3], self.features)
