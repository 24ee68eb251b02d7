"""What a run says about itself: metrics.csv, TensorBoard events, a progress line, and means kept on the device."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from protorl.data import Array, ProtoRLError


class MetricsFile:
    """metrics.csv: one row per log, one column per metric, the first column `step` in agent steps; open only to write.

    A column that appears later is empty in the rows before it. A last line torn by a killed process is dropped when the
    file is opened. A disk that refuses (full, say) loses rows and costs one notice, never the training.

    Raises ProtoRLError when the file cannot be opened at all.
    """

    def __init__(self, path: Path, notify: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        self.notify = _to_stderr if notify is None else notify
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

    def _append(self, row: Mapping[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with open(self.path, "ab") as file:
                file.write(_lines(self.columns, [row]))
        except OSError:
            os.truncate(self.path, size)  # a part of a row: the next one would continue it
            raise

    def _rewrite(self, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
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


class TensorBoardLog:
    """TensorBoard events in `folder`. A run resumed at agent step `resumed_at` hides the events after it."""

    def __init__(self, folder: Path, resumed_at: int | None = None, notify: Callable[[str], None] | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ProtoRLError('TensorBoard is not installed: pip install "tensorboard>=2.15"') from error
        self.notify = _to_stderr if notify is None else notify
        purge = None if resumed_at is None else resumed_at + 1
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point per metric at this agent step, on its way to the disk when this returns."""
        if self.writer is None:
            return
        try:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()  # a killed process loses no point that a checkpoint has left behind
        except OSError as error:
            self.notify(f"TensorBoard events stop here: {error.strerror}; metrics.csv goes on")
            self.writer = None

    def close(self) -> None:
        if self.writer is not None:
            with suppress(OSError):
                self.writer.close()


class Progress:
    """A line that says how far a run is: agent steps, steps/s, the figures it is given, and the time left.

    On a terminal it stays in place; elsewhere a plain line is printed at most every `every` seconds. Use it as a context
    manager, or `close` it: the last line is then always shown.
    """

    def __init__(self, total: int, start: int = 0, every: float = 10.0, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.total, self.steps = total, start
        self.figures: dict[str, float | None] = {}
        self.marks = deque([(time.monotonic(), start)], maxlen=20)  # (seconds, steps) of the last lines shown
        self.console = Console(highlight=False, soft_wrap=True) if console is None else console
        self.bar: Any = None
        if self.console.is_terminal:
            # Refreshed by `update` alone: no thread of its own takes time from the training.
            columns = BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
            self.bar = Bar(*columns, console=self.console, auto_refresh=False)
            self.task = self.bar.add_task(self._line(), total=total, completed=start)
            self.bar.start()
        self.every = 0.5 if self.bar is not None else every
        self.due = self.marks[0][0] + self.every

    def update(self, steps: int, **figures: float | None) -> None:
        """Tell the agent steps done so far and new figures (`return_=...` shows as "return"); most calls show nothing."""
        self.steps = steps
        if figures:
            self.figures.update(figures)
        now = time.monotonic()
        if now >= self.due:
            self.due = now + self.every
            self._show(now)

    def print(self, text: str) -> None:
        """A line of its own, above the progress line."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Show the last line, unless it stands there already, and leave the terminal as it was."""
        if self.marks[-1][1] != self.steps or self.bar is not None:
            self._show(time.monotonic())
        if self.bar is not None:
            self.bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self.marks.append((now, self.steps))
        if self.bar is None:
            self.print(self._line())
        else:
            self.bar.update(self.task, completed=self.steps, description=self._line(), refresh=True)

    def _line(self) -> str:
        parts = [f"{self.steps:,}/{self.total:,} steps"]
        (began, steps_then), (now, _) = self.marks[0], self.marks[-1]
        rate = (self.steps - steps_then) / (now - began) if now > began else 0.0  # over the last lines only
        if rate > 0:
            parts.append(f"{rate:,.{0 if rate >= 10 else 2}f} steps/s")
        for name, value in self.figures.items():
            if value is not None:
                parts.append(f"{name.rstrip('_').replace('_', ' ')} {value:,.4g}")
        if rate > 0:
            parts.append(f"{_clock((self.total - self.steps) / rate)} left")
        return "  ".join(parts)


class RunningMeans:
    """Means of metrics since the last `pop`, kept on the device: adding never waits for it."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], torch.Tensor] = {}  # names -> their sums, one vector
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, metrics: Mapping[str, torch.Tensor]) -> None:
        """Take in 0-d tensors of one device; their memory may be reused at once (as CUDA graphs do)."""
        if not metrics:
            return
        names = tuple(metrics)
        with torch.no_grad():
            values = torch.stack(list(metrics.values()))
        if names in self.sums:
            self.sums[names] += values
            self.counts[names] += 1
        else:
            self.sums[names], self.counts[names] = values.double(), 1

    def pop(self) -> dict[str, float]:
        """The means, in one transfer, and a fresh start; nothing where nothing was added."""
        if not self.sums:
            return {}
        numbers = iter(torch.cat(list(self.sums.values())).tolist())
        totals: dict[str, tuple[float, int]] = {}
        for names, count in self.counts.items():
            for name in names:
                total, times = totals.get(name, (0.0, 0))
                totals[name] = (total + next(numbers), times + count)
        self.sums, self.counts = {}, {}
        return {name: total / times for name, (total, times) in totals.items()}


def _lines(columns: list[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else repr(value if type(value) is int else float(value))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)
