"""Munchausen DQN.

Vieillard, Pietquin and Geist 2020, "Munchausen reinforcement learning", NeurIPS, arXiv 2007.14430, equation 1:

    y = r + alpha [tau log pi(a|s)]_l0^0 + gamma sum_a' pi(a'|s') (Q(s', a') - tau log pi(a'|s')),   pi = softmax(Q / tau)
"""

from __future__ import annotations

from typing import Any

import torch

from protorl.agents.dqn import DQN
from protorl.data import Batch, ProtoRLError
from protorl.functional import munchausen_bonus, pick, soft_value, td_target


class MunchausenDQN(DQN):
    """DQN with the log-policy added to the reward and a soft value as bootstrap; both from the target network.

    alpha: weight of the log-policy, in [0, 1]. tau: temperature > 0. low: l0, the log-policy's lower clip (times tau).

    Differs from the paper: with n-step returns only the first reward gets the bonus.
    """

    def __init__(self, *args: Any, alpha: float = 0.9, tau: float = 0.03, low: float = -1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not tau > 0:
            raise ProtoRLError(f"tau {tau} is not a temperature: use a positive number (the paper's is 0.03)")
        self.alpha, self.tau, self.low = alpha, tau, low

    def td_error(self, batch: Batch) -> torch.Tensor:
        """y - Q(s, a; theta) [B]."""
        q = pick(self.network(batch.obs).q, batch.action)
        with torch.no_grad():
            bonus = munchausen_bonus(self.target(batch.obs).q, batch.action, self.alpha, self.tau, self.low)
            value = soft_value(self.target(batch.next_obs).q, self.tau)
        return td_target(batch.reward + bonus, batch.discount, value) - q
