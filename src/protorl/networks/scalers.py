"""Observations and rewards scaled by what was seen so far: saved with the network and the agent, frozen in evaluation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from protorl.data import Array, ArraySpec, ObsSpec, ProtoRLError, State
from protorl.moments import RunningMeanStd
from protorl.networks.bases import Base
from protorl.networks.masks import Visible
from protorl.networks.numpy_forms import Form, in_numpy, view


class ObsScaler(nn.Module):
    """`clip((obs - mean) / sqrt(var + epsilon), -clip, clip)`: [..., *O] -> [..., *O], by the observations counted so far.

    `count(obs)` counts; it takes effect at the next `refresh()`, so that a policy stays the same between acting and
    learning. Before the first refresh observations stay as they are (clipped).
    Raises ProtoRLError for observations that are not one array of floats.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, obs: ObsSpec, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        super().__init__()
        if not isinstance(obs, ArraySpec) or obs.dtype.kind != "f":
            raise ProtoRLError("only observations that are one array of floats can be normalised: set normalise_obs=false")
        self.clip, self.epsilon = clip, epsilon
        self.seen = RunningMeanStd(obs.shape)
        self.used = 0.0
        self.register_buffer("mean", torch.zeros(obs.shape))
        self.register_buffer("scale", torch.ones(obs.shape))

    def forward(self, obs: Tensor) -> Tensor:
        return ((obs - self.mean) * self.scale).clamp(-self.clip, self.clip)

    def in_numpy(self) -> Form:
        mean, scale, clip = view(self.mean), view(self.scale), self.clip
        return lambda obs: np.minimum(np.maximum((obs - mean) * scale, -clip), clip)

    def count(self, obs: Tensor) -> None:
        """Observations [..., *O] that were acted on."""
        self.seen.update(obs.numpy(force=True).reshape(-1, *self.mean.shape))

    def refresh(self) -> None:
        """From now on scale by everything that was counted."""
        if self.used != self.seen.count:
            self.used = self.seen.count
            self.mean.copy_(torch.as_tensor(self.seen.mean))
            self.scale.copy_(torch.as_tensor(1 / np.sqrt(self.seen.var + self.epsilon)))

    def get_extra_state(self) -> State:
        return {"seen": self.seen.state_dict(), "used": self.used}

    def set_extra_state(self, state: State) -> None:
        self.seen.load_state_dict(state["seen"])
        self.used = state["used"]


class ScaledBase(Base):
    """`base(scaler(obs))`; several bases may share one scaler."""

    def __init__(self, scaler: ObsScaler, base: Base) -> None:
        super().__init__()
        self.scaler, self.base, self.features = scaler, base, base.features

    def forward(self, obs: Tensor) -> Tensor:
        features: Tensor = self.base(self.scaler(obs))
        return features

    def in_numpy(self) -> Form | None:
        scaler, base = in_numpy(self.scaler), in_numpy(self.base)
        return None if scaler is None or base is None else lambda obs: base(scaler(np.asarray(obs, np.float32)))


def scaled(scaler: ObsScaler, base: Base) -> Base:
    """The base with the scaler before it; before what is visible, where there is a mask of actions besides."""
    return Visible(ScaledBase(scaler, base.base)) if type(base) is Visible else ScaledBase(scaler, base)


class ReturnScaler:
    """Rewards divided by the standard deviation of the discounted return: `clip(r / sqrt(var(G) + epsilon), -clip, clip)`
    with `G <- γ G + r` along time in each environment, anew with each episode.

    Source: the code of OpenAI Baselines; Engstrom et al. 2020, "Implementation matters in deep policy gradients", section 3.
    """

    def __init__(self, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        self.clip, self.epsilon = clip, epsilon
        self.seen = RunningMeanStd()
        self.returns: Array | None = None

    def __call__(self, reward: Tensor, discount: Tensor, ended: Tensor, weight: Tensor | None = None) -> Tensor:
        """Count a rollout [T, N, ...] (`discount` is γ where the episode goes on), and scale its rewards: [T, N, ...].

        What has weight 0 (the padding of a `Rollout`) is not counted.
        """
        r, going = reward.numpy(force=True), np.where(ended.numpy(force=True), 0.0, discount.numpy(force=True))
        there = np.ones(r.shape, np.bool_) if weight is None else weight.numpy(force=True) > 0
        g = np.zeros(r.shape[1:]) if self.returns is None else self.returns
        returns = np.empty(r.shape)
        for t in range(len(r)):
            returns[t] = g + r[t]
            g = np.where(there[t], going[t] * returns[t], g)
        self.returns = g
        self.seen.update(returns[there])
        return (reward / float(np.sqrt(self.seen.var + self.epsilon))).clamp(-self.clip, self.clip)

    def state_dict(self) -> State:
        return {"seen": self.seen.state_dict(), "returns": self.returns}

    def load_state_dict(self, state: State) -> None:
        self.seen.load_state_dict(state["seen"])
        self.returns = None if state["returns"] is None else np.array(state["returns"])
