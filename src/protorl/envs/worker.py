"""What a worker process of `backend="async"` hosts: one environment. Numbers and observations lie in memory that both see."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import numpy as np

from protorl.data import Array, Obs, ObsSpec, State, tree_leaves, tree_map
from protorl.envs import snapshot
from protorl.envs.api import AnySpace
from protorl.envs.gate import Gate, failed
from protorl.envs.spec import empty, single_spec
from protorl.envs.sync import write
from protorl.processes import Memory


class Shared:
    """Arrays of one row per environment, which this process and its workers see alike.

    action: as the N environments take it. file: the descriptor of the memory, where there is one already.
    """

    def __init__(self, spec: ObsSpec, action: Array, file: int | None = None) -> None:
        n = len(action)
        numbers, flags = np.zeros(n), np.zeros(n, np.bool_)
        like: list[Obs] = [action, numbers, numbers.astype(np.float32), flags, flags, empty(spec, n), empty(spec, n)]
        self.spec, self.like = spec, action
        self.memory = Memory([(leaf.shape, leaf.dtype) for tree in like for leaf in tree_leaves(tree)], file)
        take = self.memory.take
        views: list[Any] = [tree_map(lambda leaf: take(leaf.shape, leaf.dtype), tree) for tree in like]
        self.action, self.reward, self.discount, self.terminated, self.truncated, self.next_obs, self.first_obs = views


class Made(NamedTuple):
    """What a worker tells of its environment."""

    obs: ObsSpec
    time_limit: int | None
    action_space: AnySpace
    exact: bool
    renders: bool


class Hosted:
    """The environment of one row, in its worker; what a step and a reset reveal goes to the memory that its parent sees."""

    gate: Gate
    memory: Shared

    def __init__(self, maker: bytes, id: str, row: int) -> None:
        self.maker, self.id, self.row = maker, id, row

    def retire(self) -> None:
        """Close the environment, if there is one; `make` makes another."""
        if hasattr(self, "gate"):
            self.gate.close()
            del self.gate

    def make(self) -> Made:
        self.retire()
        env = pickle.loads(self.maker)()
        self.gate = Gate(env, self.id, self.row)
        return Made(*single_spec(env), env.action_space, snapshot.exact(env), env.render_mode is not None)

    def failed(self, verb: str, error: BaseException) -> str:
        return str(failed(self.id, verb, f"row {self.row}", error))

    def share(self, file: int, spec: ObsSpec, action: Array, i: int) -> None:
        self.memory, self.i = Shared(spec, action, file), i

    def step(self) -> None:
        """Act as the memory says; where that ends an episode, the next one begins."""
        here, i = self.memory, self.i
        action = here.action[i]
        seen, here.reward[i], over, cut, kept = self.gate.step(int(action) if isinstance(action, np.integer) else action.copy())
        write(seen, here.next_obs, i)
        here.terminated[i], here.truncated[i], here.discount[i] = over, cut, 0.0 if over else kept
        if over or cut:
            self.reset(None)

    def reset(self, seed: int | None) -> None:
        write(self.gate.reset(seed), self.memory.first_obs, self.i)

    def render(self) -> object:
        return self.gate.render()

    def state_dict(self) -> list[State]:
        return self.gate.state_dict()

    def load_state_dict(self, state: list[State]) -> None:
        self.gate.load_state_dict(state)

    def close(self) -> None:
        if hasattr(self, "gate"):
            self.gate.env.close()  # what it raises, the parent tells
