"""A run: its folder, clock, log, checkpoints and ends."""

from protorl.runs.run import Diverged, Interrupted, Run

__all__ = ["Diverged", "Interrupted", "Run"]
