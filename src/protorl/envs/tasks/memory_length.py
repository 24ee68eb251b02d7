"""Memory length: say at the end what was shown at the beginning (bsuite's `memory_len`)."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from protorl.data import Array, ProtoRLError
from protorl.envs.api import Result
from protorl.envs.snapshot import Exact


class MemoryLength(Exact):
    """A context of `bits` signs is shown at the beginning; `length` steps later the agent must say the one that is asked for.

    Observation [2 + bits] float32: time 1 - t / length; at the last step the index of the bit that is asked for, before that
    0; at t = 0 the context, -1 or +1 a bit, after that 0. Actions 0 and 1 mean -1 and +1, and count at the last step only,
    with reward +1 or -1. A memory gets 1, and no policy without one more than 0 on average (where `length` > 1).
    As in bsuite's code, the clock starts one step late: the beginning is shown twice, and an episode takes length + 1 steps.

    Raises ProtoRLError for a length or bits below 1.
    Source: Osband et al. 2020, "Behaviour suite for reinforcement learning", memory_len (bits = 1) and memory_size (length
    2). Differs from bsuite: the observation is a vector, not [1, 2 + bits].
    """

    remembers = ("shown", "context", "query")
    shown = 0

    def __init__(self, length: int = 10, bits: int = 1) -> None:
        for name, value in (("length", length), ("bits", bits)):
            if value < 1:
                raise ProtoRLError(f"{name} is {value}: it must be at least 1")
        self.length, self.bits = length, bits
        high = np.array([1, max(bits - 1, 1), *[1] * bits], np.float32)
        low = np.array([0, 0, *[-1] * bits], np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self.context, self.query = np.zeros(bits, np.int64), 0

    def begin(self) -> Array:
        self.shown = 0
        self.context, self.query = self.np_random.integers(0, 2, self.bits), int(self.np_random.integers(self.bits))
        return self._observe(0)

    def step(self, action: int) -> Result:
        obs = self._observe(self.shown)
        self.shown += 1
        if self.shown <= self.length:
            return obs, 0.0, False, False, {}
        return obs, 1.0 if action == self.context[self.query] else -1.0, True, False, {}

    def _observe(self, t: int) -> Array:
        obs = np.zeros(2 + self.bits, np.float32)
        obs[0] = 1 - t / self.length
        if t == self.length - 1:
            obs[1] = self.query
        if t == 0:
            obs[2:] = 2 * self.context - 1
        return obs
