"""Deep sea: one sequence of actions in 2^N finds the treasure, and every step towards it costs (bsuite's `deep_sea`)."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from protorl.data import Array, ProtoRLError
from protorl.envs.api import Result
from protorl.envs.snapshot import Exact


class DeepSea(Exact):
    """A diver sinks through a grid of size x size, one row a step, and steers left or right; the treasure, worth 1, lies at the
    bottom right, where only `size` times "right" leads. A step right costs move_cost / size.

    Observation [size, size] float32, one-hot (zeros when the episode is over). Actions 0 and 1: which of them is "right"
    differs from cell to cell, drawn once from `mapping_seed`, the same for all rows and evaluations. An episode takes `size`
    steps; the best return is 1 - move_cost, and a policy of chance finds it once in 2^size episodes.

    Raises ProtoRLError for a size below 1.
    Source: Osband et al. 2020, "Behaviour suite for reinforcement learning", deep_sea: size 10 to 50, mapping_seed 42; after
    Osband et al. 2019, "Deep exploration via randomized value functions". Differs from bsuite: there is no stochastic variant.
    """

    remembers = ("row", "column")
    row = 0
    column = 0

    def __init__(self, size: int = 10, mapping_seed: int = 42, move_cost: float = 0.01) -> None:
        if size < 1:
            raise ProtoRLError(f"size is {size}: it must be at least 1")
        self.size, self.cost = size, move_cost / size
        self.right = np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size))  # bsuite's own draw
        self.observation_space = spaces.Box(0.0, 1.0, (size, size), np.float32)
        self.action_space = spaces.Discrete(2)

    def begin(self) -> Array:
        self.row, self.column = 0, 0
        return self._observe()

    def step(self, action: int) -> Result:
        right, last = action == self.right[self.row, self.column], self.size - 1
        reward = float(right and self.column == last) - (self.cost if right else 0.0)
        self.column = min(max(self.column + (1 if right else -1), 0), last)
        self.row += 1
        return self._observe(), reward, self.row == self.size, False, {}

    def _observe(self) -> Array:
        obs = np.zeros((self.size, self.size), np.float32)
        if self.row < self.size:
            obs[self.row, self.column] = 1
        return obs
