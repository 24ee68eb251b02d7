"""REDQ: Chen, Wang, Zhou and Ross 2021, "Randomized ensembled double Q-learning: learning fast without a model", ICLR,
arXiv 2101.05982, Algorithm 1. With fewer critics and updates than in the paper, for small tasks.

protorl train examples/redq.py:REDQ --env Pendulum-v1
"""

from typing import Any

import torch
from torch import Tensor

import protorl as prl


class REDQAgent(prl.SAC):
    """SAC with N critics: a target is the least of M random ones, the actor climbs their mean, once in `delay` updates."""

    pure = ("learn", "improve")

    def __init__(self, *args: Any, subset: int, delay: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subset, self.delay = subset, delay

    def reduce(self, q: Tensor) -> Tensor:
        """The mean of all, for the actor: [N, B] -> [B]."""
        return q.mean(0)

    @torch.no_grad()
    def bootstrap(self, batch: prl.Batch) -> Tensor:
        action, log_prob = self.sample(batch.next_obs, batch.next_noise)
        q = self.target(batch.next_obs, action)  # [N, B]
        chosen = torch.rand(len(q), device=q.device).topk(self.subset).indices
        return q[chosen].amin(0) - self.alpha * log_prob

    def learn(self, batch: prl.Batch) -> prl.Update:
        return self.learn_critics(batch)

    def improve(self, batch: prl.Batch) -> prl.Update:
        return prl.Update(batch.weight, self.learn_actor(batch))

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        if self.updates % self.delay == 0:
            improved = self.improve(batch.replace(noise=torch.randn_like(batch.action)))
            update = update._replace(metrics={**update.metrics, **improved.metrics})
        return update


class REDQ(prl.recipes.SAC):
    """Randomized ensembled double Q-learning."""

    name = "redq"
    paper = "Chen et al. 2021, arXiv 2101.05982"
    agent_class = REDQAgent

    critics: int = prl.hp(5, "critics in the ensemble, N", paper="10", low=1)
    subset: int = prl.hp(2, "random critics of which a target is the least, M", paper="2", low=1)
    updates: int = prl.hp(4, "updates of the critics per step, G; the actor has one", paper="20", low=1)
    steps: int = 10_000

    def agent_arguments(self) -> dict[str, Any]:
        return {"subset": self.subset, "delay": self.updates}
