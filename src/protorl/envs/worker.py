"""A worker process that hosts one environment, and its parent's handle on it.

It is asked by a message and answers by one; numbers and observations lie in memory that both see. Where it dies or gives no
answer, its parent says so; where its parent ends, it ends.
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
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from protorl.data import Array, Obs, ObsSpec, State, tree_leaves, tree_map
from protorl.envs import snapshot
from protorl.envs.api import AnySpace
from protorl.envs.gate import CLOSE_SECONDS, FAILURES, Gate, failed
from protorl.envs.spec import empty, single_spec
from protorl.envs.sync import write

LOOK_EVERY = 1.0
"""Seconds after which a process that has not answered is looked for; most deaths are seen at once, by the end of the line."""
STEP: tuple[str, tuple[Any, ...]] = ("step", ())
"""The request that is sent most: as an empty message."""
STOPS = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")}


class Failed(Exception):  # noqa: N818
    """An environment failed in its worker, which is well."""


class Lost(Exception):  # noqa: N818
    """A worker died or gives no answer."""


class Shared:
    """Arrays of one row per environment, which this process and its workers see alike. The memory is a file without a name, so
    nothing of it outlives them.

    action: as the N environments take it. file: the descriptor, where there is one already.
    """

    def __init__(self, spec: ObsSpec, action: Array, file: int | None = None) -> None:
        n = len(action)
        numbers, flags = np.zeros(n), np.zeros(n, np.bool_)
        like: list[Obs] = [action, numbers, numbers.astype(np.float32), flags, flags, empty(spec, n), empty(spec, n)]
        self.spec, self.like, self.end = spec, action, 0
        size = sum(leaf.nbytes + 64 for tree in like for leaf in tree_leaves(tree))
        self.file = nameless(size) if file is None else file
        weakref.finalize(self, os.close, self.file)
        self.block = mmap.mmap(self.file, size)
        views: list[Any] = [tree_map(self.view, tree) for tree in like]
        self.action, self.reward, self.discount, self.terminated, self.truncated, self.next_obs, self.first_obs = views

    def view(self, like: Array) -> Array:
        """The next array, of this shape and dtype."""
        start, self.end = self.end, self.end + -(-like.nbytes // 64) * 64  # aligned: rows of numbers are read at once
        return np.frombuffer(self.block, like.dtype, like.size, start).reshape(like.shape)


def nameless(size: int) -> int:
    """The descriptor of a file of this size that is nowhere to be found, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("protorl")
    else:
        with tempfile.TemporaryFile() as held:
            file = os.dup(held.fileno())
    os.ftruncate(file, size)
    return file


class Made(NamedTuple):
    """What a worker tells of its environment."""

    obs: ObsSpec
    time_limit: int | None
    action_space: AnySpace
    exact: bool
    renders: bool


class Worker:
    """One row's process, as its parent sees it."""

    def __init__(self, maker: bytes, id: str, row: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.id, self.row, self.doing = id, row, "start"
        self.line, theirs = context.Pipe()
        with theirs:
            self.process = context.Process(target=serve, args=(theirs, maker, id, row), name=f"{id} {row}")
            self.process.start()
        self.poller = select.poll()
        self.poller.register(self.line, select.POLLIN)

    def ask(self, verb: str, given: tuple[object, ...]) -> None:
        """Send a request. Raises: Lost where nobody is there."""
        self.doing = verb
        try:
            self.line.send_bytes(b"" if (verb, given) == STEP else pickle.dumps((verb, given)))
        except OSError as error:
            raise self.died() from error

    def share(self, memory: Shared, i: int) -> None:
        """Its row i of the arrays, to be used from now on."""
        self.ask("share", (memory.spec, memory.like, i))
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
        return Lost(f"the worker of row {self.row} {how} in {self.doing}() of {self.id}{way_out}")


def end(workers: list[Worker]) -> list[str]:
    """Have every worker close its environment and go, and kill those that have not after a few seconds. What failed, in
    sentences."""
    for worker in workers:
        with suppress(Lost):
            worker.ask("close", ())
    late, failures = time.monotonic() + CLOSE_SECONDS, list[str]()
    for worker in workers:
        try:
            worker.answer(max(late - time.monotonic(), 0.0))
        except Failed as error:
            failures.append(str(error))
        except Lost as error:
            slow = f"{worker.id} took too long in close() of row {worker.row}: its worker was killed"
            failures.append(slow if worker.process.exitcode is None else str(error))
            worker.process.kill()
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


def serve(line: Connection, maker: bytes, id: str, row: int) -> None:
    """In the worker: answer requests until there is nobody to ask."""
    leave_stops_to_parent()
    end_with_parent()
    torch.set_num_threads(1)
    hosted = Hosted(maker, id, row)
    verb = "start"
    with suppress(EOFError, ConnectionError):  # the parent is gone
        line.send_bytes(b"")
        while verb != "close":
            request = line.recv_bytes()
            verb, given = pickle.loads(request) if request else STEP
            if verb == "share":
                hosted.share(given, reduction.recv_handle(line))
                continue
            try:
                value = getattr(hosted, verb)(*given)
                reply = b"" if value is None else pickle.dumps((True, value))
            except FAILURES as error:
                reply = pickle.dumps((False, str(failed(id, verb, f"row {row}", error))))
            line.send_bytes(reply)


class Hosted:
    """The environment of one row, in its worker; what a step and a reset reveal goes to the memory that its parent sees."""

    gate: Gate
    memory: Shared

    def __init__(self, maker: bytes, id: str, row: int) -> None:
        self.maker, self.id, self.row = maker, id, row

    def retire(self) -> None:
        """Close the environment, if there is one; `make` makes another."""
        if hasattr(self, "gate"):
            self.gate.close()
            del self.gate

    def make(self) -> Made:
        self.retire()
        env = pickle.loads(self.maker)()
        self.gate = Gate(env, self.id, self.row)
        return Made(*single_spec(env), env.action_space, snapshot.exact(env), env.render_mode is not None)

    def share(self, told: tuple[ObsSpec, Array, int], file: int) -> None:
        spec, action, self.i = told
        self.memory = Shared(spec, action, file)

    def step(self) -> None:
        """Act as the memory says; where that ends an episode, the next one begins."""
        here, i = self.memory, self.i
        action = here.action[i]
        seen, here.reward[i], over, cut, kept = self.gate.step(int(action) if isinstance(action, np.integer) else action.copy())
        write(seen, here.next_obs, i)
        here.terminated[i], here.truncated[i], here.discount[i] = over, cut, 0.0 if over else kept
        if over or cut:
            self.reset(None)

    def reset(self, seed: int | None) -> None:
        write(self.gate.reset(seed), self.memory.first_obs, self.i)

    def render(self) -> object:
        return self.gate.render()

    def state_dict(self) -> list[State]:
        return self.gate.state_dict()

    def load_state_dict(self, state: list[State]) -> None:
        self.gate.load_state_dict(state)

    def close(self) -> None:
        if hasattr(self, "gate"):
            self.gate.env.close()  # what it raises, the parent tells


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
