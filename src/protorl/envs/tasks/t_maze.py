"""The T-maze: a road sign at the start says which way to turn at the end of a corridor."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from protorl.data import Array, ProtoRLError
from protorl.envs.api import Result
from protorl.envs.snapshot import Exact

NORTH, EAST, SOUTH, WEST = range(4)


class TMaze(Exact):
    """A corridor whose end, `length` steps east of the start, is a junction: north or south of it lies the goal.

    Observation [3] float32: at the start 011 where the goal is north, 110 where it is south; in the corridor 101; at the
    junction 010. Actions 0..3 go north, east, south, west. A turn at the junction ends the episode, with 4 at the goal and
    -0.1 elsewhere; a step into a wall stays where it is, for -0.1. A memory gets 4; without one the best is 1.95 on average.
    An episode is truncated after `time_limit` steps, 10 (length + 1) unless given: who walks into walls would never end it.

    Raises ProtoRLError for a length below 1.
    Source: Bakker 2001, "Reinforcement learning with long short-term memory", section 4.1 (length 5 to 70).
    Differs from the paper: it has no time limit.
    """

    remembers = ("t", "position", "goal")
    t = 0
    position = 0
    goal = NORTH

    def __init__(self, length: int = 10, time_limit: int | None = None) -> None:
        if length < 1:
            raise ProtoRLError(f"length is {length}: it must be at least 1")
        self.length, self.time_limit = length, 10 * (length + 1) if time_limit is None else time_limit
        self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(4)

    def begin(self) -> Array:
        self.t, self.position = 0, 0
        self.goal = NORTH if self.np_random.integers(2) else SOUTH
        return self._observe()

    def step(self, action: int) -> Result:
        self.t += 1
        if self.position == self.length and action in (NORTH, SOUTH):
            return self._observe(), 4.0 if action == self.goal else -0.1, True, False, {}
        before = self.position
        if action in (EAST, WEST):
            self.position = min(max(before + (1 if action == EAST else -1), 0), self.length)
        reward = -0.1 if self.position == before else 0.0
        return self._observe(), reward, False, self.t == self.time_limit, {}

    def _observe(self) -> Array:
        if self.position == 0:
            return np.array([0, 1, 1] if self.goal == NORTH else [1, 1, 0], np.float32)
        return np.array([0, 1, 0] if self.position == self.length else [1, 0, 1], np.float32)
