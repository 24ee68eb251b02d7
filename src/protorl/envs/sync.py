"""N single environments stepped one after the other in this process: the light loop, and the default."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from protorl.data import EnvSpec, Obs, State, Step, tree_map
from protorl.envs import snapshot
from protorl.envs.api import AnyEnv
from protorl.envs.gate import Gate
from protorl.envs.spec import ActionEdge, empty, single_spec
from protorl.envs.vector import Episode, HostedEnvs
from protorl.processes import CLOSE_SECONDS


class SyncEnv(HostedEnvs):
    """N Gymnasium environments in a loop; an environment resets in the step that ended its episode, so every row of
    every step is valid. A step may announce `info["discount"] = 0` (a lost life): nothing is bootstrapped there, and the
    episode goes on."""

    def __init__(
        self,
        make: Callable[[], AnyEnv],
        num_envs: int,
        *,
        id: str,
        seed: int = 0,
        name: str = "env",
        first_row: int = 0,
    ) -> None:
        self._make = make
        self._gates = [Gate(make(), id, first_row + i) for i in range(num_envs)]
        one = self._gates[0].env
        obs, time_limit = single_spec(one)
        self._edge = ActionEdge(one.action_space, num_envs)
        self._leaves = obs
        self._blank = None if isinstance(obs, dict) else np.zeros((num_envs, *obs.shape), obs.dtype)
        self._ones = np.ones(num_envs, np.float32)
        self._yes, self._no = np.ones(num_envs, np.bool_), np.zeros(num_envs, np.bool_)
        spec = EnvSpec(id, obs, self._edge.spec, num_envs, time_limit, first_lane=first_row)
        exact = all(snapshot.exact(gate.env) for gate in self._gates)
        super().__init__(spec, seed=seed, name=name, first_row=first_row, exact=exact)

    def step(self, action: ArrayLike) -> Step:
        obs = self.obs
        action, answers = self._edge(action)
        next_obs: Any = empty(self._leaves, self.num_envs) if self._blank is None else self._blank.copy()
        # Copies of templates: several times cheaper than np.ones and np.zeros, and this is the hot path.
        reward, discount = self._ones.copy(), self._ones.copy()
        terminated, truncated, first_next = self._no.copy(), self._no.copy(), self._no.copy()
        returns, lengths = self._returns, self._lengths
        ended = None
        for i, gate in enumerate(self._gates):
            seen, gain, over, cut, kept = gate.step(answers[i])
            if self._blank is not None:
                next_obs[i] = seen
            else:
                write(seen, next_obs, i)
            reward[i] = gain
            returns[i] += gain
            lengths[i] += 1
            if kept != 1.0:
                discount[i] = kept
            if over or cut:
                if over:
                    terminated[i] = True
                    discount[i] = 0.0
                truncated[i] = bool(cut)
                if ended is None:
                    ended = []
                ended.append(i)
        first, self._first = self._first, first_next
        self._obs, self._action, self._reward = next_obs, action, reward
        if ended is not None:
            self._obs = tree_map(np.copy, next_obs)
            self._action, self._reward = action.copy(), reward.copy()
            for i in ended:
                self._finished.append(Episode(returns[i], lengths[i], i))
                returns[i], lengths[i] = 0.0, 0
                first_next[i] = True
                self._action[i], self._reward[i] = 0, 0.0
                self._reset_row(i, None, self._obs)
        return Step(obs, action, reward, discount, terminated, truncated, next_obs, first, self._yes.copy())

    def close(self) -> None:
        late = time.monotonic() + CLOSE_SECONDS
        for gate in self._gates:
            gate.close(max(late - time.monotonic(), 0.1))

    def _construct(self) -> None:
        self.close()
        self._gates = [Gate(self._make(), gate.id, gate.row) for gate in self._gates]

    def _reset(self, seeds: list[int] | None) -> Obs:
        obs = empty(self._leaves, self.num_envs)
        for i in range(self.num_envs):
            self._reset_row(i, None if seeds is None else seeds[i], obs)
        return obs

    def _reset_row(self, i: int, seed: int | None, into: Obs) -> None:
        write(self._gates[i].reset(seed), into, i)

    def _begin(self) -> None:
        super()._begin()
        self._returns, self._lengths = [0.0] * self.num_envs, [0] * self.num_envs

    def _render(self) -> object:
        return self._gates[0].render()

    def _save(self) -> object:
        return [gate.state_dict() for gate in self._gates]

    def _load(self, state: Any) -> None:
        for gate, one in zip(self._gates, state):
            gate.load_state_dict(one)

    def _progress(self) -> State:
        return {"returns": list(self._returns), "lengths": list(self._lengths)}

    def _resume(self, progress: State) -> None:
        self._returns, self._lengths = list(progress["returns"]), list(progress["lengths"])


def write(obs: Any, into: Any, i: int) -> None:
    """One row's observation, an array or a dict of arrays, among those of all."""
    if isinstance(into, dict):
        for key, leaf in into.items():
            leaf[i] = obs[key]
    else:
        into[i] = obs
