"""Forward passes of small networks, compiled."""

from __future__ import annotations

import numpy as np

from protorl.data import Array
from protorl.jit import compiled

WORTH = 100_000
"""Multiplications up to which this loop is faster than a library's products, one layer after the other."""


@compiled(fastmath={"reassoc", "contract"})
def relu_layers(x: Array, weights: tuple[Array, ...], biases: tuple[Array, ...], last: bool) -> Array:
    """`x W^T + b` [N, out] layer by layer, with ReLU between, and after the last one if asked: float32 throughout."""
    for k in range(len(weights)):
        weight, bias = weights[k], biases[k]
        y = np.empty((x.shape[0], weight.shape[0]), np.float32)
        for n in range(x.shape[0]):
            for o in range(weight.shape[0]):
                total = bias[o]
                for i in range(weight.shape[1]):
                    total += x[n, i] * weight[o, i]
                if total < 0 and (last or k < len(weights) - 1):  # NaN stays
                    total = np.float32(0)
                y[n, o] = total
        x = y
    return x
