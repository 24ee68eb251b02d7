"""How new an observation is, by random network distillation (Burda et al. 2018); and running moments on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from protorl.data import ArraySpec, ObsSpec, ProtoRLError
from protorl.networks.layers import dense, initialise


class RunningMoments(nn.Module):
    """Mean and variance of everything seen, in float64, where the networks are: nothing waits for the device, and a graph may
    count. Merged batch by batch as `RunningMeanStd` does; examples count by their weights.

    Before anything was seen the mean is 0 and the variance 1.
    """

    total: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(tuple(shape), dtype=torch.float64))

    @torch.no_grad()
    def count(self, batch: Tensor, weight: Tensor) -> None:
        """batch: [..., *shape]. weight: [...], 0 or more; what has 0 is not counted."""
        x = batch.reshape(-1, *self.mean.shape).to(torch.float64)
        w = weight.reshape(-1, *[1] * self.mean.dim()).to(torch.float64)
        new = w.sum()
        mean = (w * x).sum(0) / new.clamp(min=1e-12)
        difference, total = mean - self.mean, self.total + new
        share = new / total.clamp(min=1e-12)
        self.m2.add_((w * (x - mean).square()).sum(0) + difference.square() * (self.total * share))
        self.mean.add_(difference * share)
        self.total.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation [*shape], float32; never 0."""
        var = torch.where(self.total > 0, self.m2 / self.total.clamp(min=1e-12), torch.ones_like(self.m2))
        return (var + 1e-8).sqrt().to(torch.float32)


class RandomDistillation(nn.Module):
    """The error with which a network that learns predicts what a random one says of an observation: large where little like it
    was seen.

        error(s) = mean_k (f̂(s; θ)_k - f(s)_k)²,      s <- clip((s - μ) / σ, -clip, clip)

    of the newest frame alone where frames are stacked. f is never trained; whoever owns this trains `predictor` (θ) on the mean
    of `error`. μ and σ are of what was given to `count`.

    obs: one array; or a dict, of which it looks at `entry`. Images of at least 36x36 get convolutions (32 8x8/4, 64 4x4/2,
    64 3x3/1, leaky ReLU), everything else one dense layer; the predictor two dense layers more, with ReLU. features: numbers
    that f gives, and width of dense layers. Raises ProtoRLError for dict observations without an entry.
    Source: Burda et al. 2018, arXiv 1810.12894, section 2.2, and the authors' code (orthogonal weights of gain sqrt(2), the
    mean over features in the place of the paper's sum).
    """

    def __init__(self, obs: ObsSpec, features: int = 512, clip: float = 5.0, entry: str | None = None) -> None:
        super().__init__()
        self.entry = entry
        if isinstance(obs, dict) and entry is not None:
            obs = obs[entry]
        if not isinstance(obs, ArraySpec):
            raise ProtoRLError(
                f"random network distillation looks at one array, but the observation is a dict of {', '.join(obs)}: choose "
                "one by a wrapper, such as --wrappers minigrid.wrappers:ImgObsWrapper"
            )
        k = obs.frame_stack
        self.shape = (obs.shape[0] // k, *obs.shape[1:]) if k > 1 else obs.shape
        self.stacked, self.clip = k > 1, clip
        self.seen = RunningMoments(self.shape)
        self.target, self.predictor = self.network(features, 0), self.network(features, 2)
        self.target.requires_grad_(False)

    def network(self, features: int, more: int) -> nn.Sequential:
        """Frames [B, *F] -> [B, features], with so many dense layers more."""
        layers: list[nn.Module] = []
        size = math.prod(self.shape)
        if len(self.shape) == 3 and min(self.shape[1:]) >= 36:
            channels, *sides = self.shape
            for outputs, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
                layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.LeakyReLU()]
                channels, sides = outputs, [(side - kernel) // stride + 1 for side in sides]
            layers.append(nn.Flatten())
            size = channels * math.prod(sides)
        else:
            layers += [nn.Flatten(), *dense(size, (features,), "leaky_relu")]
            size = features
        head = nn.Linear(features if more else size, features)
        network = nn.Sequential(*layers, *dense(size, (features,) * more, "relu"), head)
        initialise(network, "orthogonal")
        return network

    def newest(self, obs: Any) -> Tensor:
        """The newest frame [..., *F] of observations [..., *O]; all of what is not stacked."""
        obs = obs if self.entry is None else obs[self.entry]
        if not self.stacked:
            return obs  # type: ignore[no-any-return]
        channels, axis = self.shape[0], obs.dim() - len(self.shape)
        return obs.narrow(axis, obs.shape[axis] - channels, channels)

    def count(self, frames: Tensor, weight: Tensor) -> None:
        """Newest frames [..., *F], of weight [...]: from now on they are part of μ and σ."""
        self.seen.count(frames, weight)

    def forward(self, frames: Tensor) -> Tensor:
        """The error [...] for newest frames [..., *F], differentiable in θ."""
        x = frames.reshape(-1, *self.shape).to(torch.float32) - self.seen.mean.to(torch.float32)
        x = (x / self.seen.deviation).clamp(-self.clip, self.clip)
        return (self.predictor(x) - self.target(x)).square().mean(-1).reshape(frames.shape[: frames.dim() - len(self.shape)])

    def loss(self, frames: Tensor, weight: Tensor) -> Tensor:
        """The mean error [] of newest frames [..., *F], of weight [...] (0 everywhere: 0)."""
        return (weight * self(frames)).sum() / weight.sum().clamp(min=1.0)
