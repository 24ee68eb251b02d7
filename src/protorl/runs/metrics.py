"""metrics.csv: written row by row, and read back."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from protorl.data import Array, ProtoRLError

Cell = str | float
"""A cell of the table: as it was read, or a number."""


def to_stderr(sentence: str) -> None:
    """Where a sentence goes that nobody else takes."""
    print(sentence, file=sys.stderr)


class MetricsFile:
    """metrics.csv: one row per log, one column per metric, the first column `step` in agent steps; open only to write.

    A column that appears later is empty in the rows before it. A last line torn by a killed process is dropped when the
    file is opened. A disk that refuses (full, say) loses rows and costs one notice, never the training.

    Raises ProtoRLError when the file cannot be opened at all.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] = to_stderr) -> None:
        self.path = Path(path)
        self.notify = notify
        self.silent = False  # a disk that refuses is reported once
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab+") as file:
                file.seek(0)
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
        except OSError as error:
            raise ProtoRLError(f"cannot write metrics to {self.path}: {error.strerror}") from error
        self.columns = next(csv.reader([data.partition(b"\n")[0].decode()]), []) if b"\n" in data else []

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row, on its way to the disk when this returns."""
        row = {**metrics, "step": step}
        try:
            new = [name for name in metrics if name not in self.columns and name != "step"]
            if new or not self.columns:
                self._rewrite([*(self.columns if self.columns else ["step"]), *new], self._rows())
            self._append(row)
        except OSError as error:
            self._refused(error)

    def truncate(self, step: int) -> None:
        """Drop the rows beyond `step`: a resumed run writes them again."""
        try:
            rows = self._rows()
            kept = [row for row in rows if int(row["step"]) <= step]
            if len(kept) < len(rows):
                self._rewrite(self.columns, kept)
        except OSError as error:
            self._refused(error)

    def _rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.path.read_bytes().decode().splitlines()))

    def _append(self, row: Mapping[str, Cell]) -> None:
        size = self.path.stat().st_size
        try:
            with open(self.path, "ab") as file:
                file.write(_lines(self.columns, [row]))
        except OSError:
            os.truncate(self.path, size)  # a part of a row: the next one would continue it
            raise

    def _rewrite(self, columns: list[str], rows: Sequence[Mapping[str, Cell]]) -> None:
        """Exchange the whole file in one instant."""
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        try:
            with open(temporary, "wb") as file:
                file.write(_lines(columns, [dict(zip(columns, columns)), *rows]))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self.columns = columns

    def _refused(self, error: OSError) -> None:
        if not self.silent:
            self.notify(f"cannot write metrics to {self.path}: {error.strerror}; training goes on without these rows")
        self.silent = True


def read_metrics(path: Path) -> dict[str, Array]:
    """The columns of a metrics.csv, each float64 [rows]; NaN where a cell is empty. A torn last line is left out.

    Raises ProtoRLError when there is no such file.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ProtoRLError(f"cannot read metrics from {path}: {error.strerror}") from error
    rows = list(csv.reader(text[: text.rfind(b"\n") + 1].decode().splitlines()))
    if not rows:
        return {}
    table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows[1:]])  # [rows, columns]
    return dict(zip(rows[0], table.reshape(-1, len(rows[0])).T))


def _lines(columns: list[str], rows: Sequence[Mapping[str, Cell]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Cell) -> str:
    return value if isinstance(value, str) else repr(value if type(value) is int else float(value))
