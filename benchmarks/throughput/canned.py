"""Actors without environments: they hand over steps that were made beforehand, so that what is measured is the handing over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from protorl.data import ActionSpec, ArraySpec, Chunk, Columns, Field

FRAME = (84, 84)
KINDS = ("cartpole", "atari")
EPISODE = 200


def columns(kind: str, lanes: int) -> Columns:
    """Rows as Ape-X stores them, each with a first priority: 4 numbers, or 84x84 bytes of which 4 are stacked."""
    obs = ArraySpec((4,), np.dtype(np.float32))
    if kind == "atari":
        obs = ArraySpec((4, *FRAME), np.dtype(np.uint8), frame_stack=4, stack_padding="zero")
    return Columns(
        obs, ActionSpec("discrete", (), np.dtype(np.int64), n=6), lanes, {"priority": Field((), np.dtype(np.float32))}
    )


def episode(kind: str, lanes: int, steps: int = EPISODE, seed: int = 0) -> Chunk:
    """A whole episode in each of some lanes, of random numbers."""
    rng = np.random.default_rng(seed)
    if kind == "atari":
        frames = rng.integers(0, 256, (steps + 4, lanes, *FRAME), np.uint8)
        frames[:3] = 0
        obs = np.stack([frames[k : steps + 1 + k] for k in range(4)], 2)
    else:
        obs = rng.standard_normal((steps + 1, lanes, 4), np.float32)
    last = np.zeros((steps, lanes), bool)
    last[-1] = True
    return Chunk(
        obs=obs[:-1],
        action=rng.integers(0, 6, (steps, lanes)),
        reward=rng.standard_normal((steps, lanes), np.float32),
        discount=1 - last.astype(np.float32),
        terminated=last,
        truncated=np.zeros_like(last),
        next_obs=obs[1:],
        first=last[::-1],
        valid=np.ones_like(last),
        extras={"priority": rng.random((steps, lanes), np.float32)},
        lanes=np.arange(lanes),
    )


class Still:
    """An agent that never learns, as worker processes need one."""

    updates = 0

    def __init__(self) -> None:
        self.weights = [torch.zeros(1_000)]

    def published(self) -> list[torch.Tensor]:
        return self.weights


class Canned:
    """Actors of some lanes that play one episode over and over. most: steps that a chunk may have."""

    def __init__(self, kind: str, lanes: int) -> None:
        self.steps, self.at = episode(kind, lanes, 96 if kind == "atari" else EPISODE), 0

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        length, lanes = self.steps.valid.shape
        begin, self.at = self.at, min(self.at + max(room // lanes, 1), length)
        piece = self.steps.part(slice(begin, self.at))
        self.at %= length
        return [Chunk(*piece, self.steps.lanes)]

    def episodes(self) -> Sequence[Any]:
        return []

    def restart(self, boundary: int) -> None:
        self.at = 0

    def close(self) -> None:
        """Nothing to release."""


def build(kind: str, lanes: range) -> tuple[Still, Canned]:
    """What a worker hosts."""
    return Still(), Canned(kind, len(lanes))
