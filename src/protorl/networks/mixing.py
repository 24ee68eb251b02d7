"""Networks of teams: one that answers for every agent, and mixers, which make the values of what all do one value.

VDN is a sum; QMIX is monotone in the value of each agent, and sees the state of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from protorl.data import ObsSpec, ProtoRLError
from protorl.networks.axes import rows_axis
from protorl.networks.bases import MLP
from protorl.networks.cores import Core, NoCore, core_of
from protorl.networks.layers import dense
from protorl.networks.numpy_forms import Form, in_numpy


class TeamNetwork(nn.Module):
    """The network of one agent, asked about all agents of each row at once: outputs are [..., N, M, *X] where its own would be
    [..., N * M, *X].

    network: sees what `EnvSpec.member` says, and may have a core, which then carries [N, M, size]. size: M.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.core.of_teams(size)

    @property
    def core(self) -> Core | NoCore:
        """What each agent remembers by."""
        return core_of(self._modules["network"])  # type: ignore[arg-type]  # asked in every step: not by way of __getattr__

    def forward(self, *asked: Any) -> Any:
        core, axis = self.core, rows_axis(self.core.shown(*asked))
        return core.by_team(self.size, core.ask(self.network, core.by_agent(self.size, *asked)), axis)

    def in_numpy(self) -> Form | None:
        form, core, size = in_numpy(self.network), self.core, self.size
        by_agent: Any = partial(core.by_agent, size)
        return None if form is None else lambda asked: core.by_team(size, form(core.ask(by_agent, asked)), 0)


class Sum(nn.Module):
    """Q_tot = Σ_i Q_i: [..., M] and the state -> [...]. Source: Sunehag et al. 2018 (VDN), equation 3."""

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        return q.sum(-1)


class Monotone(nn.Module):
    """Q_tot is monotone in every Q_i, by weights which are made of the state s, and not negative:

        Q_tot = |W_2(s)| · elu(|W_1(s)| q + b_1(s)) + b_2(s),     ∂Q_tot/∂Q_i >= 0

    W_1, W_2 and b_1 are linear in s (with `hyper_widths`, W_1 and W_2 have hidden layers of ReLU), b_2 has one hidden layer of
    ReLU. q [..., M], state [..., *S] -> [...].

    state: its specification. agents: M. size: numbers of the hidden layer. hyper_widths: hidden layers of the hypernetworks of
    weights (the paper: none; EPyMARL: one of 64). Raises ProtoRLError for a size below 1.
    Source: Rashid et al. 2018 (QMIX), section 4.
    """

    def __init__(self, state: ObsSpec, agents: int, size: int = 32, hyper_widths: Sequence[int] = ()) -> None:
        super().__init__()
        if size < 1:
            raise ProtoRLError(f"mixing_size {size} is too small: the mixing network has at least 1 number in between")
        self.agents, self.size = agents, size
        self.inputs = MLP(state, ())  # of any shape, as numbers
        self.w1, self.w2 = (self.hyper(outputs, hyper_widths) for outputs in (agents * size, size))
        self.b1, self.b2 = self.hyper(size, ()), self.hyper(1, (size,))

    def hyper(self, outputs: int, widths: Sequence[int]) -> nn.Sequential:
        """A network from the state to `outputs` numbers."""
        features = self.inputs.features
        return nn.Sequential(*dense(features, widths, "relu"), nn.Linear(widths[-1] if widths else features, outputs))

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        s = self.inputs(state)
        w1 = self.w1(s).abs().unflatten(-1, (self.agents, self.size))  # [..., M, size]
        hidden = elu((q.unsqueeze(-1) * w1).sum(-2) + self.b1(s))
        q_tot: Tensor = (hidden * self.w2(s).abs()).sum(-1) + self.b2(s).squeeze(-1)
        return q_tot


class Mixing(nn.Module):
    """The action values of every agent, and what those of a joint action are worth together.

    Called with what teams observe it answers as `network`, a TeamNetwork, does: `.q` [..., N, M, A]. mixer: a module from the
    values of what each does, q [..., M], and the common state [..., *S] to Q_tot [...].
    """

    def __init__(self, network: TeamNetwork, mixer: nn.Module) -> None:
        super().__init__()
        self.network, self.mixer = network, mixer

    @property
    def core(self) -> Core | NoCore:
        """What each agent remembers by."""
        return core_of(self._modules["network"])  # type: ignore[arg-type]

    def forward(self, *asked: Any) -> Any:
        return self.network(*asked)

    def mix(self, q: Tensor, obs: Any) -> Tensor:
        """Q_tot [...] of the values [..., M] of what each agent does; those of the dead count as 0, whatever they are."""
        q_tot: Tensor = self.mixer(torch.where(obs["alive"] != 0, q, 0.0), obs["state"])
        return q_tot

    def in_numpy(self) -> Form | None:
        return in_numpy(self.network)
