"""What watches a training loop. This one only counts; a `Run` does more."""

from __future__ import annotations

import numpy as np

from protorl.data import Batch, Chunk, Update

NEVER = 1 << 62


class Monitor:
    """Counts agent steps and updates. `stop` ends the loop at the next step."""

    def __init__(self) -> None:
        self.steps = 0
        self.updates = 0
        self.stop = False

    def room(self) -> int:
        """Agent steps until the next event: so many may be taken at once."""
        return NEVER

    def stepped(self, chunk: Chunk) -> None:
        """Steps were taken and remembered."""
        self.steps += int(np.count_nonzero(chunk.valid))

    def updated(self, batch: Batch, update: Update) -> None:
        """The agent learned from one batch."""
        self.updates += 1

    def tick(self) -> None:
        """Once around the loop."""
