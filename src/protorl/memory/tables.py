"""Tables: one column of rows each, in main memory or on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import DTypeLike

from protorl.data import Array, Field, ProtoRLError
from protorl.memory.kernels import gather_pairs, gather_stacks
from protorl.memory.transfer import TORCH_DTYPES, send

SMALL_ROW = 256
"""Bytes up to which NumPy gathers rows faster than torch (1 against 2.3 microseconds for 128 rows of 4 floats)."""
WAITING = 1 << 23
"""Bytes that a table on a GPU lets wait in main memory."""


def row_bytes(field: Field) -> int:
    return int(np.prod(field.shape, dtype=np.int64)) * field.dtype.itemsize


def stack_shape(field: Field, k: int) -> tuple[int, ...]:
    """Of k rows that make one item."""
    return (k * field.shape[0], *field.shape[1:]) if k > 1 else field.shape


def stacks(frames: torch.Tensor, k: int) -> torch.Tensor:
    """Frames [T + k - 1, B, C, ...] -> of k neighbours each, [T, B, k * C, ...]."""
    return frames.unfold(0, k, 1).movedim(-1, 2).flatten(2, 3).contiguous()


def in_main_memory(device: torch.device) -> bool:
    """Whether NumPy can write there."""
    return device.type == "cpu"


class Buffers:
    """Arrays to read into, each used again once nobody holds what was read: writing to fresh pages takes several times as long
    as the copy itself. Where all are held, a new array is given."""

    def __init__(self, count: int = 4) -> None:  # two observations of this batch, and of the one before
        self.count = count
        self.pool: list[tuple[Array, weakref.ref[Array]]] = []  # an array, and a weak reference to the view of it that was lent

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An array, not zeroed."""
        self.pool = [(whole, lent) for whole, lent in self.pool if lent() is not None or whole.shape == shape]
        for i, (whole, lent) in enumerate(self.pool):
            if lent() is None:
                view = whole[...]
                self.pool[i] = whole, weakref.ref(view)
                return view
        whole = np.empty(shape, dtype)
        view = whole[...]
        if len(self.pool) < self.count:
            self.pool.append((whole, weakref.ref(view)))
        return view


