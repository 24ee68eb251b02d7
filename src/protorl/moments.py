"""Running statistics."""

from __future__ import annotations

import numpy as np
import torch

from protorl.data import Array, State


class RunningMeanStd:
    """Mean and variance of everything seen, in float64, merged batch by batch (Chan, Golub & LeVeque 1983).

    With n seen and a batch of m: `mean += d m / (n + m)`, `M2 += M2_batch + d^2 n m / (n + m)`, `d` the difference of means.
    Before anything was seen the mean is 0 and the variance 1.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0.0
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)

    def update(self, batch: Array) -> None:
        """batch: [B, *shape]; an empty one changes nothing."""
        m = len(batch)
        if m == 0:
            return
        batch = np.asarray(batch, np.float64)
        mean = batch.mean(0)
        difference, total = mean - self.mean, self.count + m
        self.mean = self.mean + difference * (m / total)
        self.m2 = self.m2 + ((batch - mean) ** 2).sum(0) + difference**2 * (self.count * m / total)
        self.count = total

    @property
    def var(self) -> Array:
        """The population variance; 1 before anything was seen."""
        return self.m2 / self.count if self.count else np.ones_like(self.m2)

    def state_dict(self) -> State:
        return {"count": self.count, "mean": torch.from_numpy(np.array(self.mean)), "m2": torch.from_numpy(np.array(self.m2))}

    def load_state_dict(self, state: State) -> None:
        self.count, self.mean, self.m2 = state["count"], np.array(state["mean"]), np.array(state["m2"])
