"""Windows: which examples can be sampled now. One may begin with every row, or with some rows of each episode."""

from __future__ import annotations

import numpy as np

from protorl.data import Array
from protorl.memory.kernels import turnover, turnover_sequences
from protorl.memory.storage import Storage


class Window:
    """Examples that begin with each row: those that start at serials low .. high - 1 of every lane can be sampled.

    A start's identity, its row in what follows, is serial * lanes + lane, unique for the whole run; its place is one of the
    `ring` that each lane has.

    pending: rows that follow a start before its example is complete, unless the episode ends before. flows: examples go on
    through ends of episodes, and wait for the observation after them.
    """

    def __init__(self, storage: Storage, pending: int, flows: bool = False) -> None:
        self.storage, self.pending = storage, pending
        self.lanes, self.ring = storage.lanes, storage.ring
        self.lows, self.highs = np.zeros(self.lanes, np.int64), np.zeros(self.lanes, np.int64)
        self.version = 0  # counts changes of the rows
        self.most = self.lanes * max(storage.length - pending - flows, 0)  # examples that there can be of long episodes
        self.sizes: tuple[int, ...] = (storage.ring, storage.length, pending, int(flows))
        self.state: tuple[Array, ...] = (storage.counts, storage.live, storage.book, self.lows, self.highs)

    def advance(self, moved: Array) -> tuple[int, int]:
        """Bring the window up to date; returns how many places left it and how many entered, which then lie in `moved`."""
        self.version += 1
        return turnover(self.sizes, self.state, moved)

    def room_for(self, steps: int) -> Array:
        """For the places that leave and enter when so many steps come."""
        return np.empty((2, self.lanes * (self.pending + steps + 1)), np.int64)

    @property
    def size(self) -> int:
        """Number of examples."""
        return int((self.highs - self.lows).sum()) if self.lanes > 1 else int(self.highs[0] - self.lows[0])

    @property
    def incomplete(self) -> int:
        """How many starts whose examples are not complete yet may become examples at once."""
        return int((self.storage.counts - self.highs).sum())

    def steps_for(self, examples: int) -> int:
        """Of how many steps of a lane so many examples of it may come; the first a little later (by `pending`)."""
        return examples

    def slots(self, rows: Array) -> Array:
        """Row identities [B] -> places [B]."""
        if self.lanes == 1:
            return rows % self.ring
        return rows % self.lanes * self.ring + rows // self.lanes % self.ring

    def rows(self, slots: Array) -> Array:
        """Places [B] of sampleable rows -> row identities [B]."""
        if self.lanes == 1:
            newest = self.highs[0] - 1
            return newest - (newest - slots) % self.ring
        lane = slots // self.ring
        newest = self.highs[lane] - 1
        return (newest - (newest - slots % self.ring) % self.ring) * self.lanes + lane

    def begins(self, places: Array) -> Array:
        """Places [B] -> the slots [B] in the storage where the examples begin."""
        return places

    def starting(self, lanes: Array, serials: Array) -> Array:
        """Rows of lanes, by their serials -> the identities [B] of the examples that begin there, -1 where none does."""
        return serials * self.lanes + lanes

    def alive(self, rows: Array) -> Array:
        """[B] bool: the rows that have not been overwritten or left since they were drawn."""
        if self.lanes == 1:
            return (rows >= self.lows[0]) & (rows < self.highs[0])
        lane, serial = rows % self.lanes, rows // self.lanes
        return (serial >= self.lows[lane]) & (serial < self.highs[lane])

    def all(self) -> Array:
        """Every sampleable row, oldest first, lanes side by side."""
        per_lane = [np.arange(low, high) * self.lanes + lane for lane, (low, high) in enumerate(zip(self.lows, self.highs))]
        return np.sort(np.concatenate(per_lane))


class SequenceWindow(Window):
    """Sequences that begin with the rows 0, period, 2 * period, ... of each episode: starts are counted per lane, and listed.

    A start is an example once `pending` rows follow it, or its episode has ended; then it is dropped if the start before it
    trains all of its rows. It leaves once the row `behind` rows before it is overwritten.

    trained: rows that a sequence trains on, from its start on.
    """

    def __init__(self, storage: Storage, period: int, trained: int, pending: int, behind: int) -> None:
        super().__init__(storage, pending)
        self.period, self.behind = period, behind
        self.judged = np.zeros(self.lanes, np.int64)
        self.list = np.zeros(storage.slots, np.int64)
        self.most = self.lanes * (max(storage.length - pending - behind, 0) // period)
        self.sizes = (storage.ring, storage.length, period, trained, pending, behind)
        self.state = (*self.state, self.judged, self.list)

    def advance(self, moved: Array) -> tuple[int, int]:
        self.version += 1
        return turnover_sequences(self.sizes, self.state, moved)

    def room_for(self, steps: int) -> Array:
        return np.empty((2, self.lanes * (max(self.pending, self.behind) + steps + 1)), np.int64)

    @property
    def incomplete(self) -> int:
        return int((-(-(self.storage.counts - self.judged) // self.period)).sum())

    def steps_for(self, examples: int) -> int:
        return (examples - 1) * self.period + self.pending + 1

    def begins(self, places: Array) -> Array:
        return places // self.ring * self.ring + self.list[places] % self.ring

    def starting(self, lanes: Array, serials: Array) -> Array:
        rows = self.all()
        if not len(rows):
            return np.full(serials.shape, -1)
        listed = self.list[self.slots(rows)] * self.lanes + rows % self.lanes
        order = np.argsort(listed)
        wanted = serials * self.lanes + lanes
        found = order[np.minimum(np.searchsorted(listed, wanted, sorter=order), len(order) - 1)]
        return np.where(listed[found] == wanted, rows[found], -1)
