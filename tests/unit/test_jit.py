"""Compiled loops: kept where they can be, compiled all the same where not."""

from __future__ import annotations

from typing import Any

import numpy as np

from protorl.jit import compiled

LOOP = """
def total(x):
    y = 0.0
    for i in range(x.shape[0]):
        y += x[i]
    return y
"""


def test_a_loop_is_compiled_where_nothing_can_be_kept() -> None:
    scope: dict[str, Any] = {}
    exec(LOOP, scope)  # from no file: Numba finds no place for its cache
    total = compiled()(scope["total"])
    assert total(np.arange(4.0)) == 6.0
    assert total.signatures, "ran as plain Python"


def test_what_the_package_compiles_is_kept() -> None:
    from protorl.memory.kernels import tree_set

    assert tree_set.stats.cache_path  # type: ignore[attr-defined]
