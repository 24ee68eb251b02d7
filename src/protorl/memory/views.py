"""Views: what an example is. One step, n steps, a rollout.

A view also says how many later rows an example waits for (`pending`), and whether examples are used in one burst of updates
only (`once`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from protorl.data import Array, Batch, ProtoRLError, tree_map
from protorl.memory.kernels import nstep_window
from protorl.memory.samplers import Window
from protorl.memory.storage import Storage


class View(Protocol):
    """What a memory asks of a view."""

    @property
    def pending(self) -> int: ...

    @property
    def once(self) -> bool: ...

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, Any]: ...


def check_rewards(gamma: float, clip_reward: float | None) -> None:
    """Raises ProtoRLError for a gamma outside [0, 1], or a clip that is not positive."""
    if not 0.0 <= gamma <= 1.0:
        raise ProtoRLError(f"gamma {gamma} is not a discount: use a value in [0, 1]")
    if clip_reward is not None and not clip_reward > 0:
        raise ProtoRLError(f"clip_reward {clip_reward} must be positive, or None for raw rewards")


def read(
    storage: Storage,
    slots: Array,
    n: int,
    gamma: float,
    clip_reward: float | None,
    columns: Mapping[str, Array],
    reward_scale: float = 1.0,
) -> dict[str, Any]:
    """Columns of n-step transitions from `slots` [B] int64, and further `columns`: tensors on the storage's device."""
    size = slots.shape[0]
    returns, discounts = np.empty(size, np.float32), np.empty(size, np.float32)
    successors = np.empty(size, np.int64)
    clip = np.inf if clip_reward is None else clip_reward
    nstep_window(slots, storage.ring, n, gamma, clip, reward_scale, storage.book, returns, discounts, successors)
    return storage.examples(slots, successors, {"reward": returns, "discount": discounts, **columns})


@dataclass(frozen=True)
class NStep:
    """n-step transitions, cut at the episode's end.

        reward   = sum_{k<m} gamma^k r_{t+k}
        discount = gamma^m * prod_{k<m} d_{t+k},     m = min(n, steps to the end of the episode)
        next_obs = o_{t+m}, the true final observation where the episode ended

    so a tail is as long as it is, a truncation bootstraps and a termination does not. A lost life (d = 0) ends the sum.

    n: steps. gamma: discount per step, in [0, 1]. clip_reward: rewards are clipped to [-c, c] each, before they are summed
    (None: raw). reward_scale: multiplies them, after the clip. Source: Sutton 1988; for replay, Hessel et al. 2018, arXiv
    1710.02298. Differs from the papers: tails at truncations are kept, and bootstrap from the final observation.
    """

    n: int = 1
    gamma: float = 0.99
    clip_reward: float | None = None
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ProtoRLError(f"n_step {self.n} is not a number of steps: use 1 or more")
        if not 0 < self.reward_scale < np.inf:
            raise ProtoRLError(f"reward_scale {self.reward_scale} must be a positive number")
        check_rewards(self.gamma, self.clip_reward)

    @property
    def pending(self) -> int:
        """How many rows at the head of an unfinished episode have no complete example yet."""
        return self.n - 1

    @property
    def once(self) -> bool:
        """Examples are used again and again."""
        return False

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, Any]:
        """Columns for the examples that start at `rows` [B] (row identities), of `weight` [B]: tensors on the storage's
        device."""
        return read(storage, window.slots(rows), self.n, self.gamma, self.clip_reward, {"weight": weight}, self.reward_scale)


def OneStep(gamma: float = 0.99, clip_reward: float | None = None) -> NStep:  # noqa: N802 - it names a view
    """One-step transitions: `NStep(1)`."""
    return NStep(1, gamma, clip_reward)


class Rollout:
    """The steps since the last burst of updates, for algorithms that learn from what they just did.

    At the first sample of a burst the whole rollout is laid out time first, [T, N], with the columns obs, action, reward,
    discount, next_obs, first, ended, weight and the agent's own, and given to `prepare`. What that returns (columns
    [T, N, ...]) is flattened: examples are its rows, drawn by `Minibatches` or `All`. Once the burst is over, no row is
    offered again.

    Where an environment has fewer steps than the others (it spent some on resets), its column begins with rows of weight 0,
    which are never drawn.

    prepare: what the agent makes of a rollout before it learns from it: its advantages (`agent.prepare`). gamma: discount
    per step, in [0, 1]. clip_reward: rewards are clipped to [-c, c] (None: raw).
    """

    pending = 0
    once = True

    def __init__(self, prepare: Callable[[Batch], Batch], gamma: float = 0.99, clip_reward: float | None = None) -> None:
        check_rewards(gamma, clip_reward)
        self.prepare, self.gamma, self.clip_reward = prepare, gamma, clip_reward
        self.version = -1
        self.length = 0
        self.columns: dict[str, Any] = {}

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, Any]:
        """Columns for `rows` [B] (row identities), of `weight` [B], from the rollout as `prepare` returned it."""
        if self.version != window.version:
            self.lay_out(storage, window)
            self.version = window.version
        lane, serial = rows % window.lanes, rows // window.lanes
        time = serial - (window.highs - self.length)[lane]
        index, weights = map(torch.as_tensor, storage.place(time * window.lanes + lane, weight))
        read = {name: tree_map(lambda column: column.index_select(0, index), value) for name, value in self.columns.items()}
        return read | {"weight": weights}

    def lay_out(self, storage: Storage, window: Window) -> None:
        """Time-major columns of all rows in the window, prepared, then flattened."""
        lanes = window.lanes
        self.length = int((window.highs - window.lows).max())
        serial = window.highs - self.length + np.arange(self.length)[:, None]  # [T, N]
        absent = (serial < window.lows).reshape(-1)
        rows = (serial * lanes + np.arange(lanes)).reshape(-1)
        rows[absent] = rows[~absent][0]  # any row that is there: never drawn, and nothing flows forward in time
        slots = window.slots(rows)
        more = {
            "first": storage.book["age"][slots] == 0,
            "ended": storage.book["side"][slots] >= 0,
            "weight": (~absent).astype(np.float32),
        }
        flat = read(storage, slots, 1, self.gamma, self.clip_reward, more)
        flat["reward"] *= flat["weight"]

        def grid(column: Any) -> Any:
            return tree_map(lambda leaf: leaf.unflatten(0, (self.length, lanes)), column)

        prepared = self.prepare(Batch({name: grid(column) for name, column in flat.items()}))
        self.columns = {name: tree_map(lambda leaf: leaf.flatten(0, 1), prepared.columns[name]) for name in prepared}
