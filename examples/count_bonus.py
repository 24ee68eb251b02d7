"""Counts as a bonus, beta / sqrt(n(s')), paid where the environment is: Bellemare et al. 2016, "Unifying count-based
exploration and intrinsic motivation", arXiv 1606.01868, equation 5, with plain counts in the place of pseudo-counts.

protorl train examples/count_bonus.py:CountDQN
"""

from typing import Any

import numpy as np

import protorl as prl


class CountAgent(prl.DoubleDQN):
    """Double DQN; each lane counts what it has seen, and is paid for what it has seen seldom."""

    def __init__(self, *args: Any, beta: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.counts = beta, {}

    def annotate(self, step: prl.Step, carry: Any) -> tuple[prl.Step, Any]:
        bonus = np.zeros_like(step.reward)
        for i in np.flatnonzero(step.valid):
            seen = step.next_obs[i].tobytes()
            self.counts[seen] = self.counts.get(seen, 0) + 1
            bonus[i] = self.beta / self.counts[seen] ** 0.5
        return step._replace(reward=step.reward + bonus), carry


class CountDQN(prl.recipes.DoubleDQN):
    """Double DQN with a bonus for rare observations."""

    name = "count-dqn"
    paper = "Bellemare et al. 2016, arXiv 1606.01868"
    agent_class = CountAgent

    env = "protorl/DeepSea-v0"
    env_kwargs = {"size": 14}
    beta: float = prl.hp(0.05, "bonus of what is seen for the first time", low=0.0)

    def agent_arguments(self) -> dict[str, Any]:
        return {"beta": self.beta}
