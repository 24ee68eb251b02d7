"""What the training loop needs of an agent and of a memory."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from protorl.actors.actors import Acts
from protorl.data import Batch, Chunk, Update


class Learner(Acts, Protocol):
    """What the loop asks of an agent; `observe(step)` besides, where it is written."""

    def update(self, batch: Batch) -> Update: ...


class Memory(Protocol):
    """The noun Memory, as the loop sees it."""

    def room(self) -> int: ...

    def add(self, chunk: Chunk) -> None: ...

    def due(self) -> int: ...

    def sample(self) -> Batch: ...

    def feedback(self, batch: Batch, priority: Tensor) -> None: ...
