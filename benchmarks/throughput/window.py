"""Two trainings side by side in one process, by turns: what one of them adds to the time of the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import protorl as prl
from protorl.accelerate import accelerate


class Window:
    """A training that goes on for so many agent steps at a time."""

    def __init__(self, recipe: Any, mode: str, steps: int) -> None:
        self.parts = recipe.build()
        accelerate(self.parts.agent, mode)
        self.steps = steps
        for _ in range(3):
            self()

    def __call__(self) -> float:
        """Microseconds per agent step."""
        begin = time.process_time()
        prl.train(*self.parts, steps=self.steps)
        return 1e6 * (time.process_time() - begin) / self.steps


class Paired(NamedTuple):
    """Median microseconds per step without and with something, and the quotients of the rounds, sorted."""

    without: float
    with_it: float
    quotients: Sequence[float]


def paired(without: Window, with_it: Window, rounds: int) -> Paired:
    """In each round each takes a window, so that they share the machine's moments."""
    times = [(without(), with_it()) for _ in range(rounds)]
    plain, paid = (statistics.median(some) for some in zip(*times))
    return Paired(plain, paid, sorted(two / one for one, two in times))
