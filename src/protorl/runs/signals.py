"""Ctrl-C, SIGTERM and SIGHUP: noted when they come, acted upon between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from protorl.data import ProtoRLError


class Interrupted(ProtoRLError):  # noqa: N818 - it is not a mistake
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGHUP) and has saved itself. `code` is the exit status."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Signals:
    """Whether somebody asked to stop: `received` is the signal's number, or None."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, Ctrl-C, SIGTERM and the end of the terminal are only noted; where this is not the main thread they are
        somebody else's."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
            numbers.append(signal.SIGHUP)
        before = {}
        try:
            for number in numbers:
                before[number] = signal.signal(number, self.note)
        except ValueError:  # not in the main thread
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal came. Raises KeyboardInterrupt at a second one, which does not wait for the checkpoint."""
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
