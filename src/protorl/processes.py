"""Worker processes: each hosts one thing, and answers what its parent asks of it.

A request and its answer are messages; whatever is large lies in memory that both see. Where a worker dies or gives no answer,
its parent says so; where its parent ends, it ends.
"""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
import torch

LOOK_EVERY = 1.0
"""Seconds after which a process that has not answered is looked for; most deaths are seen at once, by the end of the line."""
CLOSE_SECONDS = 5.0
"""What a worker is given to end."""
STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
FAILURES = (Exception, SystemExit)
"""What a hosted thing may raise: `sys.exit()` in its code is a failure of its own, not a wish to end the training."""


class Failed(Exception):  # noqa: N818
    """What a worker hosts has failed; the worker is well."""


class Lost(Exception):  # noqa: N818
    """A worker died or gives no answer."""


class SharedBytes:
    """Memory that this process and its workers see alike, taken in pieces. It has no name, so nothing of it outlives them."""

    def __init__(self, size: int, block: Any = None) -> None:
        self.size, self.end = size, 0
        self.block = RawArray("b", size) if block is None else block

    def take(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """The next array, of this shape and dtype; who takes the same in the same order gets the same memory."""
        kind, size = np.dtype(dtype), math.prod(shape)
        start, self.end = self.end, self.end + room_for(shape, dtype)
        return np.frombuffer(self.block, kind, size, start).reshape(shape)

    def __reduce__(self) -> tuple[object, ...]:
        return SharedBytes, (self.size, self.block)


def room_for(shape: Sequence[int], dtype: Any) -> int:
    """Bytes that such an array takes: its start is aligned."""
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // 64) * 64


class Worker:
    """A process, as its parent sees it.

    hosts: pickled; called there with `given`, at the request "make", it makes the thing whose methods `tell_VERB` answer
    requests. name, of: what it is, and of what, for sentences ("the worker of row 1", "CartPole-v1"). Its first answer is to no
    request: it is there.
    """

    def __init__(self, name: str, of: str, hosts: bytes, given: tuple[object, ...] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.of, self.doing = name, of, "start"
        self.line, theirs = context.Pipe()
        with theirs:
            self.process = context.Process(target=serve, args=(theirs, hosts, given), name=name)
            self.process.start()
        self.poller = select.poll()
        self.poller.register(self.line, select.POLLIN)

    def ask(self, verb: str, *given: object) -> None:
        """Send a request. Raises: Lost where nobody is there."""
        self.doing = verb
        try:
            self.line.send_bytes(pickle.dumps((verb, given)))
        except OSError as error:
            raise self.died() from error

    def answer(self, seconds: float | None) -> Any:
        """The answer to the oldest request, waited for so long (None: for ever). Raises: Failed, Lost."""
        late = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while not self.poller.poll(1000 * max(min(late - time.monotonic(), LOOK_EVERY), 0)):
                if self.process.exitcode is not None:  # while something that it started holds the line
                    raise EOFError
                if time.monotonic() >= late:
                    raise self.lost(f"gave no answer for {seconds:g} s", ": raise worker_timeout if it needs longer")
            reply = self.line.recv_bytes()
        except (EOFError, OSError) as error:
            raise self.died() from error
        if not reply:
            return None
        well, value = pickle.loads(reply)
        if not well:
            raise Failed(value)
        return value

    def died(self) -> Lost:
        """Nobody is there: what became of the process."""
        self.process.join(LOOK_EVERY)
        code = self.process.exitcode
        if code is None:
            return self.lost("closed its line")
        return self.lost(f"died ({f'signal {-code}' if code < 0 else f'exit status {code}'})")

    def lost(self, how: str, way_out: str = "") -> Lost:
        return Lost(f"{self.name} {how} in {self.doing}() of {self.of}{way_out}")


def end(workers: list[Worker]) -> list[str]:
    """Have every worker close what it hosts and go, and kill those that have not after a few seconds. What failed, in
    sentences."""
    for worker in workers:
        with suppress(Lost):
            worker.ask("close")
    late, failures = time.monotonic() + CLOSE_SECONDS, list[str]()
    for worker in workers:
        closed = False
        while not closed:  # answers to earlier requests come first
            try:
                closed = worker.answer(max(late - time.monotonic(), 0.0)) == "closed"
            except Failed as error:
                failures.append(str(error))
            except Lost as error:
                row = worker.name.removeprefix("the worker of ")
                slow = f"{worker.of} took too long in close() of {row}: its worker was killed"
                failures.append(slow if worker.process.exitcode is None else str(error))
                worker.process.kill()
                closed = True
    late = time.monotonic() + CLOSE_SECONDS
    for worker in workers:
        worker.process.join(max(late - time.monotonic(), 0.0))
        worker.process.kill()
        worker.process.join()
        worker.line.close()
        worker.process.close()
    workers.clear()
    return failures


@contextmanager
def stops_held() -> Iterator[None]:
    """Inside, a process that is started takes no signal that asks to stop until it is ready for them."""
    resource_tracker.ensure_running()  # a process of Python's own, for which they are not to be held
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(line: Connection, hosts: bytes, given: tuple[object, ...]) -> None:
    """In the worker: answer requests until there is nobody to ask."""
    leave_stops_to_parent()
    end_with_parent()
    torch.set_num_threads(1)
    hosted: Any = None
    with suppress(EOFError, ConnectionError):  # the parent is gone
        line.send_bytes(b"")
        while True:
            verb, arguments = pickle.loads(line.recv_bytes())
            value = None
            try:
                if verb == "make":
                    if hosted is not None:
                        hosted.tell_close()
                    make: Callable[..., Any] = pickle.loads(hosts)
                    hosted = make(*given)
                elif hosted is not None:
                    value = getattr(hosted, f"tell_{verb}")(*arguments)
                value = "closed" if verb == "close" else value
                reply = b"" if value is None else pickle.dumps((True, value))
            except FAILURES as error:
                reply = pickle.dumps((False, str(error) or type(error).__name__))
                if verb == "close":  # it has failed to, and is gone all the same
                    line.send_bytes(reply)
                    reply = pickle.dumps((True, "closed"))
            line.send_bytes(reply)
            if verb == "close":
                return


def leave_stops_to_parent() -> None:
    """Terminals and service managers send these to a whole group of processes: what follows is for the parent to say, which may
    have to save first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in STOPS - {signal.SIGINT}:
        signal.signal(number, lambda *_: None)  # a handler: what the environment starts would inherit SIG_IGN, and not end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def end_with_parent() -> None:
    """Have the system kill this process once its parent has ended, whatever it is doing then, and if it is stopped. (Where that
    cannot be asked for, as on macOS, it ends after its step.)"""
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(fcntl, "F_SETSIG"):
        line = parent.sentinel  # which the parent holds open
        fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)
