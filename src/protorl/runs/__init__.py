"""A run: its folder, clock, log, evaluations, checkpoints and ends. It knows no recipe."""

from protorl.runs.divergence import Diverged
from protorl.runs.run import Run
from protorl.runs.signals import Interrupted

__all__ = ["Diverged", "Interrupted", "Run"]
