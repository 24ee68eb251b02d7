"""A sum tree over non-negative priorities: O(log n) writes and draws, float64 throughout."""

from __future__ import annotations

import numpy as np

from protorl.data import Array
from protorl.memory.kernels import min_tree_set, tree_find, tree_set


class SumTree:
    """`capacity` leaves, all zero at first. `track_min` also keeps the smallest positive leaf."""

    def __init__(self, capacity: int, track_min: bool = False) -> None:
        self.leaves = self.leaves_for(capacity)
        self.sums = np.zeros(2 * self.leaves)
        self.minima = np.full(2 * self.leaves, np.inf) if track_min else None

    @staticmethod
    def leaves_for(capacity: int) -> int:
        """The power of two that holds them."""
        return 1 << max(capacity - 1, 1).bit_length()

    @classmethod
    def bytes(cls, capacity: int, track_min: bool = False) -> int:
        """What it takes."""
        return 8 * 2 * cls.leaves_for(capacity) * (2 if track_min else 1)

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self.sums[1])

    @property
    def smallest(self) -> float:
        """The smallest positive leaf (inf if none); needs `track_min`."""
        return float(self.minima[1]) if self.minima is not None else np.nan

    def set(self, index: Array, value: Array) -> None:
        """Write leaves `index` [B] int64; where an index repeats, the last value stays."""
        tree_set(self.sums, self.leaves, index, value)
        if self.minima is not None:
            min_tree_set(self.minima, self.leaves, index, value)

    def get(self, index: Array) -> Array:
        """Leaf values [B]."""
        return self.sums[self.leaves + index]

    def find(self, target: Array) -> Array:
        """For each target in [0, total), the leaf in whose share of the cumulative sum it falls; never a zero leaf."""
        index = np.empty(target.shape[0], np.int64)
        tree_find(self.sums, self.leaves, target, index)
        return index
