"""What a policy decides row by row, compiled."""

from __future__ import annotations

import numpy as np

from protorl.data import Array
from protorl.jit import compiled


@compiled()
def toss(action: Array, coin: Array, epsilon: float | Array, q: Array) -> None:
    """Where a row's first coin is below `epsilon` (a number, or [N]), its second one chooses the action, in place, among those
    whose value is not -inf.

    action [N] of 0 .. A - 1; coin [N, 2] uniform in [0, 1); q [N, A].
    """
    explore = coin[:, 0] < epsilon
    for i in range(action.shape[0]):
        if explore[i]:
            available = 0
            for k in range(q.shape[1]):
                available += q[i, k] != -np.inf
            place = int(coin[i, 1] * available)  # rounds down
            for k in range(q.shape[1]):
                if q[i, k] != -np.inf:
                    if place == 0:
                        action[i] = k
                    place -= 1


@compiled()
def draw(z: Array, p: Array, u: Array) -> tuple[Array, Array, Array]:
    """One choice per row with probabilities in proportion to `p` [N, n] float64, by uniform numbers `u` [N] in [0, 1).

    Gives the choices [N], `z` [N, n] there [N], and the sums of `p` [N].
    """
    rows, n = p.shape
    action, chosen, total = np.zeros(rows, np.int64), np.empty(rows, z.dtype), np.empty(rows)
    for i in range(rows):
        total[i] = 0.0
        for k in range(n):
            total[i] += p[i, k]
        below = 0.0
        for k in range(n):  # the last sum over the total is exactly 1, which no draw reaches: never a choice of probability 0
            below += p[i, k]
            action[i] += below / total[i] <= u[i]
        chosen[i] = z[i, action[i]]
    return action, chosen, total
