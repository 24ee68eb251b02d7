"""Random actions in place of the agent's, now and then: how Atari's papers evaluate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from protorl.data import MASK, Obs, ProtoRLError, State, Step
from protorl.envs.vector import VecEnv, VecWrapper
from protorl.rng import RowStreams


class RandomActions(VecWrapper):
    """With probability `epsilon` a row takes a uniformly random action, whatever it was told; `Step.action` is the one taken.

    Every reset with a seed begins each row's stream anew, so that an evaluation repeats and leaves no trace in the agent.
    Raises ProtoRLError for an epsilon outside [0, 1]. Source: Mnih et al. 2015, Methods, "Evaluation procedure": 0.05.
    """

    def __init__(self, env: VecEnv, epsilon: float) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ProtoRLError(f"epsilon {epsilon} is not a probability: keep it in [0, 1]")
        super().__init__(env)
        self.epsilon = epsilon
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Streams by seed and row."""
        self.streams = RowStreams(seed, "random actions", self.lanes, max(1024, 1 + self.spec.action.numbers))

    def reset(self, seed: int | None = None) -> Obs:
        if seed is not None:
            self.begin(seed)
        return super().reset(seed)

    def step(self, action: ArrayLike) -> Step:
        u = self.streams.take(1 + self.spec.action.numbers)
        taken = np.array(action)
        rows = u[:, 0] < self.epsilon
        obs = self.obs
        available = obs[MASK] if isinstance(obs, dict) and MASK in obs else None
        taken[rows] = self.spec.action.uniform(u[:, 1:], available)[rows]
        return super().step(taken)

    def state_dict(self) -> State:
        return {**super().state_dict(), "streams": self.streams.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.streams.load_state_dict(state["streams"])
