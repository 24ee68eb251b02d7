"""Heads name the outputs: features become a NamedTuple whose `q` [..., A] is what a policy acts on.

A head is made without knowing how many features it will see; `Network(base, head)` tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from protorl.data import ActionSpec, Array, ProtoRLError
from protorl.functional import quantile_levels
from protorl.networks.layers import dense, linear
from protorl.networks.numpy_forms import Form, in_numpy, view


class QOut(NamedTuple):
    """Action values."""

    q: Tensor  # [..., A]


class C51Out(NamedTuple):
    """Action values and the categorical distributions they are the means of."""

    q: Tensor  # [..., A]
    log_p: Tensor  # [..., A, K]
    atoms: Tensor  # [K]


class QuantileOut(NamedTuple):
    """Action values and the quantiles they are the means of."""

    q: Tensor  # [..., A]
    quantiles: Tensor  # [..., A, K], at the levels (i + 1/2) / K, or at those an `IQNHead` was given


def chosen(numbers: Tensor, action: Tensor) -> Tensor:
    """The distributions of the chosen actions: `numbers` [..., A, K], integer `action` [...] -> [..., K]."""
    return torch.take_along_dim(numbers, action.long()[..., None, None], -2).squeeze(-2)


class Head(nn.Module):
    """Maps features [..., F] to a NamedTuple. `build` makes the layers, once."""

    built = False

    def build(self, features: int) -> None:
        """Make the layers for so many features. Raises ProtoRLError the second time: a head belongs to one network."""
        if self.built:
            raise ProtoRLError(f"this {type(self).__name__} already belongs to a network: make a new one for each network")
        self.make(features)
        self.built = True

    def make(self, features: int) -> None:
        raise NotImplementedError


class ActionValueHead(Head):
    """What the heads over discrete actions share: the number of actions, and hidden layers `widths` of their own.

    `noisy` makes every layer of the head a `NoisyLinear`. Raises ProtoRLError unless the actions are discrete.
    """

    def __init__(self, action: ActionSpec, widths: Sequence[int] = (), activation: str = "relu", noisy: bool = False) -> None:
        super().__init__()
        if action.kind != "discrete":
            raise ProtoRLError(
                f"{type(self).__name__} values a finite set of actions, but these actions are {action.kind!r}: "
                "use an agent for such actions, or an environment with discrete ones"
            )
        self.actions, self.widths, self.activation, self.noisy = action.n, tuple(widths), activation, noisy

    def stream(self, features: int, outputs: int) -> nn.Sequential:
        """Hidden layers, then `outputs` numbers."""
        hidden = dense(features, self.widths, self.activation, noisy=self.noisy)
        return nn.Sequential(*hidden, linear(self.widths[-1] if self.widths else features, outputs, self.noisy))


class QHead(ActionValueHead):
    """One value per action: `q = W φ(s) + b`. [..., F] -> QOut. Source: Mnih et al. 2015."""

    def make(self, features: int) -> None:
        self.layers = self.stream(features, self.actions)

    def forward(self, x: Tensor) -> QOut:
        return QOut(self.layers(x))

    def in_numpy(self) -> Form | None:
        layers = in_numpy(self.layers)
        return None if layers is None else lambda x: QOut(layers(x))


class DuelingHead(ActionValueHead):
    """A state value plus mean-free advantages: `q(s, a) = v(s) + adv(s, a) - mean_a' adv(s, a')`, equation 9.

    [..., F] -> QOut. `widths` are the hidden layers of each of the two streams (the paper: 512 after the convolutions).
    The gradient that enters the base is multiplied by `base_gradient` (the paper: 1/sqrt(2)).
    Source: Wang et al. 2016.
    """

    def __init__(
        self,
        action: ActionSpec,
        widths: Sequence[int] = (),
        activation: str = "relu",
        noisy: bool = False,
        base_gradient: float = 1.0,
    ) -> None:
        super().__init__(action, widths, activation, noisy)
        self.base_gradient = base_gradient

    def make(self, features: int) -> None:
        self.value = self.stream(features, 1)
        self.advantage = self.stream(features, self.actions)

    def forward(self, x: Tensor) -> QOut:
        if self.base_gradient != 1.0:
            still = x.detach()
            x = still + self.base_gradient * (x - still)  # the same numbers: only the gradient is scaled
        adv = self.advantage(x)
        return QOut(self.value(x) + adv - adv.mean(-1, keepdim=True))

    def in_numpy(self) -> Form | None:
        value, advantage = in_numpy(self.value), in_numpy(self.advantage)
        if value is None or advantage is None:
            return None

        def forward(x: Array) -> QOut:
            adv = advantage(x)
            return QOut(value(x) + adv - adv.mean(-1, keepdims=True))

        return forward


class DistributionalHead(ActionValueHead):
    """What C51 and quantile heads share: `outputs` numbers per action, dueling per number if asked (Rainbow)."""

    def __init__(
        self, action: ActionSpec, outputs: int, dueling: bool, widths: Sequence[int], activation: str, noisy: bool
    ) -> None:
        super().__init__(action, widths, activation, noisy)
        self.outputs, self.dueling = outputs, dueling

    def make(self, features: int) -> None:
        self.advantage = self.stream(features, self.actions * self.outputs)
        if self.dueling:
            self.value = self.stream(features, self.outputs)

    def numbers(self, x: Tensor) -> Tensor:
        """[..., F] -> [..., A, K]."""
        adv = self.advantage(x).unflatten(-1, (self.actions, self.outputs))
        return self.value(x).unsqueeze(-2) + adv - adv.mean(-2, keepdim=True) if self.dueling else adv

    def numbers_in_numpy(self) -> Callable[[Array], Array] | None:
        """The same for arrays [B, F]."""
        advantage, value = in_numpy(self.advantage), in_numpy(self.value) if self.dueling else None
        if advantage is None or (self.dueling and value is None):
            return None
        shape = (-1, self.actions, self.outputs)

        def forward(x: Array) -> Array:
            numbers: Array = advantage(x).reshape(shape)
            return numbers if value is None else value(x)[:, None] + numbers - numbers.mean(1, keepdims=True)

        return forward


class C51Head(DistributionalHead):
    """A categorical distribution over returns per action, on `atoms` evenly spaced values from `v_min` to `v_max`.

    `p_i(s, a) = softmax_i`, `q = Σ_i z_i p_i`. [..., F] -> C51Out. The support must cover the (discounted) returns; 51
    atoms on [-10, 10] are the paper's for Atari with clipped rewards. Raises ProtoRLError for fewer than 2 atoms or an
    empty range.
    Source: Bellemare, Dabney and Munos 2017; with `dueling`, Hessel et al. 2018 (Rainbow).
    """

    atoms: Tensor

    def __init__(
        self,
        action: ActionSpec,
        atoms: int = 51,
        v_min: float = -10.0,
        v_max: float = 10.0,
        dueling: bool = False,
        widths: Sequence[int] = (),
        activation: str = "relu",
        noisy: bool = False,
    ) -> None:
        super().__init__(action, atoms, dueling, widths, activation, noisy)
        if atoms < 2 or not v_min < v_max:
            raise ProtoRLError(
                f"C51Head cannot put {atoms} atoms on [{v_min}, {v_max}]: it needs at least 2 and v_min below v_max"
            )
        self.register_buffer("atoms", torch.linspace(v_min, v_max, atoms), persistent=False)

    def forward(self, x: Tensor) -> C51Out:
        log_p = torch.log_softmax(self.numbers(x), dim=-1)
        return C51Out((log_p.exp() * self.atoms).sum(-1), log_p, self.atoms)

    def in_numpy(self) -> Form | None:
        numbers, atoms = self.numbers_in_numpy(), view(self.atoms)
        if numbers is None:
            return None

        def forward(x: Array) -> C51Out:
            z = numbers(x)
            z = z - z.max(-1, keepdims=True)
            log_p: Any = z - np.log(np.exp(z).sum(-1, keepdims=True))
            return C51Out(np.exp(log_p) @ atoms, log_p, atoms)  # type: ignore[arg-type]

        return forward


class QuantileHead(DistributionalHead):
    """`quantiles` numbers per action at the levels (i + 1/2) / quantiles; `q` is their mean. [..., F] -> QuantileOut.

    Raises ProtoRLError for fewer than 1. Source: Dabney et al. 2018 (QR-DQN), 200 quantiles.
    """

    def __init__(
        self,
        action: ActionSpec,
        quantiles: int = 200,
        dueling: bool = False,
        widths: Sequence[int] = (),
        activation: str = "relu",
        noisy: bool = False,
    ) -> None:
        super().__init__(action, quantiles, dueling, widths, activation, noisy)
        if quantiles < 1:
            raise ProtoRLError(f"QuantileHead needs at least 1 quantile, got {quantiles}")

    def forward(self, x: Tensor) -> QuantileOut:
        quantiles = self.numbers(x)
        return QuantileOut(quantiles.mean(-1), quantiles)

    def in_numpy(self) -> Form | None:
        numbers = self.numbers_in_numpy()
        if numbers is None:
            return None

        def forward(x: Array) -> QuantileOut:
            quantiles: Any = numbers(x)
            return QuantileOut(quantiles.mean(-1), quantiles)

        return forward


class IQNHead(ActionValueHead):
    """The quantile of each action's return at any level τ: `Z_τ(s, a) = f(ψ(s) ⊙ φ(τ))_a`, ψ(s) being the features.

    `φ(τ) = relu(W cos(π i τ) + b)`, i = 0..cosines-1 (equation 4). [..., F] and levels `tau` [..., N] -> QuantileOut. Without
    them, `levels` evenly spaced ones, the midpoints, the same every time. `widths`: hidden layers of f (the paper: 512, on
    features right after the convolutions). `dueling`: equation 9 of Wang et al. 2016 at each level.
    Raises ProtoRLError for fewer than 1 level or cosine. Source: Dabney et al. 2018 (IQN), section 3.1: 64 cosines.
    """

    frequencies: Tensor

    def __init__(
        self,
        action: ActionSpec,
        levels: int = 32,
        cosines: int = 64,
        dueling: bool = False,
        widths: Sequence[int] = (),
        activation: str = "relu",
        noisy: bool = False,
    ) -> None:
        super().__init__(action, widths, activation, noisy)
        for name, value in (("levels", levels), ("cosines", cosines)):
            if value < 1:
                raise ProtoRLError(f"IQNHead needs at least 1 of its {name}, got {value}")
        self.levels, self.cosines, self.dueling = levels, cosines, dueling
        self.register_buffer("frequencies", math.pi * torch.arange(cosines), persistent=False)

    def make(self, features: int) -> None:
        self.embedding = linear(self.cosines, features, self.noisy)
        self.advantage = self.stream(features, self.actions)
        if self.dueling:
            self.value = self.stream(features, 1)

    def embed(self, tau: Tensor) -> Tensor:
        """φ(τ): [..., N] -> [..., N, F]."""
        phi: Tensor = self.embedding(torch.cos(tau.unsqueeze(-1) * self.frequencies))
        return phi.relu()

    def forward(self, x: Tensor, tau: Tensor | None = None) -> QuantileOut:
        if tau is None:
            tau = quantile_levels(self.levels, x.device).expand(*x.shape[:-1], self.levels)
        joint = x.unsqueeze(-2) * self.embed(tau)  # [..., N, F]
        z = self.advantage(joint)  # [..., N, A]
        if self.dueling:
            z = self.value(joint) + z - z.mean(-1, keepdim=True)
        quantiles = z.transpose(-1, -2)
        return QuantileOut(quantiles.mean(-1), quantiles)
