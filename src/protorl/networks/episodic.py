"""How new an observation is within its episode: by its distance to the nearest of what was seen before (Badia et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from protorl.data import Array, ProtoRLError
from protorl.networks.kernels import nearest

DISTANCE_MEANS = ("all", "kth")


class Episode(NamedTuple):
    """What each row has seen in its episode: the newest M embeddings, and how many there were in all."""

    entries: Array  # [N, M, F] float32
    number: Array  # [N] int64

    @classmethod
    def empty(cls, n: int, size: int, features: int) -> Episode:
        """Nothing yet, with room for `size`."""
        return cls(np.zeros((n, size, features), np.float32), np.zeros(n, np.int64))

    def remember(self, x: Array, rows: Array) -> None:
        """The embeddings `x` [N, F] of `rows` [N] bool are part of it, in place of the oldest where there is no more room."""
        which = np.flatnonzero(rows)
        self.entries[which, self.number[which] % self.entries.shape[1]] = x[which]
        self.number[which] += 1


@dataclass(frozen=True)
class PseudoCounts:
    """The episodic reward 1 / sqrt(n(x)), where the count n(x) is made of the k nearest neighbours by a kernel:

        K(x, y) = ε / (max(d²(x, y) / d_m² - ξ, 0) + ε),     s = sqrt(sum_k K) + c,     r = 0 if s > s_max else 1 / s

    d_m²: a running mean of such squared distances, over `mean`: all k neighbours (Algorithm 1), or the "kth" alone (the text).
    Where there is no neighbour r is 1 / c.

    Raises ProtoRLError for k below 1, an epsilon or c that is not positive, or an unknown mean.
    Source: Badia et al. 2020, arXiv 2002.06038, equation 2 and Algorithm 1. The paper has ε = 1e-3 in the text, 1e-4 in table 6
    and 1e-2 in table 7, which is a factor of 10 in r each. With k = 10 no s exceeds sqrt(10) + c: s_max = 8 never fires.
    """

    k: int = 10
    epsilon: float = 1e-4
    cluster: float = 0.008
    c: float = 0.001
    most: float = 8.0
    mean: str = "all"

    def __post_init__(self) -> None:
        for name, value in (("neighbours", self.k), ("kernel_epsilon", self.epsilon), ("pseudo_count", self.c)):
            if not value > 0:
                raise ProtoRLError(f"{name} {value} is not positive: raise it")
        if self.mean not in DISTANCE_MEANS:
            raise ProtoRLError(f"distance_mean {self.mean!r} is unknown: use {' or '.join(DISTANCE_MEANS)}")

    def distances(self, episode: Episode, x: Array, rows: Array) -> Array:
        """d² [N, k] float32 of `x` [N, F] to its nearest neighbours, ascending; inf where there are fewer, or not in `rows`."""
        found = np.empty((len(x), self.k), np.float32)
        nearest(episode.entries, episode.number, x, rows, found)
        return found

    def typical(self, distances: Array) -> Array:
        """Of distances [N, k] what d_m² is the running mean of: [N] float64, 0 where there is no neighbour."""
        there = np.isfinite(distances)
        known = np.where(there, distances, 0.0).astype(np.float64)
        if self.mean == "kth":
            return known.max(1)
        total: Array = known.sum(1) / np.maximum(there.sum(1), 1)
        return total

    def reward(self, distances: Array, mean: Array) -> Array:
        """r [N] float32 for distances [N, k] and d_m² [N]."""
        scale = np.where(mean > 0, mean, 1.0)[:, None]  # d_m² = 0: so are all distances
        kernel = self.epsilon / (np.maximum(distances / scale - self.cluster, 0.0) + self.epsilon)
        s = np.sqrt(kernel.sum(1)) + self.c
        return np.where(s > self.most, 0.0, 1.0 / s).astype(np.float32)


class Running:
    """Mean and deviation of what was counted, newer numbers counting more: with each one that comes, all before it count
    `decay` times as much as they did; 1: all the same. What was counted holds from the next `settle` on, since who acts
    elsewhere knows of it no earlier.

    In tensors of this machine's memory, so that they are published with the networks. Before anything holds both are 0.
    """

    def __init__(self, decay: float = 1.0) -> None:
        if not 0 < decay <= 1:
            raise ProtoRLError(f"distance_decay {decay} is not a share: use a number in (0, 1]")
        self.decay = decay
        self.moments = torch.zeros(3, dtype=torch.float64)  # weight, mean, weight * variance
        self.coming = torch.zeros(3, dtype=torch.float64)

    def count(self, values: Array) -> None:
        """values: [B], oldest first."""
        if len(values):
            moments, aged = self.coming.numpy(), self.decay ** len(values)
            each = self.decay ** np.arange(len(values) - 1, -1, -1.0)
            kept, new = moments[0] * aged, each.sum()
            mean = (each * values).sum() / new
            apart, total = mean - moments[1], kept + new
            moments[2] = moments[2] * aged + (each * (values - mean) ** 2).sum() + apart**2 * kept * new / total
            moments[1] += apart * new / total
            moments[0] = total

    def settle(self) -> None:
        """What was counted so far holds."""
        self.moments.copy_(self.coming)

    def including(self, values: Array) -> Array:
        """The mean as it would be with each of these values [N] alone besides: [N]."""
        weight, mean, _ = self.moments.tolist()
        mixed: Array = (self.decay * weight * mean + values) / (self.decay * weight + 1)
        return mixed

    def standardised(self, values: Array) -> Array:
        """(values - mean) / deviation [N]; 0 while nothing deviates."""
        weight, mean, m2 = self.moments.tolist()
        apart: Array = (values - mean) / (m2 / weight) ** 0.5 if m2 > 0 else np.zeros_like(values)
        return apart
