"""Forward passes of small networks, and steps of recurrent ones, compiled."""

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


@compiled(fastmath={"contract"})
def lstm_step(x: Array, gates: Array, bias: Array, bias_too: Array, c: Array) -> tuple[Array, Array]:
    """h and c [N, size] after one step of an LSTM, float32: x [N, 4 size] is what the input adds to the gates, `gates` what the
    h before adds; c is the one before."""
    rows, size = c.shape
    h_next, c_next = np.empty_like(c), np.empty_like(c)
    one = np.float32(1)
    for n in range(rows):
        for k in range(size):
            i = x[n, k] + gates[n, k] + bias[k] + bias_too[k]
            f = x[n, size + k] + gates[n, size + k] + bias[size + k] + bias_too[size + k]
            g = x[n, 2 * size + k] + gates[n, 2 * size + k] + bias[2 * size + k] + bias_too[2 * size + k]
            o = x[n, 3 * size + k] + gates[n, 3 * size + k] + bias[3 * size + k] + bias_too[3 * size + k]
            c_next[n, k] = c[n, k] / (one + np.exp(-f)) + np.tanh(g) / (one + np.exp(-i))
            h_next[n, k] = np.tanh(c_next[n, k]) / (one + np.exp(-o))
    return h_next, c_next


@compiled(fastmath={"contract"})
def gru_step(x: Array, gates: Array, bias: Array, bias_too: Array, h: Array) -> Array:
    """h [N, size] after one step of a GRU, float32: x [N, 3 size] is what the input adds, `gates` what the h before adds."""
    rows, size = h.shape
    h_next = np.empty_like(h)
    one = np.float32(1)
    for n in range(rows):
        for k in range(size):
            r = one / (one + np.exp(-(x[n, k] + bias[k] + gates[n, k] + bias_too[k])))
            z = one / (one + np.exp(-(x[n, size + k] + bias[size + k] + gates[n, size + k] + bias_too[size + k])))
            new = np.tanh(x[n, 2 * size + k] + bias[2 * size + k] + r * (gates[n, 2 * size + k] + bias_too[2 * size + k]))
            h_next[n, k] = new + z * (h[n, k] - new)
    return h_next


@compiled(fastmath={"reassoc", "contract"})
def nearest(entries: Array, count: Array, x: Array, rows: Array, out: Array) -> None:
    """The k least squared distances of `x` [N, F] to what each row has stored, in ascending order, into `out` [N, k] float32:
    inf where there are fewer, and in rows that are not asked.

    entries [N, M, F] float32, of which count [N] have been written, the newest in the place of the oldest; rows [N] bool.
    """
    k = out.shape[1]
    for n in range(entries.shape[0]):
        for j in range(k):
            out[n, j] = np.inf
        if not rows[n]:
            continue
        for m in range(min(count[n], entries.shape[1])):
            distance = np.float32(0)
            for f in range(entries.shape[2]):
                apart = entries[n, m, f] - x[n, f]
                distance += apart * apart
            if distance < out[n, k - 1]:
                j = k - 1
                while j > 0 and out[n, j - 1] > distance:
                    out[n, j] = out[n, j - 1]
                    j -= 1
                out[n, j] = distance
