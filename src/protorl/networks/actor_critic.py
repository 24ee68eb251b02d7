"""An actor and its critic, and critics of actions: K of them as one batched ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protorl.data import ActionSpec, ProtoRLError, TensorObs
from protorl.networks.bases import Base
from protorl.networks.cores import Core, NoCore, core_of
from protorl.networks.layers import activation_layer
from protorl.networks.masks import masked
from protorl.networks.network import Network, remembering
from protorl.networks.numpy_forms import Form, has_hooks, in_numpy


class ActorCriticOut(NamedTuple):
    """What the policy's head says, and the state value."""

    policy: tuple[Tensor, ...]
    value: Tensor  # [...]


class ActorCritic(nn.Module):
    """A policy network and a critic, owned by one agent: `actor(obs)` acts, `critic` judges.

    Called with observations, where the critic is a network of state values: ActorCriticOut. Both may be given the same
    base and core (a shared trunk): then it sees each observation once. With a core, which both must share, it is called and
    answers as a `Network` with one. Raises ProtoRLError where one of them has a core of its own.
    """

    def __init__(self, actor: Network, critic: nn.Module) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        if any(isinstance(part, Core) for part in self.cores()) and not self.shared:
            raise ProtoRLError("actor and critic share what remembers, or have none: give both the same base and core")

    def cores(self) -> list[Core | NoCore]:
        """The actor's, and the critic's."""
        return [core_of(part) for part in (self.actor, self.critic)]

    @property
    def core(self) -> Core | NoCore:
        """What both remember by."""
        return core_of(self._modules["actor"])  # type: ignore[arg-type]  # asked in every step: not by way of __getattr__

    @property
    def shared(self) -> bool:
        """Whether actor and critic are two heads on one trunk."""
        actor, critic = self.actor, self.critic
        plain = all(type(part).forward is Network.forward and not has_hooks(part) for part in (actor, critic))
        return plain and critic.base is actor.base and critic.core is actor.core

    def forward(self, *seen: Any) -> Any:
        if not self.shared:
            core = self.core
            (policy, carry), (judged, _) = (core.told(part(*seen), ()) for part in (self.actor, self.critic))
            return core.answer(ActorCriticOut(policy, judged.value), carry)
        critic: Any = self.critic
        x, carry = self.actor.core.trunk(self.actor.base, *seen)
        return self.actor.core.answer(
            ActorCriticOut(masked(self.actor.head(x), self.actor.core.shown(*seen)), critic.head(x).value), carry
        )

    def in_numpy(self) -> Form | None:
        if isinstance(self.core, Core):
            second: Any = self.critic.head
            return remembering(self.actor, lambda out, value: ActorCriticOut(out, value.value), second)
        actor, critic = in_numpy(self.actor), in_numpy(self.critic)
        return None if actor is None or critic is None else lambda obs: ActorCriticOut(actor(obs), critic(obs).value)

    def value(self, obs: TensorObs) -> Tensor:
        """State values [...] alone."""
        value: Tensor = self.critic(obs).value
        return value


class EnsembleLinear(nn.Module):
    """K linear layers at once: [K, B, inputs] (or [B, inputs], seen by all) -> [K, B, outputs], one batched product. Of the
    first `members` alone, if asked."""

    def __init__(self, k: int, inputs: int, outputs: int, bound: float | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs) if bound is None else bound
        self.weight = nn.Parameter(torch.empty(k, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(k, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        weight, bias = (self.weight, self.bias) if members is None else (self.weight[:members], self.bias[:members])
        if x.dim() == 2:
            x = x.expand(len(weight), *x.shape)
        return torch.baddbmm(bias, x, weight)


class EnsembleNorm(nn.Module):
    """K layer normalisations at once: [K, B, width] -> [K, B, width]; of the first `members` alone, if asked."""

    def __init__(self, k: int, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(k, 1, width)), nn.Parameter(torch.zeros(k, 1, width))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight[:members] + self.bias[:members]


def ensemble(
    k: int, inputs: int, widths: Sequence[int], activation: str, outputs: int, bound: float | None, layer_norm: bool
) -> list[nn.Module]:
    """The layers of K networks at once, `inputs -> widths[0] -> ... -> outputs`, each with weights of its own."""
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(EnsembleLinear(k, inputs, width))
        if layer_norm:
            layers.append(EnsembleNorm(k, width))
        layers.append(activation_layer(activation))
        inputs = width
    return [*layers, EnsembleLinear(k, inputs, outputs, bound)]


class QEnsemble(nn.Module):
    """K critics of observation and action, as one batch of matrix products: `critic(obs, action)` -> q [K, B], and
    `critic(obs, action, members=1)` -> [1, B] of the first alone. Of several `outputs` each: [K, B, outputs].

    The action joins the features of `base` (an `MLP(obs, [])` passes the observation on, so that both enter the first
    layer; an `MLP(obs, [400])` lets the action enter at the second, as in DDPG), then come dense `widths`. Each member
    starts with weights of its own; the base, if it has weights, is shared. `bound`: last weights in U[-bound, bound].
    `layer_norm` normalises before each activation.
    """

    def __init__(
        self,
        base: Base,
        action: ActionSpec,
        widths: Sequence[int] = (256, 256),
        activation: str = "relu",
        k: int = 2,
        bound: float | None = None,
        layer_norm: bool = False,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if action.kind != "box":
            raise ProtoRLError(f"QEnsemble judges box actions, but these actions are {action.kind!r}: use QHead")
        for number, things in ((k, "critics"), (outputs, "outputs")):
            if number < 1:
                raise ProtoRLError(f"an ensemble of {number} {things} is impossible: use 1 or more")
        self.base, self.outputs = base, outputs
        inputs = base.features + math.prod(action.shape)
        self.layers = nn.Sequential(*ensemble(k, inputs, widths, activation, outputs, bound, layer_norm))

    def forward(self, obs: TensorObs, action: Tensor, members: int | None = None) -> Tensor:
        x = torch.cat([self.base(obs), action.flatten(1)], -1)
        for layer in self.layers:
            x = layer(x, members) if isinstance(layer, EnsembleLinear | EnsembleNorm) else layer(x)
        return x.squeeze(-1) if self.outputs == 1 else x
