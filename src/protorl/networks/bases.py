"""Bases see the observation: an array (or a dict of arrays) becomes `features` numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protorl.data import Array, ArraySpec, ObsSpec, ProtoRLError, TensorObs
from protorl.networks.layers import activation_layer, dense, initialise
from protorl.networks.numpy_forms import Form, in_numpy


class Base(nn.Module):
    """Maps observations [..., *O] to [..., features] in float32."""

    features: int


class ArrayBase(Base):
    """A base over one array; `inputs` is what every such base does first: to float32, bytes from 0..255 to 0..1."""

    def __init__(self, obs: ObsSpec, image: bool = False) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(obs, ArraySpec):
            raise ProtoRLError(f"{name} reads one array, but the observation is a dict of {', '.join(obs)}: use DictBase")
        if image and len(obs.shape) != 3:
            raise ProtoRLError(f"{name} reads images [channels, height, width], but the observation is {obs.shape}: use MLP")
        self.shape, self.size = obs.shape, obs.size
        self.bytes = obs.dtype == "uint8" and (obs.high is None or int(obs.high.max()) == 255)

    def inputs(self, obs: Tensor) -> Tensor:
        x = obs.to(torch.float32)
        return x / 255 if self.bytes else x


class MLP(ArrayBase):
    """Dense layers over a flattened observation of any shape: [..., *O] -> [..., widths[-1]].

    `activation` names one of relu, tanh, elu, gelu, silu, ...; `layer_norm` normalises before it; `init` is "default"
    (torch's), "orthogonal" (gain sqrt(2), zero biases), "xavier" or "dopamine" (zero biases). No widths: the flattened
    observation itself.
    Raises ProtoRLError for a dict observation, an unknown activation or init, a width below 1.
    """

    def __init__(
        self,
        obs: ObsSpec,
        widths: Sequence[int] = (256, 256),
        activation: str = "relu",
        layer_norm: bool = False,
        init: str = "default",
    ) -> None:
        super().__init__(obs)
        self.features = widths[-1] if len(widths) else self.size
        self.layers = nn.Sequential(*dense(self.size, widths, activation, layer_norm))
        initialise(self, init)

    def forward(self, obs: Tensor) -> Tensor:
        x = self.inputs(obs)
        if len(self.shape) != 1:
            x = x.reshape(*_lead(obs, self.shape), self.size)
        features: Tensor = self.layers(x)
        return features

    def in_numpy(self) -> Form | None:
        layers = in_numpy(self.layers)
        if layers is None or self.bytes:
            return None
        return lambda obs: layers(flat(obs))


def flat(obs: Array) -> Array:
    """Observations [N, *O] as float32 [N, numbers]."""
    x = np.asarray(obs, np.float32)
    return x if x.ndim == 2 else x.reshape(len(x), -1)


class NatureCNN(ArrayBase):
    """The network of DQN: convolutions 32 8x8/4, 64 4x4/2, 64 3x3/1, then dense `widths`, all with ReLU.

    [..., C, H, W] -> [..., widths[-1]]; `widths=()` ends after the convolutions, for heads with their own hidden layers.
    Raises ProtoRLError for anything but an image of at least 36x36.
    Source: Mnih et al. 2015, Methods, "Model architecture".
    """

    def __init__(self, obs: ObsSpec, widths: Sequence[int] = (512,), init: str = "default") -> None:
        super().__init__(obs, image=True)
        channels, height, width = self.shape
        if min(height, width) < 36:
            raise ProtoRLError(
                f"NatureCNN needs images of at least 36x36, but these are {height}x{width}: "
                "resize them, or use ImpalaResNet or MLP"
            )
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
        )
        area = [((side - 8) // 4 + 1 - 4) // 2 + 1 - 2 for side in (height, width)]
        flat = 64 * area[0] * area[1]
        self.layers = nn.Sequential(nn.Flatten(), *dense(flat, widths, "relu"))
        self.features = widths[-1] if len(widths) else flat
        initialise(self, init)

    def forward(self, obs: Tensor) -> Tensor:
        x = self.inputs(obs).reshape(-1, *self.shape)
        return self.layers(self.convolutions(x)).reshape(*_lead(obs, self.shape), self.features)


class Residual(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, all 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class ImpalaResNet(ArrayBase):
    """The deep residual network of IMPALA: per entry of `channels` a 3x3 convolution, a 3x3/2 max-pool and two residual
    blocks, then ReLU, one dense layer of `width`, ReLU. [..., C, H, W] -> [..., width].

    Raises ProtoRLError for anything but an image. Source: Espeholt et al. 2018, figure 3 (right), without its LSTM.
    """

    def __init__(self, obs: ObsSpec, channels: Sequence[int] = (16, 32, 32), width: int = 256, init: str = "default") -> None:
        super().__init__(obs, image=True)
        inputs, *area = self.shape
        sections: list[nn.Module] = []
        for outputs in channels:
            sections += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            sections += [Residual(outputs), Residual(outputs)]
            area = [(side + 1) // 2 for side in area]
            inputs = outputs
        flat = inputs * area[0] * area[1]
        self.layers = nn.Sequential(*sections, nn.ReLU(), nn.Flatten(), nn.Linear(flat, width), activation_layer("relu"))
        self.features = width
        initialise(self, init)

    def forward(self, obs: Tensor) -> Tensor:
        x = self.inputs(obs).reshape(-1, *self.shape)
        return self.layers(x).reshape(*_lead(obs, self.shape), self.features)


class DictBase(Base):
    """One base per entry of a dict observation, their features side by side: {key: [..., *O_key]} -> [..., sum].

    Entries without a base are not seen. Raises ProtoRLError when there is none at all.
    """

    def __init__(self, bases: Mapping[str, Base]) -> None:
        super().__init__()
        if not bases:
            raise ProtoRLError("DictBase needs at least one base: give it a dict of observation key to base")
        self.keys = list(bases)
        self.bases = nn.ModuleList(bases.values())
        self.features = sum(base.features for base in bases.values())

    def forward(self, obs: Mapping[str, TensorObs]) -> Tensor:
        return torch.cat([base(obs[key]) for key, base in zip(self.keys, self.bases, strict=True)], dim=-1)

    def in_numpy(self) -> Form | None:
        forms = [in_numpy(base) for base in self.bases]
        keyed: list[Any] = list(zip(self.keys, forms))
        return None if None in forms else lambda obs: np.concatenate([form(obs[key]) for key, form in keyed], -1)


def _lead(obs: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(obs.shape[: obs.dim() - len(shape)])
