"""Arrays to a device, many of them in one transfer: on a GPU a transfer costs more than what it carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from protorl.types import Array

ALIGN = 16
"""Bytes: where an array may begin, so that it can be read as any type."""
TORCH_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}


def send(arrays: Sequence[Array], device: torch.device) -> list[torch.Tensor]:
    """The arrays as tensors on `device`; nothing waits for their arrival. On the CPU they share the arrays' memory."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    starts = np.cumsum([0, *(-(-array.nbytes // ALIGN) * ALIGN for array in arrays)]).tolist()
    pinned = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)  # not used again before it has been read
    here = pinned.numpy()
    for array, start in zip(arrays, starts):
        here[start : start + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
    there = pinned.to(device, non_blocking=True)
    return [
        there[start : start + array.nbytes].view(TORCH_DTYPES[array.dtype.name]).view(array.shape)
        for array, start in zip(arrays, starts)
    ]
