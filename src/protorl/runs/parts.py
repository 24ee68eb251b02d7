"""What a run needs of the things that it watches, saves and brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from protorl.checkpoint import RowLog
from protorl.data import Finished, Stateful


class Learner(Stateful, Protocol):
    """An agent, as a run sees it."""

    @property
    def device(self) -> torch.device: ...


class Remembers(Stateful, RowLog, Protocol):
    """A memory: its rows are saved in pieces, the rest at once."""


class Plays(Stateful, Protocol):
    """Actors: they tell which episodes ended, and their environments can begin anew."""

    def episodes(self) -> Sequence[Finished]: ...

    def figures(self) -> dict[str, float]: ...

    def rebuild(self, boundary: int) -> None: ...

    def restart(self, boundary: int) -> None: ...
