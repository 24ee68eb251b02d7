"""Recurrent replay distributed DQN (R2D2).

Kapturowski, Ostrovski, Quan, Munos and Dabney 2019, "Recurrent experience replay in distributed reinforcement learning", ICLR,
section 2.3 and equation 1:

    y_t = h(sum_{k<n} gamma^k r_{t+k} + gamma^n h^-1(Q(s_{t+n}, a*; theta-))),     a* = argmax_a Q(s_{t+n}, a; theta)
    h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x,     p = eta max_t |delta_t| + (1 - eta) mean_t |delta_t|

over sequences, whose first steps only warm up what both networks remember: from the state that was stored when they were taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from protorl.agents.dqn import DQN
from protorl.data import Batch, Carry, ProtoRLError, tree_map
from protorl.functional import double_q, huber, mixed_priority, pick, rescale, rescale_inverse, td_target
from protorl.networks import Network, unroll


def same(x: Tensor) -> Tensor:
    """The scale that changes nothing."""
    return x


SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "h": (rescale, rescale_inverse),
    "none": (same, same),
}
"""What values are predicted as, and the way back."""
STARTS = ("stored", "zero")


class R2D2(DQN):
    """Double Q-learning of sequences, by a network that remembers.

    network: gives `.q`, and has a core (without one it sees single observations, as in the paper's feed-forward ablation). Its
    memory's view is `Sequence`. burn_in: rows of each sequence that are not learned from, as the view's. eta: weight of the
    largest error in a sequence's priority. scale: "h" predicts rescaled values, "none" values. start: what was carried when a
    sequence was taken ("stored"), or "zero". The rest as DQN; kappa is infinite in the paper: the error is squared.

    Rows t of a batch are [T, B], T = burn_in + length + n: `seen` (observation, start of an episode, action and reward before),
    `action`, `reward` and `discount` of n steps, `successor` (the row to bootstrap from), `mask` (1 where a row is trained).

    Differs from the paper: as DQN; the loss is summed over a sequence's steps, which the paper leaves open.
    """

    def __init__(
        self,
        *args: Any,
        burn_in: int = 40,
        eta: float = 0.9,
        scale: str = "h",
        start: str = "stored",
        kappa: float = float("inf"),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, kappa=kappa, **kwargs)
        for name, value, known in (("scale", scale, SCALES), ("start", start, STARTS)):
            if value not in known:
                raise ProtoRLError(f"{name} {value!r} is unknown: use {' or '.join(known)}")
        if not 0 <= eta <= 1:
            raise ProtoRLError(f"eta {eta} is a weight: use a number in [0, 1]")
        self.burn_in, self.eta, self.start = burn_in, eta, start
        self.h, self.h_inverse = SCALES[scale]

    def carried(self, batch: Batch) -> Carry:
        """What the networks remember where the sequences begin, [B, ...]."""
        stored: Carry = self.core.started(batch)
        return stored if self.start == "stored" else tree_map(torch.zeros_like, stored)

    def seen(self, batch: Batch) -> Any:
        """What the networks are shown of a batch, [T, B, ...]."""
        return batch.seen

    def unrolled(self, network: Network, batch: Batch) -> Tensor:
        """Q of what is seen in each row after the burn-in, [T - burn_in, B, A]."""
        before, rest = (tree_map(rows, self.seen(batch)) for rows in (self.burnt, self.kept))
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

    @torch.no_grad()
    def bootstrap(self, batch: Batch, q: Tensor) -> Tensor:  # type: ignore[override]
        """h^-1(Q(s_{t+n}, argmax_a Q(s_{t+n}, a; theta); theta-)) [T - burn_in, B]; `q` are the online network's values."""
        value = double_q(q, self.unrolled(self.target, batch))
        return self.h_inverse(value.gather(0, self.kept(batch.successor) - self.burn_in))

    @torch.no_grad()
    def target_value(self, batch: Batch, q: Tensor) -> Tensor:
        """y_t [T - burn_in, B]; `q` are the online network's values."""
        return self.h(td_target(self.kept(batch.reward), self.kept(batch.discount), self.bootstrap(batch, q)))

    def td_error(self, batch: Batch) -> Tensor:
        """y_t - Q(s_t, a_t; theta) [T - burn_in, B], 0 in rows that are not trained."""
        q = self.unrolled(self.network, batch)
        y, action, mask = self.target_value(batch, q), self.kept(batch.action), self.kept(batch.mask)
        return mask * (y - pick(q, action))

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sum_t huber(delta_t), and eta max_t |delta_t| + (1 - eta) mean_t |delta_t|, both [B]."""
        td = self.td_error(batch)
        return huber(td, self.kappa).sum(0), mixed_priority(td, self.kept(batch.mask), self.eta)
