"""Cores stand between base and head and remember: what they know of an episode goes from step to step as the carry.

A core is made without knowing how many features it will see; `Network(base, head, core)` tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from protorl.data import ActionSpec, Array, Batch, Carry, Field, ProtoRLError, Seen, tree_map
from protorl.networks import recurrence  # noqa: F401 - it registers protorl::lstm
from protorl.networks.axes import agents_obs, agents_seen, apart, teams_out, together
from protorl.networks.kernels import gru_step, lstm_step
from protorl.networks.numpy_forms import view

WORTH_WRITING_OUT = 16
"""Steps from which on an LSTM's recurrence is faster as one operation."""


class Asked(NamedTuple):
    """What a network with a core is asked: about what is seen, [N, ...] or [T, B, ...], with the carry before it [N, ...]."""

    seen: Any  # a `Seen`, or another record with at least its fields
    carry: Any


class Answer(NamedTuple):
    """What a network with a core says: the head's output, and the carry after it."""

    out: Any
    carry: Any


class NoCore:
    """The core of a feed-forward network: it carries nothing, and sees the observation only. As `Core`, which says more."""

    def build(self, features: int) -> int:
        return features

    def trunk(self, base: nn.Module, obs: Any) -> tuple[Tensor, Carry]:
        return base(obs), ()

    def shown(self, obs: Any) -> Any:
        return obs

    def answer(self, out: Any, carry: Carry) -> Any:
        return out

    def asked(self, seen: Any, carry: Carry) -> Any:
        return seen.obs

    def ask(self, network: nn.Module, obs: Any) -> Any:
        return network(obs)

    def told(self, out: Any, carry: Carry) -> tuple[Any, Carry]:
        return out, carry

    def along(self, network: nn.Module, seen: Any, carry: Carry) -> tuple[Any, Carry]:
        return network(seen.obs), carry

    def initial_carry(self, n: int) -> Carry:
        return ()

    def columns(self) -> dict[str, Field]:
        return {}

    def stored(self, carry: Carry) -> Mapping[str, Array]:
        return {}

    def started(self, batch: Batch) -> Carry:
        return ()

    def of_teams(self, size: int) -> None:
        pass

    def by_agent(self, size: int, obs: Any) -> Any:
        return agents_obs(obs)

    def by_team(self, size: int, out: Any, axis: int) -> Any:
        return teams_out(out, size, axis)

    reads: tuple[str, ...] = ()

    def sequence(self, steps: int) -> int | None:
        return None

    def outputs(self, network: nn.Module, batch: Batch) -> Any:
        return network(batch.obs)

    def next_outputs(self, network: nn.Module, rollout: Batch, rows: Tensor) -> Any:
        return network(tree_map(lambda column: column[rows], rollout.next_obs))


NO_CORE = NoCore()
NOW = ("obs", "first", "last_action", "last_reward")
"""The columns of a rollout that are a `Seen`, in its order."""


def core_of(network: nn.Module) -> Core | NoCore:
    """What a network remembers by; none, where it has no `core`."""
    found: Core | NoCore = getattr(network, "core", NO_CORE)
    return found


def unroll(network: nn.Module, seen: Any, carry: Any) -> tuple[Any, Any]:
    """Output and carry of any network, with or without a core, for what is seen: a `Seen` of tensors, [N, ...] for one step or
    [T, B, ...] for many, with the carry before the (first) step."""
    return core_of(network).along(network, seen, carry)


