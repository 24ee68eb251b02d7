"""A game for teams in which everything that a run says depends on everything that it does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protorl.data import Array
from protorl.envs.games import Game, shared


class LongGame(Game):
    """Seven steps; what both do is paid to both, and chance."""

    def __init__(self) -> None:
        super().__init__(agents=2, actions=3)

    def observe(self, agent: str) -> Array:
        return np.array([self.t], np.float32)

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        return shared(sum(actions.values()) + self.np_random.normal(), self.possible_agents)

    def ends(self, agent: str) -> bool:
        return self.t == 7
