"""An environment of one's own: a class, exact snapshots, and a short training.

A robot on a line of `length` cells, dropped anywhere, is to park in cell 0 with as few moves as it can.
"""

from typing import Any

import gymnasium
import numpy as np

import protorl as prl


class Parking(gymnasium.Env[np.ndarray, int]):
    """Observation: [cell / length] float32. Actions: 0 left, 1 right. Reward -1 a step; parking ends the episode."""

    def __init__(self, length: int = 10) -> None:
        self.length = self.cell = length
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def observe(self) -> np.ndarray:
        return np.array([self.cell / self.length], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(1, self.length + 1))
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.cell = min(self.cell + (1 if action == 1 else -1), self.length)
        return self.observe(), -1.0, self.cell == 0, False, {}

    # Everything that changes while the environment runs, as plain data: with these two methods a run resumes exactly.

    def state_dict(self) -> dict[str, Any]:
        return {"cell": self.cell, "np_random": prl.rng.pack(self.np_random)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cell = state["cell"]
        prl.rng.unpack(self.np_random, state["np_random"])


if __name__ == "__main__":
    env = prl.make_vec_envs(Parking, num_envs=4, seed=0, length=10, time_limit=50)
    print(env.spec.obs.shape, env.spec.action.n, "exact snapshots:", env.exact)
