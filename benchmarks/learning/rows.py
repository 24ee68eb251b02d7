"""Rows of results, one for each agent, size and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def key(row: dict[str, Any]) -> tuple[str, int, int]:
    """What there is one row of."""
    return row["agent"], row["size"], row["seed"]


def kept(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where there is none."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def keep(path: Path, row: dict[str, Any]) -> None:
    """Put a row among them, in the place of an older one (other processes may add theirs meanwhile)."""
    rows = sorted([*(other for other in kept(path) if key(other) != key(row)), row], key=key)
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n " + ",\n ".join(map(json.dumps, rows)) + "\n]\n")
