"""Columns that only some rows keep: those where the sequences of a view begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from protorl.data import Array, State
from protorl.memory.tables import Table


class Starts(NamedTuple):
    """Where a view's examples start: in each episode at every `every`-th row, and they read from `before` rows before on.
    `listed`: the window lists where they are."""

    every: int = 1
    before: int = 0
    listed: bool = False

    @property
    def behind(self) -> int:
        """How many rows before its start an example needs: a sequence also the action and reward before its first row."""
        return self.before + self.listed


class Kept:
    """Columns `tables` of the rows that are `starts.before` rows before every `starts.every`-th row of an episode.

    What the row in a slot keeps is in row `at[slot]` of the tables; -1, their last row, which is zeros: it keeps nothing. They
    grow where short episodes have more starts than expected.
    """

    def __init__(self, tables: dict[str, Table], slots: int, starts: Starts) -> None:
        self.tables, self.starts = tables, starts
        self.rows = min((len(table.data) for table in tables.values()), default=1) - 1
        self.at = np.full(slots if tables else 0, -1, np.int32)
        self.free = np.arange(self.rows, dtype=np.int32)
        self.count = self.rows  # of free rows
        self.clear()

    def clear(self) -> None:
        for table in self.tables.values():
            table.clear(-1)

    def write(self, slots: Array, ages: Array, valid: Array, values: Mapping[str, Array]) -> None:
        """New rows in `slots` [m], the valid ones of a chunk, `valid` [T, n]: some keep their `values` [T, n, ...].
        ages: of all slots."""
        self.release(slots)
        keeps = (ages[slots] + self.starts.before) % self.starts.every == 0
        if keeps.any():
            rows = np.flatnonzero(valid)[keeps]
            flat = {name: values[name].reshape(valid.size, *table.field.shape) for name, table in self.tables.items()}
            self.put(slots[keeps], {name: array[rows] for name, array in flat.items()})

    def release(self, slots: Array) -> None:
        """The rows in these slots keep nothing."""
        stale = self.at[slots]
        stale = stale[stale >= 0]
        self.free[self.count : self.count + len(stale)] = stale
        self.count += len(stale)
        self.at[slots] = -1

    def put(self, slots: Array, values: Mapping[str, Array]) -> None:
        """The rows in `slots` [m], which keep nothing so far, keep `values` [m, ...]."""
        while self.count < len(slots):
            self.grow()
        self.count -= len(slots)
        rows = self.free[self.count : self.count + len(slots)].astype(np.int64)
        self.at[slots] = rows
        for name, table in self.tables.items():
            table.write(rows, values[name])

    def grow(self) -> None:
        """Half as many rows again."""
        old, self.rows = self.rows, self.rows + self.rows // 2 + 1
        for table in self.tables.values():
            table.grow(self.rows + 1)
        self.clear()
        free = np.empty(self.rows, np.int32)
        free[: self.count] = self.free[: self.count]
        free[self.count : self.count + self.rows - old] = np.arange(old, self.rows)
        self.free, self.count = free, self.count + self.rows - old

    def before(self, slots: Array, ages: Array, ring: int) -> Array:
        """The tables' rows [B] for examples that start in `slots` [B]: zeros where the episode is too young."""
        if not self.tables:
            return slots
        back = self.starts.before
        begins = slots // ring * ring + (slots % ring - back) % ring
        return np.where(ages[slots] >= back, self.at[begins], self.rows).astype(np.int64)

    def piece(self, slots: Array) -> State:
        """What the rows in `slots` keep, for a checkpoint."""
        rows = self.at[slots] if self.tables else np.zeros(0, np.int32)
        kept = rows[rows >= 0].astype(np.int64)
        return {"which": rows >= 0, **{name: table.read(kept).cpu() for name, table in self.tables.items()}}

    def restore(self, slots: Array, piece: State) -> None:
        """Put it back."""
        if self.tables:
            self.release(slots)
            self.put(slots[np.asarray(piece["which"])], {name: piece[name].numpy() for name in self.tables})
