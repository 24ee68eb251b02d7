"""Critics of what the agents of a team do together, or each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from protorl.data import EnvSpec, ObsSpec, ProtoRLError
from protorl.networks.actor_critic import EnsembleLinear, EnsembleNorm, ensemble
from protorl.networks.bases import MLP


class TeamCritics(nn.Module):
    """K critics for each of M agents, as one batch of matrix products: `critics(obs, action)` -> q [K, M, B], what everybody's
    critics say of the actions [B, M, A] of all, choices as one-hot.

    With `own` [B, M, A], agent i's critics judge `action` with own_i in the place of a_i: so a gradient reaches agent i through
    what it does itself, and through nothing else. members: of the first so many of each agent's critics alone.

    inputs: how many numbers `seen` gives. widths, activation, bound, layer_norm: as of a `QEnsemble`. What they look at is for
    subclasses to say.
    """

    def __init__(
        self,
        inputs: int,
        agents: int,
        widths: Sequence[int] = (64, 64),
        activation: str = "relu",
        k: int = 1,
        bound: float | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ProtoRLError(f"an ensemble of {k} critics is impossible: use 1 or more")
        self.agents, self.k = agents, k
        self.layers = nn.Sequential(*ensemble(k * agents, inputs, widths, activation, 1, bound, layer_norm))

    def seen(self, obs: Any, action: Tensor, own: Tensor | None) -> Tensor:
        """What the critics look at: [M, B, F], or [B, F] where it is the same for all."""
        raise NotImplementedError

    def forward(self, obs: Any, action: Tensor, own: Tensor | None = None, members: int | None = None) -> Tensor:
        k = self.k if members is None else members
        x = self.seen(obs, action, own)
        if x.dim() == 3:
            x = x.expand(k, *x.shape).flatten(0, 1)
        for layer in self.layers:
            x = layer(x, k * self.agents) if isinstance(layer, EnsembleLinear | EnsembleNorm) else layer(x)
        return x.reshape(k, self.agents, x.shape[1])


class CentralCritics(TeamCritics):
    """Q_i(x, a_1, ..., a_M): each sees the common state x and everybody's action. Source: Lowe et al. 2017 (MADDPG),
    section 4.1."""

    def __init__(self, spec: EnvSpec, **critics: Any) -> None:
        team, obs = team_of(spec)
        base = MLP(obs["state"], ())
        super().__init__(base.features + team.size * action_numbers(spec), team.size, **critics)
        self.base = base

    def seen(self, obs: Any, action: Tensor, own: Tensor | None) -> Tensor:
        state = self.base(obs["state"])  # [B, S]
        if own is None:
            return torch.cat([state, action.flatten(1)], -1)
        me = torch.eye(self.agents, dtype=torch.bool, device=action.device)[:, None, :, None]
        joint = torch.where(me, own, action)  # [M, B, M, A]
        return torch.cat([state.expand(self.agents, *state.shape), joint.flatten(2)], -1)


class LocalCritics(TeamCritics):
    """Q_i(o_i, a_i): each sees its own agent's observation and action alone, so that every agent learns for itself. Source: the
    DDPG with which Lowe et al. 2017 compare."""

    def __init__(self, spec: EnvSpec, **critics: Any) -> None:
        team, _ = team_of(spec)
        one: Any = spec.member.obs
        base = MLP(one["obs"] if isinstance(one, dict) else one, ())
        super().__init__(base.features + action_numbers(spec), team.size, **critics)
        self.base = base

    def seen(self, obs: Any, action: Tensor, own: Tensor | None) -> Tensor:
        done = action if own is None else own
        return torch.cat([self.base(obs["obs"]), done], -1).transpose(0, 1)


def team_of(spec: EnvSpec) -> tuple[Any, dict[str, ObsSpec]]:
    """Who plays together, and the entries of what they see. Raises ProtoRLError where rows are no teams."""
    if spec.team is None or spec.team.lanes or not isinstance(spec.obs, dict):
        raise ProtoRLError(f"the rows of {spec.id} are no teams: make its environments with as_teams=True")
    return spec.team, spec.obs  # type: ignore[return-value]


def action_numbers(spec: EnvSpec) -> int:
    """How many numbers a critic sees of one agent's action: a choice is one-hot. Raises ProtoRLError for several choices at
    once."""
    one = spec.member.action
    if one.kind == "multidiscrete":
        raise ProtoRLError(
            f"critics of joint actions see one choice or a vector of each agent, but those of {spec.id} are {one.kind}"
        )
    return one.n if one.kind == "discrete" else one.numbers
