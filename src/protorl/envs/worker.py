"""What a worker process of `backend="async"` hosts: one environment. Numbers and observations lie in memory that both see."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from protorl.data import Array, Obs, ObsSpec, tree_leaves, tree_map
from protorl.envs.gate import Gate, failed
from protorl.envs.spec import empty
from protorl.envs.sync import write
from protorl.processes import FAILURES, SharedBytes, room_for


class Shared:
    """Arrays of one row per environment, which this process and its workers see alike.

    action: as the N environments take it.
    """

    def __init__(self, spec: ObsSpec, action: Array, memory: SharedBytes | None = None) -> None:
        n = len(action)
        numbers, flags = np.zeros(n), np.zeros(n, np.bool_)
        like: list[Obs] = [action, numbers, numbers.astype(np.float32), flags, flags, empty(spec, n), empty(spec, n)]
        size = sum(room_for(leaf.shape, leaf.dtype) for tree in like for leaf in tree_leaves(tree))
        self.spec, self.like, self.memory = spec, action, SharedBytes(size) if memory is None else memory
        take = self.memory.take
        views: list[Any] = [tree_map(lambda leaf: take(leaf.shape, leaf.dtype), tree) for tree in like]
        self.action, self.reward, self.discount, self.terminated, self.truncated, self.next_obs, self.first_obs = views

    def __reduce__(self) -> tuple[object, ...]:
        return Shared, (self.spec, self.like, self.memory)


class Hosted(Gate):
    """The environment of one row, in its worker; what a step and a reset reveal goes to the memory that its parent sees.

    maker: pickled, makes the environment.
    """

    def __init__(self, maker: bytes, id: str, row: int, memory: Shared, i: int) -> None:
        try:
            env = pickle.loads(maker)()
        except FAILURES as error:
            raise failed(id, "make", f"row {row}", error) from error
        super().__init__(env, id, row)
        self.memory, self.i = memory, i
        self.tell_state_dict, self.tell_load_state_dict = self.state_dict, self.load_state_dict
        self.tell_render, self.tell_close = self.render, env.close

    def tell_step(self) -> None:
        """Act as the memory says; where that ends an episode, the next one begins."""
        here, i = self.memory, self.i
        action = here.action[i]
        seen, here.reward[i], over, cut, kept = self.step(int(action) if isinstance(action, np.integer) else action.copy())
        write(seen, here.next_obs, i)
        here.terminated[i], here.truncated[i], here.discount[i] = over, cut, 0.0 if over else kept
        if over or cut:
            self.tell_reset(None)

    def tell_reset(self, seed: int | None) -> None:
        """Begin an episode."""
        write(self.reset(seed), self.memory.first_obs, self.i)
