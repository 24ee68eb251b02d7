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
from protorl.agents.sequences import SequenceLearner
from protorl.data import Batch, ProtoRLError
from protorl.functional import double_q, huber, mixed_priority, pick, rescale, rescale_inverse, td_target


def same(x: Tensor) -> Tensor:
    """The scale that changes nothing."""
    return x


SCALES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "h": (rescale, rescale_inverse),
    "none": (same, same),
}
"""What values are predicted as, and the way back."""


class R2D2(SequenceLearner, DQN):
    """Double Q-learning of sequences, by a network that remembers.

    network: gives `.q`, and has a core (without one it sees single observations, as in the paper's feed-forward ablation).
    scale: "h" predicts rescaled values, "none" values. burn_in, eta, start, and the columns of a batch: as `SequenceLearner`.
    The rest as DQN; kappa is infinite in the paper: the error is squared.

    Differs from the paper: as DQN; the loss is summed over a sequence's steps, which the paper leaves open.
    """

    def __init__(self, *args: Any, scale: str = "h", kappa: float = float("inf"), **kwargs: Any) -> None:
        super().__init__(*args, kappa=kappa, **kwargs)
        if scale not in SCALES:
            raise ProtoRLError(f"scale {scale!r} is unknown: use {' or '.join(SCALES)}")
        self.h, self.h_inverse = SCALES[scale]

    @torch.no_grad()
    def bootstrap(self, batch: Batch, q: Tensor) -> Tensor:  # type: ignore[override]
        """h^-1(Q(s_{t+n}, argmax_a Q(s_{t+n}, a; theta); theta-)) [T - burn_in, B]; `q` are the online network's values."""
        value = double_q(q, self.unrolled(self.target, batch))
        return self.h_inverse(self.following(value, batch))

    def td_error(self, batch: Batch) -> Tensor:
        """y_t - Q(s_t, a_t; theta) [T - burn_in, B], 0 in rows that are not trained."""
        q = self.unrolled(self.network, batch)
        reward, discount, action, mask = map(self.kept, (batch.reward, batch.discount, batch.action, batch.mask))
        y = self.h(td_target(reward, discount, self.bootstrap(batch, q)))
        return torch.where(mask != 0, y - pick(q, action), 0.0)  # there -inf may stand for what is not available

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sum_t huber(delta_t), and eta max_t |delta_t| + (1 - eta) mean_t |delta_t|, both [B]."""
        td = self.td_error(batch)
        return huber(td, self.kappa).sum(0), mixed_priority(td, self.kept(batch.mask), self.eta)
