"""Loops over arrays, compiled: the one place that calls Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(*, fastmath: set[str] | None = None) -> Callable[[F], F]:
    """`numba.njit`, cached on disk so that only the first process on a machine pays for it.

    Where there is nowhere to keep it (neither the package's folder nor the user's cache can be written), each process
    compiles anew. `fastmath`: the liberties that LLVM may take with floating point, by its names.
    """

    def decorate(function: F) -> F:
        options: dict[str, Any] = {"fastmath": fastmath or False}
        try:
            return cast(F, numba.njit(cache=True, **options)(function))
        except RuntimeError:  # "no locator available"
            return cast(F, numba.njit(**options)(function))

    return decorate
