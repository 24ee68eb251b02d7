"""metrics.csv: written row by row, and read back."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from protorl.checkpoint import atomic_write
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

    Raises ProtoRLError when the file cannot be opened at all, or is no such table.
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
                self.columns, _ = table_in(data, self.path)
                file.truncate(data.rfind(b"\n") + 1)
        except OSError as error:
            raise ProtoRLError(f"cannot write metrics to {self.path}: {error.strerror}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row, on its way to the disk when this returns."""
        row = {**metrics, "step": step}
        try:
            new = [name for name in metrics if name not in self.columns and name != "step"]
            if new or not self.columns:
                self._rewrite([*(self.columns if self.columns else ["step"]), *new], self._rows())
            self._append(row)
        except OSError as error:
            self._refused(f"cannot write metrics to {self.path}: {error.strerror}")
        except ProtoRLError as error:
            self._refused(str(error))

    def truncate(self, step: int) -> None:
        """Drop the rows beyond `step`: a resumed run writes them again."""
        try:
            rows = self._rows()
            kept = [row for row in rows if int(row["step"]) <= step]
            if len(kept) < len(rows):
                self._rewrite(self.columns, kept)
        except ProtoRLError as error:
            self._refused(str(error))

    def _rows(self) -> list[dict[str, str]]:
        return read_table(self.path)[1]

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
        atomic_write(self.path, _lines(columns, [dict(zip(columns, columns)), *rows]))
        self.columns = columns

    def _refused(self, sentence: str) -> None:
        if not self.silent:
            self.notify(f"{sentence}; training goes on without these rows")
        self.silent = True


def read_metrics(path: Path) -> dict[str, Array]:
    """The columns of a metrics.csv, each float64 [rows]; NaN where a cell is empty. A torn last line is left out.

    Raises ProtoRLError when there is no such file, or it is no such table.
    """
    columns, rows = read_table(path)
    return {name: np.array([float(row[name]) if row[name] else np.nan for row in rows]) for name in columns}


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns' names and the rows of a metrics.csv, as they were written. Raises: as `read_metrics`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ProtoRLError(f"cannot read metrics from {path}: {error.strerror}") from error
    return table_in(data, path)


def table_in(data: bytes, path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The same of a file's bytes."""
    what = f"{path} is damaged"
    way_out = "mend it, or move it away (a resumed run then begins a new one)"
    if not data.startswith(b"step"[: len(data)]):
        raise ProtoRLError(f"{what}: it does not begin with the column step; {way_out}")
    try:
        lines = list(csv.reader(data[: data.rfind(b"\n") + 1].decode().splitlines()))
    except (ValueError, csv.Error) as error:
        raise ProtoRLError(f"{what}: it is no table of text ({error}); {way_out}") from error
    columns = lines[0] if lines else []
    if lines and (columns[:1] != ["step"] or len(set(columns)) < len(columns)):
        raise ProtoRLError(f"{what}: its first line does not name its columns; {way_out}")
    for number, row in enumerate(lines[1:], 2):
        if len(row) != len(columns) or not row[0].isdecimal() or not all(map(_is_cell, row)):
            raise ProtoRLError(f"{what}: line {number} is not a row of {len(columns)} numbers; {way_out}")
    return columns, [dict(zip(columns, row)) for row in lines[1:]]


def _is_cell(text: str) -> bool:
    try:
        float(text if text else "nan")
    except ValueError:
        return False
    return True


def _lines(columns: list[str], rows: Sequence[Mapping[str, Cell]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Cell) -> str:
    return value if isinstance(value, str) else repr(value if type(value) is int else float(value))
