"""Chunks in memory that an actor fills and the learner reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from protorl.data import Array, Chunk, Columns, tree_leaves, tree_map
from protorl.processes import Memory


class Slots:
    """Room for `count` chunks of up to `steps` steps of `columns.num_envs` lanes. file: the descriptor of the memory, where
    there is one already."""

    def __init__(self, columns: Columns, steps: int, count: int, file: int | None = None) -> None:
        self.columns, self.steps, self.count = columns, steps, count
        n = columns.num_envs
        flag, number = ((), np.bool_), ((), np.float32)
        obs = tree_map(lambda spec: (spec.shape, spec.dtype), columns.obs)
        action, reward = (columns.action.shape, columns.action.dtype), (columns.reward_shape, np.float32)
        extras: Any = {name: (field.shape, field.dtype) for name, field in columns.extras.items()}
        one: list[Any] = [obs, action, reward, number, flag, flag, obs, flag, flag, extras]  # as in `Chunk`
        forms = [((steps, n, *shape), kind) for tree in one for shape, kind in tree_leaves(tree)]
        self.memory = Memory(forms * count, file)
        take = self.memory.take
        self.slots = [[tree_map(lambda form: take((steps, n, *form[0]), form[1]), tree) for tree in one] for _ in range(count)]

    def write(self, slot: int, at: int, chunk: Chunk) -> None:
        """Put a chunk's steps behind the `at` that are there."""
        end = at + len(chunk.valid)
        for there, given in zip(self.slots[slot], chunk):
            for name, place in there.items() if isinstance(there, dict) else [(None, there)]:
                place[at:end] = given if name is None else given[name]

    def chunk(self, slot: int, lanes: Array) -> Chunk:
        """The chunk that lies there, as views."""
        arrays: list[Any] = self.slots[slot]
        return Chunk(*[*arrays, lanes])
