"""Running normalisers around a `VecEnv`: saved with it, frozen in evaluation, right under every autoreset mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from protorl.data import Array, ArraySpec, Obs, ProtoRLError, Seen, State, Step, tree_map
from protorl.envs.snapshot import freeze, thaw
from protorl.envs.vector import VecEnv, VecWrapper
from protorl.moments import RunningMeanStd


class NormalizeObservation(VecWrapper):
    """Float observations become `clip((obs - mean) / sqrt(var + epsilon), -clip, clip)`, float32; uint8 ones stay.

    Every observation acted on is counted once, when it appears; final observations and the ones that an autoreset
    throws away are not. `Step.obs` is exactly what the agent saw. With `frozen` true nothing is counted.
    """

    def __init__(self, env: VecEnv, *, clip: float = 10.0, epsilon: float = 1e-8, frozen: bool = False) -> None:
        super().__init__(env)
        self.clip, self.epsilon, self.frozen = clip, epsilon, frozen
        leaves = env.spec.obs if isinstance(env.spec.obs, dict) else {"": env.spec.obs}
        self.statistics = {key: RunningMeanStd(leaf.shape) for key, leaf in leaves.items() if leaf.dtype == np.float32}
        if not self.statistics:
            raise ProtoRLError(f"{env.spec.id} has no float observation to normalise")

        def bounded(leaf: ArraySpec) -> ArraySpec:
            if leaf.dtype != np.float32:
                return leaf
            bound = np.full(leaf.shape, clip, np.float32)
            return replace(leaf, low=-bound, high=bound)

        self.spec = replace(env.spec, obs=tree_map(bounded, env.spec.obs))
        self._obs: Any = None

    @property
    def obs(self) -> Obs:
        if self._obs is None:
            self._take(np.ones(self.num_envs, np.bool_))
        return self._obs

    def reset(self, seed: int | None = None) -> Obs:
        self.env.reset(seed)
        self._obs = None
        return self.obs

    def restart(self, boundary: int) -> None:
        self.env.restart(boundary)
        self._obs = None

    def step(self, action: ArrayLike) -> Step:
        obs = self.obs
        step = self.env.step(action)
        self._take(~self.env.pending)
        return step._replace(obs=obs, next_obs=self.normalize(step.next_obs))

    def normalize(self, obs: Obs) -> Obs:
        """Observations [N, *O] as the agent sees them, by the statistics so far."""
        if not isinstance(obs, dict):
            return self._scale("", obs)
        return {key: self._scale(key, leaf) if key in self.statistics else leaf for key, leaf in obs.items()}

    def _scale(self, key: str, obs: Array) -> Array:
        seen = self.statistics[key]
        scaled = (obs - seen.mean) / np.sqrt(seen.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)

    def _take(self, rows: Array) -> None:
        raw = self.env.obs
        if not self.frozen:
            for key, seen in self.statistics.items():
                seen.update((raw[key] if isinstance(raw, dict) else raw)[rows])
        self._obs = self.normalize(raw)

    def state_dict(self) -> State:
        state: State = {"env": self.env.state_dict()}
        state["statistics"] = {key: seen.state_dict() for key, seen in self.statistics.items()}
        # Where the environments are rebuilt, their new first observations are already counted in the statistics.
        state["obs"] = None if self._obs is None else freeze(self._obs)
        return state

    def load_state_dict(self, state: State) -> None:
        self.env.load_state_dict(state["env"])
        for key, seen in self.statistics.items():
            seen.load_state_dict(state["statistics"][key])
        self._obs = None if state["obs"] is None else thaw(state["obs"])


class NormalizeReward(VecWrapper):
    """Rewards become `clip(r / sqrt(var(G) + epsilon), -clip, clip)`, where `G <- gamma G + r` runs along time in each row
    and starts anew with each episode (as in the baselines of Engstrom et al. 2020, "Implementation matters").

    The statistics of finished episodes (`episodes()`) stay the environment's own. With `frozen` true nothing is counted.
    """

    def __init__(self, env: VecEnv, *, gamma: float, clip: float = 10.0, epsilon: float = 1e-8, frozen: bool = False) -> None:
        super().__init__(env)
        self.gamma, self.clip, self.epsilon, self.frozen = gamma, clip, epsilon, frozen
        self.statistics = RunningMeanStd()
        self.begin()

    def begin(self) -> None:
        """No reward yet."""
        shape = (self.num_envs, *self.spec.reward_shape)  # of teams: each agent's
        self.returns, self.reward = np.zeros(shape), np.zeros(shape, np.float32)

    @property
    def seen(self) -> Seen:
        seen = self.env.seen
        reward = self.reward.copy()
        reward[seen.first] = 0.0
        return seen._replace(reward=reward)

    def reset(self, seed: int | None = None) -> Obs:
        self.begin()
        return self.env.reset(seed)

    def restart(self, boundary: int) -> None:
        self.begin()
        self.env.restart(boundary)

    def step(self, action: ArrayLike) -> Step:
        step = self.env.step(action)
        valid = step.valid
        self.returns[valid] = self.gamma * self.returns[valid] + step.reward[valid]
        if not self.frozen:
            self.statistics.update(self.returns[valid].reshape(-1))
        self.returns[step.ended] = 0.0
        scaled = step.reward / np.sqrt(self.statistics.var + self.epsilon)
        self.reward = np.clip(scaled, -self.clip, self.clip).astype(np.float32)
        return step._replace(reward=self.reward)

    def state_dict(self) -> State:
        return {
            "env": self.env.state_dict(),
            "statistics": self.statistics.state_dict(),
            "returns": freeze(self.returns),
            "reward": freeze(self.reward),
        }

    def load_state_dict(self, state: State) -> None:
        self.env.load_state_dict(state["env"])
        self.statistics.load_state_dict(state["statistics"])
        self.returns, self.reward = thaw(state["returns"]), thaw(state["reward"])
