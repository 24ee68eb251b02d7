"""Averaged-DQN: Anschel, Baram and Shimkin 2017, "Averaged-DQN: variance reduction and stabilization for deep reinforcement
learning", ICML, arXiv 1611.01929, Algorithm 2.

protorl train examples/averaged_dqn.py:AveragedDQN --env CartPole-v1
"""

from typing import Any

import torch
from torch import Tensor

import protorl as prl
from protorl.networks import clone


class AveragedAgent(prl.DQN):
    """y = r + gamma max_a' 1/K sum_k Q(s', a'; theta_k), over the target network and the K - 1 that it was before."""

    def __init__(self, *args: Any, targets: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.past = [clone(self.network) for _ in range(targets - 1)]  # the newest first

    @torch.no_grad()
    def bootstrap(self, batch: prl.Batch) -> Tensor:
        q = torch.stack([network(batch.next_obs).q for network in (self.target, *self.past)])  # [K, B, A]
        return q.mean(0).amax(-1)

    def update(self, batch: prl.Batch) -> prl.Update:
        if (self.updates + 1) % self.target_every == 0:  # the target is about to be replaced
            newer = [self.target, *self.past]
            for i in reversed(range(len(self.past))):
                self.past[i].load_state_dict(newer[i].state_dict())
        return super().update(batch)


class AveragedDQN(prl.recipes.DQN):
    """DQN with the mean of several past target networks."""

    name = "averaged-dqn"
    paper = "Anschel, Baram and Shimkin 2017, arXiv 1611.01929"
    agent_class = AveragedAgent

    targets: int = prl.hp(5, "target networks whose mean is believed, K", paper="10", low=1)

    def agent_arguments(self) -> dict[str, Any]:
        return {"targets": self.targets}