class Table:
    """One column of rows in main memory, written through NumPy, which is cheaper for few rows."""

    waiting: Sequence[tuple[Array, Array]] = ()  # nothing written here has still to travel

    def __init__(self, field: Field, rows: int, device: torch.device) -> None:
        if field.dtype not in TORCH_DTYPES:
            known = ", ".join(map(str, TORCH_DTYPES))
            raise ProtoRLError(f"a column of dtype {field.dtype} cannot be stored; use one of {known}")
        self.field, self.device = field, device
        self.numbers = int(np.prod(field.shape, dtype=np.int64))  # in a row
        self.small = row_bytes(field) <= SMALL_ROW
        self.buffers = Buffers()
        self.allocate(rows)

    def allocate(self, rows: int) -> None:
        """Not zeroed: pages that are never written take no memory. NumPy asks for huge pages where torch does not, which
        makes reading rows from all over a big table faster by a third."""
        self.array = np.empty((rows, *self.field.shape), self.field.dtype)
        self.data = torch.from_numpy(self.array)

    def write(self, rows: Array, values: Array) -> None:
        """Put `values` [..., *shape] into `rows` [...] int64."""
        if rows.size != 1:
            self.array[rows] = values
        elif self.field.shape:  # a number is four times as fast as an array of one
            self.array[rows.item()] = values
        else:
            self.array[rows.item()] = values.item()

    def read(self, rows: Array) -> torch.Tensor:
        """Rows, as `Storage.place` gives them."""
        if self.small:
            return torch.from_numpy(self.array.take(rows, 0))
        return self.data.index_select(0, torch.from_numpy(rows))

    def words(self) -> Array:
        """The rows as numbers of the largest kind that they are made of: [R, W]."""
        return self.array.reshape(self.array.shape[0], -1).view(np.int64 if row_bytes(self.field) % 8 == 0 else np.uint8)

    def gather(self, rows: Array, k: int = 1) -> torch.Tensor:
        """Rows [T, B], as `Storage.place` gives them: [T, B, ...]. Of rows [T + k - 1, B], k neighbours make one item."""
        shape = (len(rows) - k + 1, rows.shape[1], *stack_shape(self.field, k))
        if self.small:
            rows = rows if k == 1 else np.lib.stride_tricks.sliding_window_view(rows, k, 0)  # [T, B, k]
            return torch.from_numpy(self.array.take(rows, 0)).reshape(shape)
        table = self.words()
        out = self.buffers.take((*shape[:2], k, table.shape[1]), table.dtype)
        gather_stacks(table, rows, out)
        return torch.from_numpy(out).view(self.data.dtype).reshape(shape)

    def span(self, rows: slice) -> torch.Tensor:
        """Neighbouring rows, on the CPU; big ones are not copied."""
        return self.data[rows].clone() if self.small else self.data[rows]

    def read_pair(self, rows: Array, successors: Array, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [B] and successors [B]; [B, k] where k rows make one item: two tensors [B, *shape]."""
        if self.small and rows.ndim == 1:
            return self.read(rows), self.read(successors)
        shape = (rows.shape[0], *shape)
        if self.small:
            return self.read(rows.reshape(-1)).reshape(shape), self.read(successors.reshape(-1)).reshape(shape)
        table = self.words()
        word = table.dtype
        pair = [places.reshape(len(places), -1) for places in (rows, successors)]
        outs = [self.buffers.take((*pair[0].shape, table.shape[1]), word) for _ in range(2)]
        gather_pairs(table, *pair, *outs)
        # The tensors hold the arrays that were lent, however they are viewed: NumPy's own views would not.
        obs, next_obs = (torch.from_numpy(out).view(self.data.dtype).reshape(shape) for out in outs)
        return obs, next_obs

    def copy(self, source: Array, target: Array) -> None:
        self.array[target] = self.array[source]

    def grow(self, rows: int) -> None:
        old = self.data
        self.allocate(rows)
        self.data[: old.shape[0]] = old

    def clear(self, row: int) -> None:
        """Zeros in one row."""
        self.data[row] = 0


class DeviceTable(Table):
    """One column of rows on a GPU. Rows that are written wait in main memory until somebody reads; then all travel together
    (`Storage.place`)."""

    def allocate(self, rows: int) -> None:
        self.waiting: list[tuple[Array, Array]] = []
        self.held = 0  # bytes that wait
        self.small = False
        self.data = torch.empty((rows, *self.field.shape), dtype=TORCH_DTYPES[self.field.dtype], device=self.device)

    def write(self, rows: Array, values: Array) -> None:
        values = np.array(values, self.field.dtype).reshape(-1, *self.field.shape)
        self.waiting.append((np.array(rows, np.int64).reshape(-1), values))
        self.held += values.nbytes
        if self.held > WAITING:
            self.settle()

    def unsent(self) -> tuple[Array, Array]:
        """Rows and values that wait, the last written of each row; they wait no longer."""
        waiting, self.waiting, self.held = self.waiting, [], 0
        if len(waiting) == 1:  # rows written together are different ones
            return waiting[0]
        rows, values = (np.concatenate(parts) for parts in zip(*waiting))
        last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
        return rows[last], values[last]

    def settle(self) -> None:
        """Nothing waits any more."""
        if self.waiting:
            rows, values = send(self.unsent(), self.device)
            self.data.index_copy_(0, rows, values)

    def read(self, rows: Array | torch.Tensor) -> torch.Tensor:
        if not isinstance(rows, torch.Tensor):  # not as `Storage.place` gave them
            self.settle()
            (rows,) = send([rows], self.device)
        return self.data.index_select(0, rows)

    def gather(self, rows: Array | torch.Tensor, k: int = 1) -> torch.Tensor:
        found = self.read(rows.reshape(-1)).reshape(*rows.shape, *self.field.shape)
        return found if k == 1 else stacks(found, k)

    def span(self, rows: slice) -> torch.Tensor:
        self.settle()
        return self.data[rows].cpu()

    def read_pair(
        self, rows: Array | torch.Tensor, successors: Array | torch.Tensor, shape: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (rows.shape[0], *shape)
        return self.read(rows.reshape(-1)).reshape(shape), self.read(successors.reshape(-1)).reshape(shape)

    def copy(self, source: Array, target: Array) -> None:
        values = self.read(source)
        self.data.index_copy_(0, send([target], self.device)[0], values)

    def grow(self, rows: int) -> None:
        self.settle()
        super().grow(rows)

    def clear(self, row: int) -> None:
        self.settle()
        super().clear(row)
