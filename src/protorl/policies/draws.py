"""What policies share: values as numpy, and one stream of random numbers per environment row."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from protorl.data import ActionSpec, Array, ProtoRLError, State
from protorl.rng import RowStreams


def as_numpy(values: torch.Tensor | Array) -> Array:
    """The same numbers in numpy, with one transfer if they are on another device."""
    return values.numpy(force=True) if isinstance(values, torch.Tensor) else values


def discrete(action: ActionSpec, policy: str) -> int:
    """How many actions there are. Raises ProtoRLError unless they are discrete."""
    if action.kind != "discrete":
        raise ProtoRLError(f"{policy} chooses among discrete actions, but these actions are {action.kind!r}")
    return action.n


def other_rows(policy: str, serves: int, given: int) -> ProtoRLError:
    """The sentence for a policy that is given other environments than it serves."""
    return ProtoRLError(
        f"this {policy} policy serves {serves} environments but was given {given} rows: "
        "make one policy for each set of environments"
    )


class Draws:
    """Random numbers for the rows (environments) of a policy; without `rows`, the first call decides that they are 0..N-1.

    Uniform in [0, 1), or standard normal. Raises ProtoRLError when a later call has another number of rows.
    """

    def __init__(self, seed: int, name: str, rows: Sequence[int] | None, block: int = 1024, normal: bool = False) -> None:
        self.seed, self.name, self.block, self.normal = seed, name, block, normal
        self.open(() if rows is None else rows)

    def open(self, rows: Sequence[int]) -> None:
        self.n = len(rows)
        self.streams = RowStreams(self.seed, self.name, rows, self.block, self.normal)

    def take(self, n: int, k: int) -> Array:
        """The next [n, k] float64."""
        if n != self.n:
            if self.n > 0:
                raise other_rows(self.name, self.n, n)
            self.open(range(n))
        return self.streams.take(k)

    def state_dict(self) -> State:
        return self.streams.state_dict()

    def load_state_dict(self, state: State) -> None:
        if len(state["starts"]) != self.n:
            self.open(range(len(state["starts"])))
        self.streams.load_state_dict(state)
