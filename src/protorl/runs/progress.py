"""A progress line: how far a run is, how fast it acts and learns, and the time left."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress:
    """A line that says how far a run is: agent steps, steps/s, updates/s, the figures it is given, and the time left.

    On a terminal it stays in place; elsewhere a plain line is printed at most every `every` seconds. Use it as a context
    manager, or `close` it: the last line is then always shown.
    """

    def __init__(
        self, total: int, start: int = 0, every: float = 10.0, console: Console | None = None, updates: int = 0
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.total, self.steps, self.updates = total, start, updates
        self.figures: dict[str, float | str | None] = {}
        self.marks = deque([(time.monotonic(), start, updates)], maxlen=20)  # (seconds, steps, updates) of the last lines shown
        self.console = Console(highlight=False, soft_wrap=True) if console is None else console
        self.bar: Bar | None = None
        if self.console.is_terminal:
            # Refreshed by `update` alone: no thread of its own takes time from the training.
            columns = BarColumn(bar_width=24), TextColumn("{task.description}", markup=False)
            self.bar = Bar(*columns, console=self.console, auto_refresh=False)
            self.task = self.bar.add_task(self._line(), total=total, completed=start)
            self.bar.start()
        self.every = 0.5 if self.bar is not None else every
        self.due = self.marks[0][0] + self.every
        self.hears = Pauses(self)

    def update(self, steps: int, updates: int = 0, **figures: float | str | None) -> None:
        """Tell the agent steps and updates so far and new figures (`return_=...` shows as "return"), numbers or words; most
        calls show nothing."""
        self.steps, self.updates = steps, updates
        if figures:
            self.figures.update(figures)
        now = time.monotonic()
        if now >= self.due:
            self.due = now + self.every
            self._show(now)

    def pause(self) -> None:
        """What happens now is no training (compiling, say): no word of speed and time left until two more lines were shown."""
        self.marks.clear()
        if self.bar is not None:
            self.bar.update(self.task, description=self._line(), refresh=True)

    def print(self, text: str) -> None:
        """A line of its own, above the progress line."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Show the last line, unless it stands there already, and leave the terminal as it was."""
        if not self.marks or self.marks[-1][1] != self.steps or self.bar is not None:
            self._show(time.monotonic())
        if self.bar is not None:
            self.bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self.marks.append((now, self.steps, self.updates))
        if self.bar is None:
            self.print(self._line())
        else:
            self.bar.update(self.task, completed=self.steps, description=self._line(), refresh=True)

    def _line(self) -> str:
        parts = [f"{self.steps:,}/{self.total:,} steps"]
        rate, updates = self._rates()
        for each, what in ((rate, "steps"), (updates, "updates")):
            if each > 0:
                parts.append(f"{each:,.{0 if each >= 10 else 2}f} {what}/s")
        for name, value in self.figures.items():
            if value is not None:
                shown = value if isinstance(value, str) else f"{value:,.4g}"
                parts.append(f"{name.rstrip('_').replace('_', ' ')} {shown}")
        if rate > 0:
            parts.append(f"{_clock((self.total - self.steps) / rate)} left")
        return "  ".join(parts)

    def _rates(self) -> tuple[float, float]:
        """Steps and updates per second, over the last lines only; zeros where that is not known."""
        if len(self.marks) < 2 or self.marks[-1][0] <= self.marks[0][0]:
            return 0.0, 0.0
        (began, steps, updates), (now, _, _) = self.marks[0], self.marks[-1]
        return (self.steps - steps) / (now - began), (self.updates - updates) / (now - began)


class Pauses(logging.Handler):
    """Pauses the progress line whenever the library says that it waits for something (a record's `waits`)."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "waits", False):
            self.progress.pause()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
