"""Workers as Ray actors, on this machine or any of a cluster: chunks and weights travel through Ray's object store."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from protorl.actors.engine import Filled, Hosted, Job, Left, Report, Unmade
from protorl.actors.slots import Slots, chunk_bytes
from protorl.actors.weights import Packed
from protorl.data import Array, Columns, ProtoRLError
from protorl.processes import CLOSE_SECONDS, FAILURES, STOPS, THREADS, Block, Failed, Lost, stops_held

PATIENCE = 10.0
"""Seconds after which it is said that workers wait for processors."""
SMALLEST_STORE = 100_000_000
"""Bytes of an object store that is ours alone; Ray takes no less than 75 MiB."""


def imported() -> Any:
    """Ray. Raises: ProtoRLError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ProtoRLError('engine=ray needs Ray: pip install "protorl[ray]"') from error


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Ray takes the signals that ask to stop for itself: afterwards they are as they were."""
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread
            for number, handler in before.items():
                signal.signal(number, handler)


class OnRay:
    """See `Engine`.

    A worker takes one processor (`num_cpus=1`) wherever the cluster has one, and waits for it where it has none; the others go
    on. It has one request at a time: the next is made when its chunk has come. Weights are put into the object store once for
    each number of updates at which somebody asks, and every machine fetches them once.

    address: of the cluster, "auto" or HOST:PORT; None: Ray is started on this machine, and ended with the workers. A program
    that has called `ray.init` is taken at its word.

    Raises: ProtoRLError where Ray is not installed.
    """

    what = "workers on Ray"
    deep = 1

    def __init__(self, job: Job, address: str | None = None) -> None:
        self.ray = imported()
        self.job, self.address, self.ours = job, address, False
        self.beats = [0] * len(job.lanes)
        self.workers: dict[int, Remote] = {}
        self.lanes = [np.array(lanes) for lanes in job.lanes]
        self.columns = [job.columns_of(i) for i in range(len(job.lanes))]
        self.parcel = Packed(job.agent.published())
        chunks = sum(chunk_bytes(columns, job.steps) for columns in self.columns) * (job.count + 1)
        self.shared = chunks + (len(job.lanes) + 1) * self.parcel.size
        self.stale, self.newest = True, None
        self.puts = self.updates = 0  # how often weights were put, the last time after so many updates

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Raises: ProtoRLError where Ray itself fails, and not one of the workers."""
        try:
            yield
        except self.ray.exceptions.RayError as error:
            raise ProtoRLError(f"Ray does not answer any more: {' '.join(str(error).split())}") from error

    # Beginning and end

    def start(self, which: Sequence[int], number: int) -> None:
        if not self.workers:
            self.connect()
            self.began, self.told = time.monotonic(), False
        with self.answering():
            self.place(which, number)

    def place(self, which: Sequence[int], number: int) -> None:
        """Have an actor for each, wherever there is room."""
        actor = self.ray.remote(num_cpus=1, num_gpus=0, max_restarts=0, concurrency_groups={"pulse": 1})(OnNode)
        for i in which:
            job = self.job
            handle = actor.remote(job.build, job.lanes[i], number, self.columns[i], job.steps)
            self.workers[i] = Remote(handle, handle.answer.remote("begin"))
            self.beats[i] = 0

    def connect(self) -> None:
        """Join the cluster, or start one of this machine alone."""
        ray, quiet = self.ray, {"log_to_driver": False, "logging_level": logging.ERROR}
        if ray.is_initialized():
            return
        try:
            with handlers_kept():
                if self.address is None:
                    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                    size = {"num_cpus": len(self.job.lanes), "object_store_memory": max(SMALLEST_STORE, 2 * self.shared)}
                    with stops_held():  # who asks this process to stop may ask all: Ray stays until everything is saved
                        ray.init("local", num_gpus=0, include_dashboard=False, **size, **quiet)
                else:
                    host, _, port = self.address.rpartition(":")
                    if port.isdecimal():  # Ray itself would try for very long
                        socket.create_connection((host, int(port)), timeout=5.0).close()
                    ray.init(self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = " ".join(str(error).split())
            where = "on this machine" if self.address is None else f"at {self.address} (`ray start` begins or joins one)"
            raise ProtoRLError(f"there is no Ray cluster {where}: {what}") from error
        self.ours = True

    def drop(self, i: int) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.workers[i].handle, no_restart=True)

    def end(self) -> list[str]:
        ray, failures = self.ray, list[str]()
        if not (self.workers and ray.is_initialized()):
            self.workers.clear()
            return failures
        with suppress(ray.exceptions.RayError):
            failures += self.closed()
        for i in self.workers:
            self.drop(i)
        self.workers.clear()
        self.stale, self.newest = True, None
        if self.ours:
            with handlers_kept(), suppress(RuntimeError):  # where Ray's own thread collects this, it cannot wait for itself
                ray.shutdown()
            self.ours = False
        return failures

    def closed(self) -> list[str]:
        """Have those that are there close what they host; what failed."""
        ray, failures = self.ray, list[str]()
        closing = {worker.handle.answer.remote("end"): i for i, worker in self.workers.items() if worker.up}
        done, slow = ray.wait(list(closing), num_returns=len(closing), timeout=CLOSE_SECONDS) if closing else ([], [])
        for ref in done:
            with suppress(ray.exceptions.RayError):
                well, *said = ray.get(ref)
                failures += [] if well else said
        who = [self.job.who(closing[ref]) for ref in slow]
        return failures + [f"{self.job.id} took too long in close() of {each}: its worker was killed" for each in who]

    # The traffic

    def up(self, i: int) -> bool:
        return self.workers[i].up

    def publish(self) -> None:
        self.stale = True

    def ask(self, i: int, slot: int) -> None:
        if self.stale:  # only now is there somebody who wants them
            with self.answering():
                self.newest = self.ray.put(self.parcel.packed(self.job.agent.published()))
            self.stale, self.puts, self.updates = False, self.puts + 1, self.job.agent.updates
        worker = self.workers[i]
        weights = self.newest if worker.known != self.puts else None
        worker.ref = worker.handle.answer.remote("act", weights, self.updates)
        worker.known, worker.since = self.puts, time.monotonic()

    def hear(self, seconds: float) -> Iterator[tuple[int, Filled | Exception | None]]:
        ray, refs = self.ray, {worker.ref: i for i, worker in self.workers.items() if worker.ref is not None}
        with self.answering():
            done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
            if not done:
                self.take_pulses()
                done, _ = ray.wait(list(refs), num_returns=1, timeout=seconds)
            if not self.told and time.monotonic() - self.began > PATIENCE:
                self.tell()
        for ref in done:
            yield refs[ref], self.answer(refs[ref])

    def take_pulses(self) -> None:
        """Ask workers that have been silent for long how far they are. They answer while they act."""
        ray, now = self.ray, time.monotonic()
        acting = [worker for worker in self.workers.values() if worker.up and worker.ref is not None]
        silent = [one for one in acting if one.pulse is None and now - one.since > self.job.timeout / 4]
        for worker in silent:
            worker.pulse, worker.since = worker.handle.pulse.options(concurrency_group="pulse").remote(), now
        pulses = {worker.pulse: i for i, worker in self.workers.items() if worker.pulse is not None}
        if pulses:
            done, _ = ray.wait(list(pulses), num_returns=len(pulses), timeout=1.0 if silent else 0)
            for ref in done:
                self.workers[pulses[ref]].pulse = None
                with suppress(ray.exceptions.RayError):  # it has died: its chunk will say so
                    self.beats[pulses[ref]] = ray.get(ref)

    def tell(self) -> None:
        """Say once, where it is so, that workers wait for processors."""
        n, room = len(self.workers), int(self.ray.cluster_resources().get("CPU", 0))
        self.told = True
        if room < n:
            logging.getLogger("protorl").warning(
                f"the Ray cluster has {room} processors for {n} workers: {n - room} wait until there are more"
            )

    def answer(self, i: int) -> Filled | Exception | None:
        """What a worker has answered; None: it is there, and can be asked."""
        worker = self.workers[i]
        try:
            well, value, *report = self.ray.get(worker.ref)
        except self.ray.exceptions.RayError as error:
            return self.lost(i, error)
        if not well:
            return Failed(value) if worker.up else Unmade(value)
        worker.ref = None
        if not worker.up:
            worker.node = value
            return None
        slots = Slots(self.columns[i], self.job.steps, 1, Block(value))
        return Filled(slots.chunk(0, self.lanes[i]), *report)

    def lost(self, i: int, error: Exception) -> Left | Lost:
        """What became of a worker that does not answer."""
        worker, job, exceptions = self.workers[i], self.job, self.ray.exceptions
        doing = "act" if worker.up else "make"
        gone = isinstance(error, exceptions.ActorUnavailableError | exceptions.ObjectLostError | exceptions.NodeDiedError)
        alive = {node["NodeID"]: node["Alive"] for node in self.ray.nodes()}
        if gone or "node has died" in str(error) or not alive.get(worker.node, worker.node is None):
            return Left(f"the machine of the worker of {job.who(i)} has left the cluster, in {doing}() of {job.id}")
        memory = isinstance(error, exceptions.OutOfMemoryError)
        why = " (its machine ran out of memory)" if memory else ""
        return Lost(f"the worker of {job.who(i)} died{why} in {doing}() of {job.id}")


