"""An environment of one's own, with exact snapshots, used from Python and from the command line.

python custom_environment.py
protorl train custom_environment.py:ParkingDQN
"""

from typing import Any

import gymnasium
import numpy as np

import protorl as prl
from protorl import rng


class Parking(gymnasium.Env[np.ndarray, int]):
    """A car on a line of `length` cells, dropped anywhere, is to park in cell 0. Observation: [cell / length] float32.
    Actions: 0 left, 1 right. Reward: -1 a step; parking ends the episode."""

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

    # Everything that changes while the environment runs, as plain data. With these two methods a run resumes in the
    # middle of an episode; without them the environments start afresh at every checkpoint.

    def state_dict(self) -> dict[str, Any]:
        return {"cell": self.cell, "np_random": rng.pack(self.np_random)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cell = state["cell"]
        rng.unpack(self.np_random, state["np_random"])


gymnasium.register("Parking-v0", Parking, max_episode_steps=50)


class ParkingDQN(prl.recipes.DQN):
    """DQN, with numbers that suit so small a task."""

    env: str = "Parking-v0"
    steps: int = 4_000
    warmup_steps: int = 200
    target_every: int = 50
    epsilon_steps: int = 2_000
    widths: tuple[int, ...] = (64,)


if __name__ == "__main__":
    # The class itself will do, too; `length` is the environment's own argument.
    env = prl.make_vec_envs(Parking, num_envs=4, seed=0, time_limit=50, length=20)
    print("observation", env.spec.obs.shape, "actions", env.spec.action.n, "exact snapshots", env.exact)
    env.reset()
    before = env.state_dict()
    once = [env.step(np.array([0, 1, 0, 1])).next_obs for _ in range(30)]
    env.load_state_dict(before)
    again = [env.step(np.array([0, 1, 0, 1])).next_obs for _ in range(30)]
    print("the same 30 steps again:", np.array_equal(once, again))
    env.close()
