"""Munchausen DQN, from the paper: Vieillard, Pietquin and Geist 2020, arXiv 2007.14430, equation 1.

protorl train my_paper.py:MyRecipe --env CartPole-v1
"""

from typing import Any

import torch

import protorl as prl
from protorl.functional import pick, td_target


class MyAgent(prl.DQN):
    """y = r + alpha [tau log pi(a|s)]_low^0 + gamma sum_a' pi(a'|s') (q(s', a') - tau log pi(a'|s')), pi = softmax(q / tau)"""

    def __init__(self, *args: Any, alpha: float, tau: float, low: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha, self.tau, self.low = alpha, tau, low

    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        with torch.no_grad():
            q, q_next = self.target(batch.obs).q, self.target(batch.next_obs).q  # [B, A] each
            log_pi = self.tau * torch.log_softmax(q / self.tau, -1)  # tau log pi(.|s)
            log_pi_next = self.tau * torch.log_softmax(q_next / self.tau, -1)
            bonus = self.alpha * pick(log_pi, batch.action).clamp(self.low, 0)  # [B]
            value = ((log_pi_next / self.tau).exp() * (q_next - log_pi_next)).sum(-1)  # [B]
        return td_target(batch.reward + bonus, batch.discount, value) - pick(self.network(batch.obs).q, batch.action)


class MyRecipe(prl.recipes.DQN):
    """Munchausen DQN: everything of DQN, and the three numbers of the paper."""

    name = "my-munchausen"
    paper = "Vieillard, Pietquin and Geist 2020, arXiv 2007.14430"
    agent_class = MyAgent

    alpha: float = prl.hp(0.9, "weight of the log-policy", paper="0.9", low=0.0, high=1.0)
    tau: float = prl.hp(0.03, "temperature of the policy", paper="0.03", low=1e-6)
    low: float = prl.hp(-1.0, "lower clip of the log-policy", paper="-1", high=0.0)
    n_step: int = 1  # the paper's, whatever the preset for an environment says

    def agent_arguments(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "tau": self.tau, "low": self.low}
