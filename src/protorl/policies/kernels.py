"""What a policy decides row by row, compiled."""

from __future__ import annotations

from typing import Any

from protorl.data import Array
from protorl.jit import compiled


@compiled()
def toss(action: Array, coin: Array, epsilon: Any, actions: int) -> None:
    """Where a row's first coin is below `epsilon` (a number, or [N]), its second one chooses the action, in place.

    action [N] of 0 .. actions - 1; coin [N, 2] uniform in [0, 1).
    """
    explore = coin[:, 0] < epsilon
    for i in range(action.shape[0]):
        if explore[i]:
            action[i] = int(coin[i, 1] * actions)  # rounds down
