"""Actors in worker processes: each has some of the lanes, and an agent of its own with the newest weights."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing import util
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

import cloudpickle
import numpy as np
from torch import Tensor

from protorl.actors.actors import Actors, Acts
from protorl.actors.slots import Slots
from protorl.actors.weights import Weights
from protorl.data import Array, Chunk, Columns, Finished, ProtoRLError, State, tree_map
from protorl.processes import LOOK_EVERY, Failed, Lost, Memory, Worker, end, stops_held


def beats_of(workers: int) -> list[tuple[tuple[int], str]]:
    """Where workers count what they have done, so that one that hangs is seen."""
    return [((workers,), "int64")]


AHEAD = 2
"""Chunks that a worker may be ahead of the learner: it fills one while the other is read."""
GRACE = 30.0
"""Seconds more for a worker's first steps: code is compiled, libraries are loaded."""
MOST_RESTARTS = 5
"""How often a worker that failed is started again, in one training."""


class Publishes(Acts, Protocol):
    """The part of an agent that the learner's process hands on."""

    updates: int

    def published(self) -> list[Tensor]: ...


class Done(NamedTuple):
    """A finished episode, as `Finished`."""

    ret: float
    length: int
    env: int
    members: Mapping[str, float] = {}


class WorkerActors:
    """Environments stepped in other processes, by agents that act with the weights that were published last.

    Each worker fills chunks of `steps` steps of its lanes, in memory that the learner reads. It is at most two chunks ahead,
    then it waits; the learner waits, in `poll`, where nothing has come. A worker that dies, hangs, or whose environment fails
    is started again, with new episodes, a few times: what it had handed over is kept, a chunk that is half written is not.

    agent: the learner's. build: makes a worker's agent and its actors of some lanes; it is sent there pickled. columns: what
    the learner's memory stores, of all lanes. id: of the environment, for sentences. workers: processes. lockstep: `poll` waits
    for a chunk of every worker and puts them side by side: what is learned depends on nothing else. timeout: seconds in which a
    worker must have taken some step. each: lanes of one environment, which stay together.

    Raises: ProtoRLError where a worker fails too often, or cannot be started.
    """

    def __init__(
        self,
        agent: Publishes,
        build: Callable[[range], tuple[Publishes, Actors]],
        columns: Columns,
        id: str,
        *,
        workers: int,
        steps: int = 16,
        lockstep: bool = False,
        timeout: float = 60.0,
        each: int = 1,
    ) -> None:
        n = columns.num_envs // each
        if not 1 <= workers <= n:
            raise ProtoRLError(f"{workers} workers cannot share {n} environments: use 1 to {n}, or raise num_envs")
        self.agent, self.id, self.lockstep, self.timeout = agent, id, lockstep, timeout
        self.weights = Weights(agent.published())
        self.published = -1  # after so many updates
        bounds = [n * i // workers * each for i in range(workers + 1)]
        self.lanes = [range(*pair) for pair in pairwise(bounds)]
        self.slots = [
            Slots(dataclasses.replace(columns, num_envs=len(lanes)), steps, 1 if lockstep else AHEAD) for lanes in self.lanes
        ]
        self.pulse = Memory(beats_of(workers))
        self.beats = self.pulse.take(*beats_of(workers)[0])
        self.hosts = cloudpickle.dumps(build)
        self.workers: list[Worker] = []
        self.asked: list[list[int]] = [[] for _ in self.lanes]  # slots that a worker fills, in order
        self.free = [list(range(slots.count)) for slots in self.slots]
        self.ready: list[tuple[int, int, Chunk]] = []  # worker, slot, what is in it and not handed over
        self.used: list[tuple[int, int]] = []  # worker, slot: handed over, and maybe still read
        self.heard = [(0, 0.0)] * len(self.lanes)  # what each had counted when it was heard of, and when that was
        self.new: set[int] = set()  # workers that have not answered yet
        self.finished: list[Done] = []
        self.starts = self.restarts = 0
        self.waited, self.since, self.ages = 0.0, time.monotonic(), [0, 0]
        util.Finalize(self, end, (self.workers,), exitpriority=1)

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        """See `Actors.poll`."""
        for worker, slot in self.used:  # the memory has copied what it was given
            self.free[worker].append(slot)
        self.used.clear()
        if not self.ready:
            self.gather(timeout)
        given: list[Chunk] = []
        while self.ready and room > 0:
            worker, slot, chunk = self.ready[0]
            most = -(-room // len(chunk.lanes))
            given.append(next(chunk.pieces(most)))
            room -= len(chunk.lanes) * len(given[-1].valid)
            if most < len(chunk.valid):
                self.ready[0] = worker, slot, Chunk(*[*chunk.part(slice(most, None)), chunk.lanes])
            else:
                self.ready.pop(0)
                self.used.append((worker, slot))
        return given

    # The traffic with workers

    def gather(self, timeout: float | None) -> None:
        """Ask for as many chunks as there is room for, and take in what comes: in lockstep one of every worker."""
        begin = time.monotonic()
        late = None if timeout is None else begin + timeout
        if not self.workers:
            self.start()
        self.ask()
        while (self.lockstep and any(self.asked)) or not (self.lockstep or self.ready):
            if late is not None and time.monotonic() >= late:
                break
            self.listen(LOOK_EVERY if late is None else min(max(late - time.monotonic(), 0.0), LOOK_EVERY))
        if self.lockstep and not any(self.asked):
            self.ready.sort(key=lambda one: one[0])
            parts = [chunk for _, _, chunk in self.ready]
            self.used += [(worker, slot) for worker, slot, _ in self.ready[1:]]
            self.ready = [(0, 0, side_by_side(parts))] if len(parts) > 1 else self.ready
        self.waited += time.monotonic() - begin

    def ask(self) -> None:
        """Publish what was learned, and have every free slot filled."""
        if self.published != self.agent.updates:
            self.weights.publish(self.agent.published(), self.agent.updates)
            self.published = self.agent.updates
        for i in range(len(self.workers)):
            while self.free[i]:
                slot = self.free[i].pop(0)
                try:
                    self.workers[i].ask("act", slot)
                except Lost as error:
                    self.free[i].insert(0, slot)
                    self.again(i, error)
                else:
                    self.asked[i].append(slot)
                    self.heard[i] = int(self.beats[i]), time.monotonic() + (GRACE if i in self.new else 0.0)

    def listen(self, seconds: float) -> None:
        """Take in the chunks that come within so many seconds."""
        lines: list[Any] = [worker.line for worker in self.workers]
        for line in wait(lines, seconds):
            i = lines.index(line)
            try:
                steps, finished, updates = self.workers[i].answer(0.0)
            except (Failed, Lost) as error:
                self.again(i, error)
                return
            self.new.discard(i)
            slot = self.asked[i].pop(0)
            self.ready.append((i, slot, self.slots[i].chunk(slot, steps, np.array(self.lanes[i]))))
            self.finished += [Done(*episode) for episode in finished]
            self.ages = [self.ages[0] + self.agent.updates - updates, self.ages[1] + 1]
            self.heard[i] = int(self.beats[i]), time.monotonic()
        for i, (beat, at) in enumerate(self.heard):
            if self.beats[i] != beat:
                self.heard[i] = int(self.beats[i]), time.monotonic()
            elif self.asked[i] and time.monotonic() - at > self.timeout:
                self.again(i, Lost(f"the worker of {self.workers[i].who} gave no step for {self.timeout:g} s (worker_timeout)"))

    # Beginning and end

    def start(self) -> None:
        """Start the workers."""
        try:
            with stops_held():
                self.workers += [self.worker(i) for i in range(len(self.lanes))]
            for i, worker in enumerate(self.workers):
                self.begin(i, worker)
            for worker in self.workers:
                worker.answer(None)
        except (OSError, Lost, Failed) as error:
            end(self.workers)
            raise ProtoRLError(f"{len(self.lanes)} worker processes cannot be started: {error}") from error

    def worker(self, i: int) -> Worker:
        lanes = self.lanes[i]
        which = f"environment {lanes[0]}" if len(lanes) == 1 else f"environments {lanes[0]} to {lanes[-1]}"
        return Worker(which, self.id, cloudpickle.dumps(partial(Hosted, self.hosts, lanes, self.starts, i, len(self.lanes))))

    def begin(self, i: int, worker: Worker) -> None:
        """Ask a worker that was just started to build what acts; the answer may take as long as importing takes."""
        self.new.add(i)
        worker.answer(None)
        worker.share(self.pulse, "pulse")
        worker.share(self.slots[i].memory, "slots", self.slots[i].columns, self.slots[i].steps, self.slots[i].count)
        worker.share(self.weights.memory, "weights")
        worker.ask("make")

    def again(self, i: int, error: Exception) -> None:
        """A worker failed: another one begins new episodes in its lanes. Raises: ProtoRLError where that was too often."""
        self.restarts += 1
        if self.restarts > MOST_RESTARTS:
            end(self.workers)
            raise ProtoRLError(f"{error}; that was failure {self.restarts} of a worker") from error
        logging.getLogger("protorl").warning(f"{error}; it is started again, with new episodes")
        gone = [self.workers[i]]
        gone[0].process.kill()
        end(gone)
        self.free[i] += self.asked[i]
        self.asked[i] = []
        self.starts += 1
        try:
            with stops_held():
                self.workers[i] = self.worker(i)
            self.begin(i, self.workers[i])
            self.workers[i].answer(None)
        except (OSError, Lost, Failed) as worse:
            end(self.workers)
            raise ProtoRLError(f"{error}, and it cannot be started again: {worse}") from worse
        self.ask()

    def publish(self, agent: Acts) -> None:
        """Handed on with the next chunk that is asked for."""

    def episodes(self) -> Sequence[Finished]:
        finished, self.finished = self.finished, []
        return finished

    def figures(self) -> dict[str, float]:
        """Since the last call: the share of time that the learner waited, and how many updates old the weights were by which
        the steps that came in were chosen."""
        now = time.monotonic()
        share, age = self.waited / max(now - self.since, 1e-9), self.ages[0] / max(self.ages[1], 1)
        self.waited, self.since, self.ages = 0.0, now, [0, 0]
        return {"learner_waits": share, "weights_age": age}

    def rebuild(self, boundary: int) -> None:
        """Environments elsewhere go on: with workers a resumed run begins new episodes."""

    def restart(self, boundary: int) -> None:
        """New episodes everywhere."""
        self.close()
        self.starts += 1

    def close(self) -> None:
        for failure in end(self.workers):
            logging.getLogger("protorl").warning(f"{failure}; what was learned is not touched")
        self.asked = [[] for _ in self.lanes]
        self.free = [list(range(slots.count)) for slots in self.slots]
        self.ready, self.used = [], []

    def state_dict(self) -> State:
        return {"starts": self.starts}

    def load_state_dict(self, state: State) -> None:
        self.close()
        self.starts = state["starts"] + 1


def side_by_side(chunks: Sequence[Chunk]) -> Chunk:
    """One chunk of all lanes."""

    def joined(*arrays: Array) -> Array:
        return np.concatenate(arrays, 1)

    *columns, lanes = zip(*chunks)
    arrays: list[Any] = [tree_map(joined, *parts) for parts in columns]
    return Chunk(*[*arrays, np.concatenate(lanes)])


class Hosted:
    """In a worker: its agent and its actors, which fill slots as they are asked to."""

    def __init__(self, build: bytes, lanes: range, start: int, i: int, workers: int) -> None:
        self.build, self.lanes, self.starts, self.i, self.workers = build, lanes, start, i, workers
        self.files: dict[str, tuple[int, tuple[Any, ...]]] = {}
        self.known = -1

    def share(self, file: int, what: str, *told: Any) -> None:
        self.files[what] = file, told

    def make(self) -> None:
        """Build agent and actors, and find the memory that they share with the learner."""
        self.agent, self.actors = cloudpickle.loads(self.build)(self.lanes)
        if self.starts:
            self.actors.restart(self.starts)
        self.tensors = self.agent.published()
        self.weights = Weights(self.tensors, self.files["weights"][0])
        file, (columns, steps, count) = self.files["slots"]
        self.slots = Slots(columns, steps, count, file)
        self.beats = Memory(beats_of(self.workers), self.files["pulse"][0]).take(*beats_of(self.workers)[0])

    def act(self, slot: int) -> tuple[int, list[Done], int]:
        """Fill a slot; how many steps are in it, the episodes that ended, after how many updates the weights were."""
        self.known, updates = self.weights.fetch(self.tensors, self.known)
        self.agent.updates = updates
        n, steps = len(self.lanes), 0
        while steps < self.slots.steps:
            for chunk in self.actors.poll((self.slots.steps - steps) * n):
                self.slots.write(slot, steps, chunk)
                steps += len(chunk.valid)
            self.beats[self.i] += 1
        finished = [Done(one.ret, one.length, self.lanes[one.env], one.members) for one in self.actors.episodes()]
        return steps, finished, updates

    def failed(self, verb: str, error: BaseException) -> str:
        return str(error) if isinstance(error, ProtoRLError) else f"a worker failed in {verb}(): {error!r}"

    def close(self) -> None:
        if hasattr(self, "actors"):
            self.actors.close()
