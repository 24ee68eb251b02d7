"""Rainbow.

Hessel et al. 2018, "Rainbow: combining improvements in deep reinforcement learning", AAAI, arXiv 1710.02298, section
"The integrated agent":

    d_t^(n) = (R_t^(n) + gamma^n z, p(s', a*; theta-)),     a* = argmax_a' q(s', a'; theta)
    minimise  KL(Phi_z d_t^(n) || d_t),     p_t proportional to KL^omega
"""

from __future__ import annotations

import torch

from protorl.agents.dqn import DQN
from protorl.data import Batch
from protorl.functional import categorical_kl, categorical_projection
from protorl.networks import chosen


class Rainbow(DQN):
    """Double DQN that predicts the distribution of returns on fixed atoms. The other pieces come from outside: dueling and
    noise from the head, n steps and priorities from the memory, so that each can be left out alone.

    network: gives `.q` [B, A], `.log_p` [B, A, K] and `.atoms` [K], as a `C51Head` does; `dueling=True, noisy=True` is the
    paper's. policy: greedy, if the head is noisy. The rest as DQN; kappa is not used. The priority is the KL divergence,
    without the example's weight.

    Differs from the paper: the loss is the KL divergence itself, whose gradient is that of the cross-entropy; noise is drawn
    for each row (see `NoisyLinear`).
    """

    @torch.no_grad()
    def target_distribution(self, batch: Batch) -> torch.Tensor:
        """Phi_z d_t^(n): the probabilities of the atoms that the prediction should have [B, K]."""
        best = self.network(batch.next_obs).q.argmax(-1)
        judge = self.target(batch.next_obs)
        return categorical_projection(batch.reward, batch.discount, chosen(judge.log_p, best).exp(), judge.atoms)

    def loss_and_priority(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """KL(Phi_z d_t^(n) || d_t), twice: it is both, [B]."""
        kl = categorical_kl(self.target_distribution(batch), chosen(self.network(batch.obs).log_p, batch.action))
        return kl, kl.clamp(min=0)  # rounding may leave it a little below 0
