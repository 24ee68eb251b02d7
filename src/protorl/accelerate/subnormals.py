"""Numbers too small for a normalised mantissa: a processor takes a hundred times as long for each.

Squared gradients, and thus Adam's second moments, fall below 1e-38 for many parameters; beside Adam's epsilon they are
nothing. On Pendulum they took a third of TD3's update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Flushed:
    """A function inside which subnormal results and operands count as zero; outside all is as before."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run

    def __call__(self, *args: Any) -> Any:
        torch.set_flush_denormal(True)
        try:
            return self.run(*args)
        finally:
            torch.set_flush_denormal(False)


def start_threads() -> None:
    """Start torch's other threads, if they are not there yet: a thread rounds for ever as the one did that started it."""
    if torch.get_num_threads() > 1:
        Flushed(torch.zeros)(1 << 20)  # large enough to be shared out
