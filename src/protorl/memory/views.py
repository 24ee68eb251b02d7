"""Views: what an example is. One step and n steps; a view also says how many later rows an example waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from protorl.memory.kernels import nstep_window
from protorl.memory.storage import Storage
from protorl.types import Array, ProtoRLError


@dataclass(frozen=True)
class NStep:
    """n-step transitions, cut at the episode's end.

        reward   = sum_{k<m} gamma^k r_{t+k}
        discount = gamma^m * prod_{k<m} d_{t+k},     m = min(n, steps to the end of the episode)
        next_obs = o_{t+m}, the true final observation where the episode ended

    so a tail is as long as it is, a truncation bootstraps and a termination does not. A lost life (d = 0) ends the sum.

    n: steps. gamma: discount per step, in [0, 1]. clip_reward: rewards are clipped to [-c, c] each, before they are summed
    (None: raw). Source: Sutton 1988; for replay, Hessel et al. 2018, arXiv 1710.02298. Differs from the papers: tails at
    truncations are kept, and bootstrap from the final observation.
    """

    n: int = 1
    gamma: float = 0.99
    clip_reward: float | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ProtoRLError(f"n_step {self.n} is not a number of steps: use 1 or more")
        if not 0.0 <= self.gamma <= 1.0:
            raise ProtoRLError(f"gamma {self.gamma} is not a discount: use a value in [0, 1]")
        if self.clip_reward is not None and not self.clip_reward > 0:
            raise ProtoRLError(f"clip_reward {self.clip_reward} must be positive, or None for raw rewards")

    @property
    def pending(self) -> int:
        """How many rows at the head of an unfinished episode have no complete example yet."""
        return self.n - 1

    def examples(self, storage: Storage, slots: Array) -> dict[str, Any]:
        """Columns for the examples that start at `slots` [B] int64: tensors on the storage's device."""
        size = slots.shape[0]
        returns, discounts = np.empty(size, np.float32), np.empty(size, np.float32)
        successors = np.empty(size, np.int64)
        clip = np.inf if self.clip_reward is None else self.clip_reward
        nstep_window(
            slots, storage.ring, self.n, self.gamma, clip, storage.book, returns, discounts, successors
        )  # fmt: skip
        columns = {name: table.read(slots) for name, table in storage.tables.items()}
        columns["obs"] = storage.read_obs(slots)
        columns["next_obs"] = storage.read_obs(successors)
        columns["reward"] = torch.from_numpy(returns).to(storage.device)
        columns["discount"] = torch.from_numpy(discounts).to(storage.device)
        return columns


def OneStep(gamma: float = 0.99, clip_reward: float | None = None) -> NStep:  # noqa: N802 - it names a view
    """One-step transitions: `NStep(1)`."""
    return NStep(1, gamma, clip_reward)
