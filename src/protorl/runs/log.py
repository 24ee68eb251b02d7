"""A run's log: means of what updates report, kept on the device; episodes; rows of metrics.csv and TensorBoard events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from protorl.data import Finished, ProtoRLError
from protorl.digits import figure
from protorl.runs.metrics import MetricsFile, to_stderr

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


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


class TensorBoardLog:
    """TensorBoard events in `folder`. A run resumed at agent step `resumed_at` hides the events after it."""

    def __init__(self, folder: Path, resumed_at: int | None = None, notify: Callable[[str], None] = to_stderr) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ProtoRLError('TensorBoard is not installed: pip install "tensorboard>=2.15"') from error
        self.notify = notify
        purge = None if resumed_at is None else resumed_at + 1
        self.writer: SummaryWriter | None = SummaryWriter(str(folder), purge_step=purge)

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


class Log:
    """What a run writes down. Between two rows it takes in what updates report (`add`) and the episodes that ended.

    folder: gets metrics.csv and the events. notify: told of a disk that refuses. frame_skip: an emulator's frames per agent
    step, to log them too.
    """

    def __init__(self, folder: Path, frame_skip: int | None, notify: Callable[[str], None]) -> None:
        self.folder, self.frame_skip, self.notify = folder, frame_skip, notify
        self.means = RunningMeans()
        self.add = self.means.add
        self.finished: list[Finished] = []
        self.recent: deque[float] = deque(maxlen=100)
        self.since = (0, 0, 0.0)  # (agent steps, updates, seconds) of the row before

    @contextmanager
    def opened(self, steps: int, updates: int) -> Iterator[None]:
        """Around a training that begins after so many agent steps and updates: rows and events beyond them are of a future that
        did not happen."""
        self.metrics = MetricsFile(self.folder / "metrics.csv", notify=self.notify)
        self.metrics.truncate(steps)
        before = any(self.folder.glob("events.out.tfevents.*"))
        self.board = TensorBoardLog(self.folder, resumed_at=steps if before else None, notify=self.notify)
        self.since = (steps, updates, time.monotonic())
        try:
            yield
        finally:
            self.board.close()

    def episodes(self, finished: Iterable[Finished]) -> None:
        """Episodes that ended."""
        for episode in finished:
            self.finished.append(episode)
            self.recent.append(episode.ret)

    def recent_return(self) -> str | None:
        """Mean return of the last hundred episodes, as the progress line has it."""
        return figure(float(np.mean(self.recent)), float(np.std(self.recent))) if self.recent else None

    def row(self, means: Mapping[str, float], steps: int, updates: int) -> dict[str, float]:
        """The figures since the row before: these means, the episodes, and how fast it went."""
        row = dict(means)
        if self.finished:
            row["return"] = float(np.mean([episode.ret for episode in self.finished]))
            row["length"] = float(np.mean([episode.length for episode in self.finished]))
            row["episodes"] = len(self.finished)
            for name in self.finished[0].members:
                row[f"return_{name}"] = float(np.mean([episode.members[name] for episode in self.finished]))
            self.finished = []
        row["updates"] = updates
        if self.frame_skip is not None:  # an emulator's frames; everything else here counts agent steps
            row["frames"] = steps * self.frame_skip
        steps_then, updates_then, then = self.since
        seconds = max(time.monotonic() - then, 1e-9)
        row["steps_per_second"], row["updates_per_second"] = (steps - steps_then) / seconds, (updates - updates_then) / seconds
        return row

    def write(self, steps: int, row: Mapping[str, float]) -> None:
        """One row of metrics.csv and the same events; the time until now counts for no other row."""
        self.metrics.write(steps, row)
        self.board.write(steps, row)
        self.since = (steps, int(row.get("updates", self.since[1])), time.monotonic())