class Core(nn.Module):
    """What remembers: features [N, F] of one step, or [T, B, F] of many, become [..., size], step by step.

    Where `first` is true an episode starts, and what was carried is forgotten. One step and an unroll are the same function.

    size: numbers it remembers, and says. inputs: what it sees besides the base's features, such as `LastAction` and
    `LastReward`. Raises ProtoRLError for a size below 1, or where two networks share it whose bases differ in features.
    """

    kind: ClassVar[type[tuple[Any, ...]]]
    """Of its carry: a NamedTuple of arrays [N, size]."""
    cell_class: ClassVar[type[nn.LSTMCell | nn.GRUCell]]

    def __init__(self, size: int, inputs: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        if size < 1:
            raise ProtoRLError(f"core_size {size} is too small: a core remembers at least 1 number")
        self.size = size
        self.each: tuple[int, ...] = ()
        self.inputs = nn.ModuleList(inputs)

    def build(self, features: int) -> int:
        """Make the weights for so many features of the base, once; how many come out. A second network may share it."""
        seen: list[Any] = list(self.inputs)
        inputs = features + sum(part.features for part in seen)
        if not hasattr(self, "cell"):
            self.cell = self.cell_class(inputs, self.size)
        elif self.cell.input_size != inputs:
            raise ProtoRLError(
                f"this {type(self).__name__} belongs to a network already, and reads {self.cell.input_size} features where "
                f"this one has {inputs}: make a new one"
            )
        return self.size

    # Forward

    def trunk(self, base: nn.Module, seen: Any, carry: Any) -> tuple[Tensor, Any]:
        """What the head sees, [..., size], and the carry after it."""
        x = torch.cat([base(seen.obs), *[part(seen) for part in self.inputs]], -1)
        if seen.first.dim() > 1:
            return self.unroll(x, seen.first, carry)
        y, carry = self.unroll(x.unsqueeze(0), seen.first.unsqueeze(0), carry)
        return y.squeeze(0), carry

    def unroll(self, x: Tensor, first: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """[T, B, F], first [T, B], carry [B, size] each -> [T, B, size], and the carry after the last row.

        The product with the inputs is one for all T; resets are factors 0, so that the same operations run whatever is in
        `first`.
        """
        projected, kept = self.project(x), (~first).to(x.dtype).unsqueeze(-1)
        outputs = []
        for gates, keep in zip(projected.unbind(0), kept.unbind(0)):
            carry = self.advance(gates, self.kind(*[keep * part for part in carry]))
            outputs.append(carry[0])
        return torch.stack(outputs) if outputs else x.new_zeros(*x.shape[:2], self.size), carry

    def project(self, x: Tensor) -> Tensor:
        """What the inputs add to the gates, [T, B, gates]."""
        raise NotImplementedError

    def advance(self, gates: Tensor, carry: Any) -> Any:
        """One step: the carry after it, whose first part is what comes out."""
        raise NotImplementedError

    def weights(self) -> list[Array]:
        """The cell's own, for NumPy: by input [F, gates], by memory [size, gates], and two biases [gates]."""
        cell = self.cell
        return [view(p).T for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)]

    # What a network with a core is asked and says

    def shown(self, seen: Any, carry: Any) -> Any:
        """The observation in what a network is asked about."""
        return seen.obs

    def answer(self, out: Any, carry: Any) -> Answer:
        return Answer(out, carry)

    def asked(self, seen: Any, carry: Any) -> Asked:
        """The question in one piece, as `Agent.infer` and what stands in its place take it."""
        return Asked(seen._replace(pending=None), carry)

    def ask(self, network: nn.Module, asked: Asked) -> Any:
        return network(*asked)

    def told(self, answer: Answer, carry: Any) -> tuple[Any, Any]:
        """Output, and the carry as it is between steps: in NumPy."""
        return answer.out, self.kind(*[p.numpy(force=True) if isinstance(p, Tensor) else p for p in answer.carry])

    def along(self, network: nn.Module, seen: Any, carry: Any) -> tuple[Any, Any]:
        answer: Answer = network(seen, carry)
        return answer

    # Of teams

    def of_teams(self, size: int) -> None:
        """From now on it remembers for `size` agents in each row: its carry is [N, M, size]."""
        self.each = (size,)

    def by_agent(self, size: int, seen: Any, carry: Any) -> Asked:
        """What a network is asked about teams, in one piece, about their agents one by one."""
        return Asked(agents_seen(seen, size), tree_map(apart, carry))

    def by_team(self, size: int, answer: Any, axis: int) -> Any:
        """The answer about all agents as that about teams; axis: of the rows."""
        carry: Any = tree_map(lambda part: together(part, size), answer.carry)
        return Answer(teams_out(answer.out, size, axis), carry)

    # The carry in a memory

    def initial_carry(self, n: int) -> Carry:
        """Zeros."""
        return self.kind(*[np.zeros((n, *self.each, self.size), np.float32) for _ in self.names])

    @property
    def names(self) -> list[str]:
        """The columns that the carry's parts are stored in."""
        return [f"carry_{name}" for name in self.kind._fields]  # type: ignore[attr-defined]

    def columns(self) -> dict[str, Field]:
        """The carry before each row that starts an example."""
        return {name: Field((*self.each, self.size), np.dtype(np.float32), starts=True) for name in self.names}

    def stored(self, carry: Any) -> Mapping[str, Array]:
        """The carry's parts as columns."""
        return dict(zip(self.names, carry))

    def started(self, batch: Batch) -> Any:
        """The carry with which the examples of a batch start."""
        return self.kind(*[getattr(batch, name) for name in self.names])

    # In learning from rollouts

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of a rollout that `outputs` reads, besides the observation."""
        return (*NOW[1:], *self.names)

    def sequence(self, steps: int) -> int | None:
        """Examples are sequences of so many steps; for a feed-forward network each row is one (None)."""
        return steps

    def outputs(self, network: nn.Module, batch: Batch) -> Any:
        """What a network says along the sequences of a batch, [T, B, ...]."""
        return network(Seen(*[batch.columns[name] for name in NOW]), self.started(batch)).out

    def next_outputs(self, network: nn.Module, rollout: Batch, rows: Tensor) -> Any:
        """What a network says of the successors of some rows of a rollout, [B, ...]: it goes through each such row, and with
        the carry after it through the successor. rows: [T, N] bool."""
        names = ("next_obs", *NOW, *self.names)
        at = Batch({name: tree_map(lambda column: column[rows], rollout.columns[name]) for name in names})
        now = Seen(*[at.columns[name] for name in NOW])
        then = Seen(at.next_obs, torch.zeros_like(at.first), rollout.action[rows], rollout.raw_reward[rows])  # type: ignore[arg-type]
        two: Any = tree_map(lambda *steps: torch.stack(steps), now, then)
        out = network(two, self.started(at)).out
        return type(out)(*[part[1] for part in out])


class LSTMCarry(NamedTuple):
    """h: what the cell said last; c: what it keeps to itself; [N, size] each."""

    h: Any
    c: Any


class LSTM(Core):
    """Long short-term memory.

        i, f, o = σ(W x + U h + b),   g = tanh(W x + U h + b),   c <- f c + i g,   h <- o tanh(c)

    As `Core`. Source: Hochreiter and Schmidhuber 1997; with forget gates, Gers, Schmidhuber and Cummins 2000. The weights are
    those of `torch.nn.LSTMCell`.
    """

    kind = LSTMCarry
    cell_class = nn.LSTMCell

    def project(self, x: Tensor) -> Tensor:
        return linear(x, self.cell.weight_ih, self.cell.bias_ih + self.cell.bias_hh)

    def advance(self, gates: Tensor, carry: LSTMCarry) -> LSTMCarry:
        i, f, g, o = torch.addmm(gates, carry.h, self.cell.weight_hh.t()).chunk(4, -1)
        c = f.sigmoid() * carry.c + i.sigmoid() * g.tanh()
        return LSTMCarry(o.sigmoid() * c.tanh(), c)

    def unroll(self, x: Tensor, first: Tensor, carry: LSTMCarry) -> tuple[Tensor, LSTMCarry]:
        if len(x) < WORTH_WRITING_OUT or x.device.type != "cpu":
            return super().unroll(x, first, carry)
        keep = (~first).to(x.dtype).unsqueeze(-1)
        h, c, *_ = torch.ops.protorl.lstm(self.project(x), keep, carry.h, carry.c, self.cell.weight_hh)
        return h, LSTMCarry(h[-1], c[-1])

    def in_numpy(self) -> Callable[..., Any]:
        by_input, by_memory, bias, bias_too = self.weights()

        def forward(x: Array, carry: LSTMCarry) -> LSTMCarry:
            return LSTMCarry(*lstm_step(np.dot(x, by_input), np.dot(carry.h, by_memory), bias, bias_too, carry.c))

        return forward


class GRUCarry(NamedTuple):
    """h: what the unit said last [N, size]."""

    h: Any


class GRU(Core):
    """Gated recurrent unit.

        r, z = σ(W x + b + U h + d),   n = tanh(W x + b + r (U h + d)),   h <- (1 - z) n + z h

    As `Core`. Source: Cho et al. 2014. The weights are those of `torch.nn.GRUCell`.
    """

    kind = GRUCarry
    cell_class = nn.GRUCell

    def project(self, x: Tensor) -> Tensor:
        return linear(x, self.cell.weight_ih, self.cell.bias_ih)

    def advance(self, gates: Tensor, carry: GRUCarry) -> GRUCarry:
        r, z, n = gates.chunk(3, -1)
        by_r, by_z, by_n = linear(carry.h, self.cell.weight_hh, self.cell.bias_hh).chunk(3, -1)
        z = (z + by_z).sigmoid()
        n = (n + (r + by_r).sigmoid() * by_n).tanh()
        return GRUCarry(n + z * (carry.h - n))

    def in_numpy(self) -> Callable[..., Any]:
        by_input, by_memory, bias, bias_too = self.weights()

        def forward(x: Array, carry: GRUCarry) -> GRUCarry:
            return GRUCarry(gru_step(np.dot(x, by_input), np.dot(carry.h, by_memory), bias, bias_too, carry.h))

        return forward


# What a core may see besides the base's features


class LastAction(nn.Module):
    """The action before, [..., features]: a choice as one-hot, all 0 at the start of an episode; numbers as they are."""

    codes: Tensor

    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        kinds = {"discrete": (action.n,), "multidiscrete": action.nvec}
        counts = kinds.get(action.kind, ())
        self.numbers = action.numbers
        self.features = sum(counts) if counts else action.numbers
        which = [place for place, n in enumerate(counts) for _ in range(n)]
        codes = np.array([which, [code for n in counts for code in range(n)]], np.int64).reshape(2, -1)
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)

    def forward(self, seen: Any) -> Tensor:
        action = seen.action.reshape(*seen.first.shape, self.numbers)
        if self.codes.shape[1]:  # numbers have none
            place, code = self.codes
            action = action.index_select(-1, place) == code
        return action.to(torch.float32) * (~seen.first).unsqueeze(-1)

    def in_numpy(self) -> Callable[..., Any]:
        place, code = view(self.codes)

        def forward(seen: Any) -> Array:
            action = seen.action.reshape(len(seen.first), -1)
            if len(code):
                action = action[:, place] == code
            return (action * ~seen.first[:, None]).astype(np.float32)

        return forward


class LastReward(nn.Module):
    """The reward before, as the environment gave it: [..., 1]; 0 at the start of an episode."""

    features = 1

    def forward(self, seen: Any) -> Tensor:
        reward: Tensor = seen.reward.to(torch.float32).unsqueeze(-1)
        return reward

    def in_numpy(self) -> Callable[..., Any]:
        return lambda seen: seen.reward[:, None].astype(np.float32)  # type: ignore[attr-defined]
