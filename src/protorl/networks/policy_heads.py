"""Heads that parameterise a policy, and the state value beside it.

`gain` scales the orthogonal initial weights of a head's last layer (None: torch's default): 0.01 makes the first policy nearly
the same everywhere, 1 is usual for values (Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from protorl.data import ActionSpec, Array, ProtoRLError, State
from protorl.moments import RunningMeanStd
from protorl.networks.heads import Head
from protorl.networks.numpy_forms import Form, in_numpy, view


class ValueOut(NamedTuple):
    """State values."""

    value: Tensor  # [...]


class CategoricalOut(NamedTuple):
    """Unnormalised log-probabilities."""

    logits: Tensor  # [..., n], or [..., A, n] for A choices at once, -inf where a choice has fewer than n


class GaussianOut(NamedTuple):
    """A diagonal Gaussian. A `log_std` that does not depend on the state is the parameter itself: do not write to it."""

    mean: Tensor  # [..., A]
    log_std: Tensor  # [..., A], or [A] where it does not depend on the state


class BetaOut(NamedTuple):
    """A Beta distribution per action, unimodal: both parameters exceed 1."""

    alpha: Tensor  # [..., A]
    beta: Tensor  # [..., A]


class DeterministicOut(NamedTuple):
    """An action in [-1, 1]."""

    action: Tensor  # [..., A]


def last_layer(features: int, outputs: int, gain: float | None) -> nn.Linear:
    """A linear layer; with a gain, orthogonal weights and zero biases."""
    layer = nn.Linear(features, outputs)
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


class ValueHead(Head):
    """`V(s)`: [..., F] -> ValueOut, [...]; of `streams` of reward, or of so many agents, a value each: [..., streams]."""

    def __init__(self, gain: float | None = None, streams: int | None = None) -> None:
        super().__init__()
        self.gain, self.streams = gain, streams

    def make(self, features: int) -> None:
        self.layer = last_layer(features, self.streams or 1, self.gain)

    def forward(self, x: Tensor) -> ValueOut:
        value = self.layer(x)
        return ValueOut(value.squeeze(-1) if self.streams is None else value)

    def in_numpy(self) -> Form | None:
        layer, one = in_numpy(self.layer), self.streams is None
        return None if layer is None else lambda x: ValueOut(layer(x)[:, 0] if one else layer(x))


class NormalisedValueHead(ValueHead):
    """`V_i(s) = σ_i y_i(s) + μ_i`, y being what the layer says, for M agents: [..., F] -> ValueOut, [..., M], as returns are.

    μ and σ are the mean and deviation of the returns that were given to `count`, of each agent its own; at first 0 and 1.
    preserve: where they move, the layer is rescaled so that V stays (PopArt): w <- σ w / σ', b <- (σ b + μ - μ') / σ'.
    Otherwise the layer stays, and V moves with them.
    Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude", equations 5 and 6; without `preserve`,
    Yu et al. 2022 (MAPPO), section 5.1. Differs from both: every return counts alike, where they forget exponentially.
    """

    LEAST = 0.1  # σ is never smaller
    mean: Tensor
    std: Tensor

    def __init__(self, agents: int, gain: float | None = None, preserve: bool = True) -> None:
        super().__init__(gain, agents)
        self.preserve = preserve
        self.seen = [RunningMeanStd() for _ in range(agents)]
        self.register_buffer("mean", torch.zeros(agents))
        self.register_buffer("std", torch.ones(agents))

    def forward(self, x: Tensor) -> ValueOut:
        return ValueOut(torch.addcmul(self.mean, self.layer(x), self.std))

    def in_numpy(self) -> Form | None:
        layer, mean, std = in_numpy(self.layer), view(self.mean), view(self.std)
        return None if layer is None else lambda x: ValueOut(layer(x) * std + mean)

    @torch.no_grad()
    def count(self, ret: Tensor, there: Tensor) -> None:
        """Returns [..., M], those that are `there` [..., M] bool."""
        returns, counts = ret.numpy(force=True), there.numpy(force=True)
        for i, seen in enumerate(self.seen):
            seen.update(returns[..., i][counts[..., i]])
        mean, std = self.mean.clone(), self.std.clone()
        self.mean.copy_(torch.tensor([seen.mean for seen in self.seen]))
        self.std.copy_(torch.tensor([max(float(seen.var) ** 0.5, self.LEAST) for seen in self.seen]))
        if self.preserve:
            self.layer.weight.mul_((std / self.std).unsqueeze(-1))
            self.layer.bias.copy_((std * self.layer.bias + mean - self.mean) / self.std)

    def get_extra_state(self) -> State:
        return {"seen": [seen.state_dict() for seen in self.seen]}

    def set_extra_state(self, state: State) -> None:
        for seen, kept in zip(self.seen, state["seen"], strict=True):
            seen.load_state_dict(kept)


class PolicyHead(Head):
    """What the heads of policies share: the actions they are for. Raises ProtoRLError for a kind they cannot."""

    kinds: tuple[str, ...] = ("box",)

    def __init__(self, action: ActionSpec, gain: float | None = None) -> None:
        super().__init__()
        if action.kind not in self.kinds:
            raise ProtoRLError(
                f"{type(self).__name__} is for {' or '.join(self.kinds)} actions, but these actions are {action.kind!r}: "
                "choose another head, or an environment with such actions"
            )
        if action.kind == "box" and len(action.shape) != 1:
            raise ProtoRLError(f"{type(self).__name__} needs actions in one vector, but these have shape {action.shape}")
        self.action, self.gain = action, gain


class CategoricalHead(PolicyHead):
    """One choice among n, or A choices at once, each among its own n: [..., F] -> CategoricalOut."""

    kinds = ("discrete", "multidiscrete")
    index: Tensor

    def make(self, features: int) -> None:
        nvec = self.action.nvec
        self.layer = last_layer(features, sum(nvec) if nvec else self.action.n, self.gain)
        if nvec:
            present = np.arange(max(nvec)) < np.array(nvec)[:, None]  # [A, n]
            self.places: tuple[int, ...] = present.shape
            self.register_buffer("index", torch.from_numpy(np.flatnonzero(present)), persistent=False)

    def forward(self, x: Tensor) -> CategoricalOut:
        logits = self.layer(x)
        if not self.action.nvec:
            return CategoricalOut(logits)
        table = logits.new_full((*logits.shape[:-1], self.places[0] * self.places[1]), -torch.inf)
        return CategoricalOut(table.index_copy(-1, self.index, logits).reshape(*logits.shape[:-1], *self.places))

    def in_numpy(self) -> Form | None:
        layer = in_numpy(self.layer)
        return None if layer is None or self.action.nvec else lambda x: CategoricalOut(layer(x))


class GaussianHead(PolicyHead):
    """`μ(s)` and a standard deviation: learnt but the same everywhere, or `state_dependent`, then kept in `log_std_range`.

    [..., F] -> GaussianOut. `log_std` is where it starts (not for the state-dependent one).
    Source: Schulman et al. 2017 (PPO), section 6.1, the former; Haarnoja et al. 2018 (SAC), the latter.
    """

    def __init__(
        self,
        action: ActionSpec,
        gain: float | None = None,
        log_std: float = 0.0,
        state_dependent: bool = False,
        log_std_range: tuple[float, float] = (-20.0, 2.0),
    ) -> None:
        super().__init__(action, gain)
        self.start, self.state_dependent, self.log_std_range = log_std, state_dependent, log_std_range

    def make(self, features: int) -> None:
        size = self.action.shape[0]
        self.mean = last_layer(features, size, self.gain)
        if self.state_dependent:
            self.spread = last_layer(features, size, self.gain)
        else:
            self.log_std = nn.Parameter(torch.full((size,), self.start))

    def forward(self, x: Tensor) -> GaussianOut:
        log_std = self.spread(x).clamp(*self.log_std_range) if self.state_dependent else self.log_std
        return GaussianOut(self.mean(x), log_std)

    def in_numpy(self) -> Form | None:
        mean, (low, high) = in_numpy(self.mean), self.log_std_range
        if mean is None:
            return None
        if not self.state_dependent:
            log_std: Any = view(self.log_std)
            return lambda x: GaussianOut(mean(x), log_std)
        spread = in_numpy(self.spread)
        return None if spread is None else lambda x: GaussianOut(mean(x), spread(x).clip(low, high))


class BetaHead(PolicyHead):
    """`α(s), β(s) = 1 + softplus(.)`: [..., F] -> BetaOut.

    Source: Chou, Maturana and Scherer 2017, section 4.
    """

    def make(self, features: int) -> None:
        self.layer = last_layer(features, 2 * self.action.shape[0], self.gain)

    def forward(self, x: Tensor) -> BetaOut:
        alpha, beta = (1 + softplus(self.layer(x))).chunk(2, -1)
        return BetaOut(alpha, beta)

    def in_numpy(self) -> Form | None:
        layer, size = in_numpy(self.layer), self.action.shape[0]
        if layer is None:
            return None

        def forward(x: Array) -> BetaOut:
            y: Any = 1 + np.logaddexp(np.float32(0), layer(x))
            return BetaOut(y[:, :size], y[:, size:])

        return forward


class DeterministicHead(PolicyHead):
    """`μ(s) = tanh(.)` in [-1, 1]: [..., F] -> DeterministicOut. `bound`: initial weights in U[-bound, bound].

    Source: Lillicrap et al. 2016 (DDPG), section 7 (bound 3e-3).
    """

    def __init__(self, action: ActionSpec, gain: float | None = None, bound: float | None = None) -> None:
        super().__init__(action, gain)
        self.bound = bound

    def make(self, features: int) -> None:
        self.layer = last_layer(features, self.action.shape[0], self.gain)
        if self.bound is not None:
            nn.init.uniform_(self.layer.weight, -self.bound, self.bound)
            nn.init.uniform_(self.layer.bias, -self.bound, self.bound)

    def forward(self, x: Tensor) -> DeterministicOut:
        return DeterministicOut(torch.tanh(self.layer(x)))

    def in_numpy(self) -> Form | None:
        layer = in_numpy(self.layer)
        return None if layer is None else lambda x: DeterministicOut(np.tanh(layer(x)))
