"""What watches a training loop. This one only counts; a `Run` does more."""

from __future__ import annotations

import numpy as np

from protorl.data import Batch, Step, Update


class Monitor:
    """Counts agent steps and updates. `stop` ends the loop at the next step."""

    def __init__(self) -> None:
        self.steps = 0
        self.updates = 0
        self.stop = False

    def stepped(self, step: Step) -> None:
        """One vector step was taken and remembered."""
        self.steps += int(np.count_nonzero(step.valid))

    def updated(self, batch: Batch, update: Update) -> None:
        """The agent learned from one batch."""
        self.updates += 1

    def tick(self) -> None:
        """Once around the loop."""
