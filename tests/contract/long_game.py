"""A game for teams in which everything that a run says depends on everything that it does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from protorl.data import Array
from protorl.envs.api import AnySpace
from protorl.envs.games import Game, shared


class LongGame(Game):
    """Seven steps; what both do is paid to both, and chance."""

    def __init__(self) -> None:
        super().__init__(agents=2, actions=3)

    def observe(self, agent: str) -> Array:
        return np.array([self.t], np.float32)

    def pay(self, actions: Mapping[str, float]) -> Mapping[str, float]:
        return shared(sum(actions.values()) + self.np_random.normal(), self.possible_agents)

    def ends(self, agent: str) -> bool:
        return self.t == 7


class LongNumbers(LongGame):
    """The same with a number in [-1, 1] for each."""

    def action_space(self, agent: str, /) -> AnySpace:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def taken(self, action: Array) -> float:
        return float(action[0])
