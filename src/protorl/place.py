"""Whose code an exception came from."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

OURS = Path(__file__).resolve().parent
LIBRARIES = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")]


def own_place(error: BaseException) -> str | None:
    """The last line of a user's own code that an exception came through, FILE:LINE; None where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.resolve().is_relative_to(root) for root in (OURS, *LIBRARIES)):
            return f"{file}:{frame.lineno}"
    return None
