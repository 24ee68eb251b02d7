"""Loops: train and evaluate, the only ones, and what watches them."""

from protorl.loops.evaluate import Evaluation, evaluate
from protorl.loops.monitor import Monitor
from protorl.loops.train import train

__all__ = ["Evaluation", "Monitor", "evaluate", "train"]
