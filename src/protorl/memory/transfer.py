"""Arrays to a device, many of them in one transfer: on a GPU a transfer costs more than what it carries.

And pages given back to the system.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

import numpy as np
import torch

from protorl.data import Array

ALIGN = 16
"""Bytes: where numbers of another type may begin."""
TORCH_DTYPES: dict[np.dtype[np.generic], torch.dtype] = {
    np.dtype(name): getattr(torch, name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}


def page_out(tensor: torch.Tensor) -> None:
    """Say that this memory is not needed for now. Linux then gives back pages that are mapped from a file, which would count as
    the process's until the file is closed; contents stay as they are, in any kind of memory. Elsewhere nothing happens."""
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = tensor.data_ptr() + tensor.numel() * tensor.element_size() - begin
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), 21)  # MADV_PAGEOUT; older kernels refuse


def send(arrays: Sequence[Array], device: torch.device) -> list[torch.Tensor]:
    """The arrays as tensors on `device`; nothing waits for their arrival. On the CPU they share the arrays' memory."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return together(arrays, device)


def together(arrays: Sequence[Array], device: torch.device, pin: bool = True) -> list[torch.Tensor]:
    """Copied into one buffer, those of one type side by side, sent, and cut apart there."""
    kinds: dict[np.dtype[np.generic], list[int]] = {}
    for i, array in enumerate(arrays):
        kinds.setdefault(array.dtype, []).append(i)
    spans, end = [], 0
    for kind, members in kinds.items():
        start, end = end, end + kind.itemsize * sum(arrays[i].size for i in members)
        spans.append((start, end))
        end = -(-end // ALIGN) * ALIGN
    pinned = torch.empty(end, dtype=torch.uint8, pin_memory=pin)  # torch does not use it again before it has been read
    here = pinned.numpy()
    for (kind, members), (start, stop) in zip(kinds.items(), spans):
        np.concatenate([arrays[i].reshape(-1) for i in members], out=here[start:stop].view(kind))
    there = pinned.to(device, non_blocking=True)
    found: dict[int, torch.Tensor] = {}
    for (kind, members), (start, stop) in zip(kinds.items(), spans):
        pieces = torch.split(there[start:stop].view(TORCH_DTYPES[kind]), [arrays[i].size for i in members])
        found |= {i: piece if arrays[i].ndim == 1 else piece.view(arrays[i].shape) for i, piece in zip(members, pieces)}
    return [found[i] for i in range(len(arrays))]
