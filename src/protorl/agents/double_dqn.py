"""Double DQN.

van Hasselt, Guez and Silver 2016, "Deep reinforcement learning with double Q-learning", AAAI, arXiv 1509.06461:

    y = r + gamma Q(s', argmax_a' Q(s', a'; theta); theta-)
"""

from __future__ import annotations

import torch

from protorl.agents.dqn import DQN
from protorl.data import Batch
from protorl.functional import double_q


class DoubleDQN(DQN):
    """DQN in which the online network chooses the next action and the target network judges it. With a dueling head it is
    D3QN (Wang et al. 2016).

    Differs from the paper: as DQN.
    """

    @torch.no_grad()
    def bootstrap(self, batch: Batch) -> torch.Tensor:
        """Q(s', argmax_a' Q(s', a'; theta); theta-) [B]."""
        return double_q(self.network(batch.next_obs).q, self.target(batch.next_obs).q)
