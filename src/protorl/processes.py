"""Worker processes: each hosts one thing, and answers what its parent asks of it.

A request and its answer are messages; whatever is large lies in memory that both see. Where a worker dies or gives no answer,
its parent says so; where its parent ends, it ends.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import multiprocessing
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import reduction, resource_tracker, spawn
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import numpy as np
import torch

from protorl.modules import reading, work_begins

LOOK_EVERY = 1.0
"""Seconds after which a process that has not answered is looked for; most deaths are seen at once, by the end of the line."""
CLOSE_SECONDS = 5.0
"""What a worker is given to end."""
THREADS = 1
"""Of torch, in a worker."""
STEP: tuple[str, tuple[Any, ...]] = ("step", ())
"""The request that is sent most: as an empty message."""
CLOSED = "closed"
"""The last answer of a worker."""
STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")}
FAILURES = (Exception, SystemExit)
"""What a hosted thing may raise: `sys.exit()` in its code is a failure of its own, not a wish to end the training."""


class Failed(Exception):  # noqa: N818
    """What a worker hosts has failed; the worker is well."""


class Lost(Exception):  # noqa: N818
    """A worker died or gives no answer."""


class Block:
    """Bytes, taken as arrays one after the other."""

    def __init__(self, block: Any) -> None:
        self.block, self.end = block, 0

    def take(self, shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
        """The next array."""
        start, self.end = self.end, self.end + room_for(shape, dtype)
        return np.frombuffer(self.block, dtype, math.prod(shape), start).reshape(shape)


class Memory(Block):
    """Bytes that this process and its workers see alike. They are a file without a name, so nothing of it outlives them.

    forms: the arrays' shapes and dtypes, in the order in which they are taken. file: the descriptor, where there is one.
    """

    def __init__(self, forms: Sequence[tuple[Sequence[int], Any]], file: int | None = None) -> None:
        self.size = sum(room_for(*form) for form in forms)
        self.file = nameless(self.size) if file is None else file
        weakref.finalize(self, os.close, self.file)
        super().__init__(mmap.mmap(self.file, self.size))


def room_for(shape: Sequence[int], dtype: Any) -> int:
    """Bytes that such an array takes: the next one begins at a multiple of 64."""
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // 64) * 64


def nameless(size: int) -> int:
    """The descriptor of a file of this size that is nowhere to be found, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("protorl")
    else:
        with tempfile.TemporaryFile() as held:
            file = os.dup(held.fileno())
    os.ftruncate(file, size)
    return file


class Worker:
    """A process, as its parent sees it. Its first answer is to no request: it is there.

    who, of: what it is, and of what, for sentences ("row 1", "CartPole-v1"). hosts: pickled; called there, it makes the thing
    whose methods answer requests, whose `share` takes memory, and whose `failed(verb, error)` says what an exception means.
    """

    def __init__(self, who: str, of: str, hosts: bytes) -> None:
        work_begins()
        context, main = multiprocessing.get_context("spawn"), spawn.get_preparation_data("")
        self.who, self.of, self.doing = who, of, "start"
        self.line, theirs = context.Pipe()
        with theirs:
            self.process = context.Process(target=serve, args=(theirs, hosts, main), name=f"{of} {who}")
            with main_aside():
                self.process.start()
        self.poller = select.poll()
        self.poller.register(self.line, select.POLLIN)

    def ask(self, verb: str, *given: object) -> None:
        """Send a request. Raises: Lost where nobody is there."""
        self.doing = verb
        try:
            self.line.send_bytes(b"" if (verb, given) == STEP else pickle.dumps((verb, given)))
        except OSError as error:
            raise self.died() from error

    def share(self, memory: Memory, *told: object) -> None:
        """Hand over memory, and what there is to say of it: not a request, there is no answer."""
        self.ask("share", *told)
        reduction.send_handle(self.line, memory.file, self.process.pid)

    def answer(self, seconds: float | None) -> Any:
        """The answer, waited for so long (None: for ever). Raises: Failed, Lost."""
        late = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while not self.poller.poll(1000 * max(min(late - time.monotonic(), LOOK_EVERY), 0)):
                if self.process.exitcode is not None:  # while something that it started holds the line
                    raise EOFError
                if time.monotonic() >= late:
                    raise self.lost(f"gave no answer for {seconds:g} s", ": raise worker_timeout if it needs longer")
        except EOFError as error:
            raise self.died() from error
        return self.read()

    def read(self) -> Any:
        """The answer that has come. Raises: Failed, Lost."""
        try:
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
        return Lost(f"the worker of {self.who} {how} in {self.doing}() of {self.of}{way_out}")


def end(workers: list[Worker]) -> list[str]:
    """Have every worker close what it hosts and go, and kill those that have not after a few seconds. What failed, in
    sentences."""
    for worker in workers:
        with suppress(Lost):
            worker.ask("close")
    late, failures = time.monotonic() + CLOSE_SECONDS, list[str]()
    for worker in workers:
        closed: object = None
        while closed != CLOSED:  # answers to earlier requests come first
            try:
                closed = worker.answer(max(late - time.monotonic(), 0.0))
            except Failed as error:
                failures.append(str(error))
            except Lost as error:
                slow = f"{worker.of} took too long in close() of {worker.who}: its worker was killed"
                failures.append(slow if worker.process.exitcode is None else str(error))
                worker.process.kill()
                break
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


@contextmanager
def main_aside() -> Iterator[None]:
    """Inside, a process that is started does not run this one's main file, which `run_main` does."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def run_main(main: dict[str, Any]) -> None:
    """Run the parent's main file as `multiprocessing` does, up to where its work begins."""
    process: Any = multiprocessing.current_process()
    process._inheriting = True
    try:
        with reading():
            spawn.prepare({key: value for key, value in main.items() if key.startswith("init_main_")})
    finally:
        del process._inheriting


def serve(line: Connection, hosts: bytes, main: dict[str, Any]) -> None:
    """In the worker: answer requests until there is nobody to ask."""
    leave_stops_to_parent()
    end_with_parent()
    torch.set_num_threads(THREADS)
    run_main(main)
    hosted = pickle.loads(hosts)()
    verb = "start"
    with suppress(EOFError, ConnectionError):  # the parent is gone
        line.send_bytes(b"")
        while verb != "close":
            request = line.recv_bytes()
            verb, given = pickle.loads(request) if request else STEP
            if verb == "share":
                hosted.share(reduction.recv_handle(line), *given)
                continue
            try:
                value = getattr(hosted, verb)(*given)
                reply = b"" if value is None else pickle.dumps((True, value))
            except FAILURES as error:
                reply = pickle.dumps((False, hosted.failed(verb, error)))
            if verb != "close" or reply:
                line.send_bytes(reply)
        line.send_bytes(pickle.dumps((True, CLOSED)))


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
