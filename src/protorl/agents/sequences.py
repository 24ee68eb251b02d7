"""Learning from sequences: what agents share whose network may remember."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from protorl.agents.agent import Agent
from protorl.data import Batch, Carry, ProtoRLError, tree_map
from protorl.networks import unroll

STARTS = ("stored", "zero")


class SequenceLearner(Agent):
    """Mixed into agents whose memory's view is `Sequence`. Rows t of a batch are [T, B], T = burn_in + length + n: `seen`
    (observation, start of an episode, action and reward before), `action`, `reward` and `discount` of n steps, `successor` (the
    row to bootstrap from), `mask` (1 where a row is trained).

    burn_in: rows of each sequence that are not learned from, as the view's. eta: weight of the largest error in a sequence's
    priority. start: what was carried when a sequence was taken ("stored"), or "zero". Raises ProtoRLError for others.
    """

    def __init__(self, *args: Any, burn_in: int = 40, eta: float = 0.9, start: str = "stored", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if start not in STARTS:
            raise ProtoRLError(f"start {start!r} is unknown: use {' or '.join(STARTS)}")
        if not 0 <= eta <= 1:
            raise ProtoRLError(f"eta {eta} is a weight: use a number in [0, 1]")
        self.burn_in, self.eta, self.start = burn_in, eta, start

    def carried(self, batch: Batch) -> Carry:
        """What the networks remember where the sequences begin, [B, ...]."""
        stored: Carry = self.core.started(batch)
        return stored if self.start == "stored" else tree_map(torch.zeros_like, stored)

    def unrolled(self, network: nn.Module, batch: Batch) -> Tensor:
        """Q of what is seen in each row after the burn-in, [T - burn_in, B, ..., A]."""
        before, rest = (tree_map(rows, batch.seen) for rows in (self.burnt, self.kept))
        with torch.no_grad():
            _, carry = unroll(network, before, self.carried(batch))
        out, _ = unroll(network, rest, carry)
        q: Tensor = out.q
        return q

    def burnt(self, column: Tensor) -> Tensor:
        """A column's rows of the burn-in."""
        return column[: self.burn_in]

    def kept(self, column: Tensor) -> Tensor:
        """A column's rows after it."""
        return column[self.burn_in :]

    def following(self, value: Tensor, batch: Batch) -> Tensor:
        """Of values of each row after the burn-in [T - burn_in, B], those of the rows' successors."""
        return value.gather(0, self.kept(batch.successor) - self.burn_in)
