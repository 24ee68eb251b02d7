"""Value decomposition: one action value for a team, made of those of its agents (VDN, and QMIX by another mixer).

Sunehag et al. 2018, "Value-decomposition networks for cooperative multi-agent learning based on team reward", AAMAS, arXiv
1706.05296, equation 3; Rashid et al. 2018, "QMIX: monotonic value function factorisation for deep multi-agent reinforcement
learning", ICML, arXiv 1803.11485, equations 5 and 6:

    Q_tot(h, a) = f(Q_1(h_1, a_1), ..., Q_M(h_M, a_M); s),     f = sum in VDN,  monotone in each Q_i in QMIX
    y = sum_i r_i + gamma Q_tot(h', a*; theta-),    a*_i = argmax_a Q_i(h'_i, a; theta),    minimise (y - Q_tot(h, a; theta))^2

where h_i is what agent i remembers, and s the state that learning alone sees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protorl.agents.dqn import DQN
from protorl.agents.sequences import SequenceLearner
from protorl.data import Batch, TensorObs, tree_map
from protorl.functional import double_q, huber, mixed_priority, pick, td_target
from protorl.networks import Mixing


class VDN(SequenceLearner, DQN):
    """Double Q-learning of what agents do together, from what they are paid together.

    network: a `Mixing` of the agents' values and a mixer (`Sum`: VDN; `Monotone`: QMIX; one of your own). Rows are teams: in a
    batch of sequences `seen.obs` is a dict of [T, B, M, ...], `action` and `reward` are [T, B, M]. burn_in, eta, start: as
    `SequenceLearner`. The rest as DQN; the error is squared unless `kappa` says otherwise.

    Each agent chooses for itself, among what is available to it: no maximum is ever taken of Q_tot. Who has died counts for
    nothing. All trained steps of a batch count alike.

    Differs from the papers: docs/algorithms/vdn.md and qmix.md have the lists.
    """

    network: Mixing  # type: ignore[assignment]
    target: Mixing  # type: ignore[assignment]

    def __init__(self, *args: Any, kappa: float = float("inf"), **kwargs: Any) -> None:
        super().__init__(*args, kappa=kappa, **kwargs)

    def observed(self, batch: Batch) -> TensorObs:
        """What teams observe in each row after the burn-in, with their states."""
        obs: TensorObs = tree_map(self.kept, batch.seen.obs)
        return obs

    @torch.no_grad()
    def bootstrap(self, batch: Batch, q: Tensor) -> Tensor:  # type: ignore[override]
        """Q_tot(h', a*; theta-) [T - burn_in, B], a*_i = argmax_a Q_i(h'_i, a; theta); `q` are the online network's values."""
        best = double_q(q, self.unrolled(self.target, batch))  # [T - burn_in, B, M]
        return self.following(self.target.mix(best, self.observed(batch)), batch)

    def td_error(self, batch: Batch) -> Tensor:
        """y - Q_tot(h, a; theta) [T - burn_in, B], 0 in rows that are not trained."""
        q = self.unrolled(self.network, batch)  # [T - burn_in, B, M, A]
        reward, discount, action, mask = map(self.kept, (batch.reward, batch.discount, batch.action, batch.mask))
        y = td_target(reward.sum(-1), discount, self.bootstrap(batch, q))
        # What stands in a row that is no step may not be available there: its value is not looked at.
        done = torch.where(mask.unsqueeze(-1) != 0, pick(q, action), 0.0)
        return mask * (y - self.network.mix(done, self.observed(batch)))

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sum_t huber(delta_t), over the mean number of steps in a sequence; eta max_t |delta_t| + (1 - eta) mean_t |delta_t|:
        both [B]."""
        td, mask = self.td_error(batch), self.kept(batch.mask)
        steps = mask.sum(0).mean().clamp(min=1)
        return huber(td, self.kappa).sum(0) / steps, mixed_priority(td, mask, self.eta)
