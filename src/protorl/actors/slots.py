"""Chunks in memory that an actor fills and the learner reads."""

from __future__ import annotations

from typing import Any

import numpy as np

from protorl.data import Array, ArraySpec, Chunk, Columns, tree_leaves, tree_map
from protorl.processes import Block, Memory, room_for


class Slots:
    """Room for `count` chunks of `steps` steps of `columns.num_envs` lanes. there: the descriptor of the memory, or the bytes
    themselves, where there are any already."""

    def __init__(self, columns: Columns, steps: int, count: int, there: int | Block | None = None) -> None:
        self.columns, self.steps, self.count = columns, steps, count
        one = trees_of(columns, steps)
        self.memory: Any = there if isinstance(there, Block) else Memory(forms_of(one) * count, there)
        take = self.memory.take
        self.slots = [[tree_map(lambda form: take(form.shape, form.dtype), tree) for tree in one] for _ in range(count)]

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


def trees_of(columns: Columns, steps: int) -> list[Any]:
    """The shapes and dtypes of a chunk's arrays, in the order of `Chunk`."""
    n = columns.num_envs

    def form(shape: tuple[int, ...], dtype: Any) -> ArraySpec:
        return ArraySpec((steps, n, *shape), np.dtype(dtype))

    flag, number = form((), np.bool_), form((), np.float32)
    obs = tree_map(lambda spec: form(spec.shape, spec.dtype), columns.obs)
    action, reward = form(columns.action.shape, columns.action.dtype), form(columns.reward_shape, np.float32)
    extras = {name: form(field.shape, field.dtype) for name, field in columns.extras.items()}
    return [obs, action, reward, number, flag, flag, obs, flag, flag, extras]


def forms_of(trees: list[Any]) -> list[Any]:
    return [(form.shape, form.dtype) for tree in trees for form in tree_leaves(tree)]


def chunk_bytes(columns: Columns, steps: int) -> int:
    """What a slot takes."""
    return sum(room_for(*form) for form in forms_of(trees_of(columns, steps)))