@dataclass
class Remote:
    """A worker, as the learner sees it."""

    handle: Any
    ref: Any  # what it was asked for and has not answered; None: nothing
    node: str | None = None  # where it is, once it is there
    known: int = 0  # the weights that it has, by their number
    since: float = 0.0  # when it was last asked for something
    pulse: Any = None  # asked how far it is, and not answered

    @property
    def up(self) -> bool:
        return self.node is not None


class OnNode(Hosted):
    """In a Ray actor: `Hosted`, with a slot of its own, which travels as one array of bytes."""

    def __init__(self, build: bytes, lanes: range, start: int, columns: Columns, steps: int) -> None:
        super().__init__(build, lanes, start)
        self.columns, self.steps, self.count = columns, steps, 0

    def answer(self, verb: str, *given: Any) -> tuple[Any, ...]:
        """(True, what the method gives ...), or (False, a sentence)."""
        try:
            return True, *getattr(self, verb)(*given)
        except FAILURES as error:
            return False, self.failed(verb, error)

    def begin(self) -> tuple[str]:
        """Build agent and actors; the name of the machine."""
        torch.set_num_threads(THREADS)
        self.make()
        self.slots, self.parcel = Slots(self.columns, self.steps, 1), Packed(self.tensors)
        return (importlib.import_module("ray").get_runtime_context().get_node_id(),)

    def act(self, weights: Array | None, updates: int) -> tuple[Array, Report]:
        """Fill a chunk by these weights (None: those that are there)."""
        begin = time.monotonic()
        if weights is not None:
            self.parcel.unpack(weights, self.tensors)
        self.agent.updates = updates
        report = self.fill(self.slots, 0, self.beat, begin)
        return np.frombuffer(self.slots.memory.block, np.uint8), report

    def beat(self) -> None:
        self.count += 1

    def pulse(self) -> int:
        return self.count

    def end(self) -> tuple[()]:
        self.close()
        return ()
