"""Actors elsewhere: each worker has some of the lanes, and an agent of its own with the newest weights."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing import util
from typing import Any

import cloudpickle
import numpy as np

from protorl.actors.actors import Actors, Acts
from protorl.actors.engine import Done, Engine, Filled, Job, Left, Publishes, Unmade
from protorl.actors.in_processes import InProcesses
from protorl.data import Array, Chunk, Columns, Finished, ProtoRLError, State, tree_map
from protorl.processes import LOOK_EVERY, THREADS, Failed, Lost

AHEAD = 2
"""Chunks that a worker may be ahead of the learner: it fills one while the other is read."""
GRACE = 30.0
"""Seconds more for a worker's first steps: code is compiled, libraries are loaded."""
MOST_RESTARTS = 5
"""How often a worker that failed is started again, in one training."""


class WorkerActors:
    """Environments stepped elsewhere, by agents that act with the weights that were published last.

    Each worker fills chunks of `steps` steps of its lanes. It is at most two chunks ahead, then it waits; the learner waits, in
    `poll`, where nothing has come. A worker that dies, hangs, or whose environment fails is started again, with new episodes, a
    few times: what it had handed over is kept, a chunk that is half written is not. One whose machine is gone is started
    elsewhere, as often as that happens.

    agent: the learner's. build: makes a worker's agent and its actors of some lanes; it is sent there pickled. columns: what
    the learner's memory stores, of all lanes. id: of the environment, for sentences. workers: how many. lockstep: `poll` waits
    for a chunk of every worker and puts them side by side: what is learned depends on nothing else. timeout: seconds in which a
    worker must have taken some step. each: lanes of one environment, which stay together. publish_every: updates between
    publications of the weights, at least. engine: how workers are started and spoken with; processes of this machine.

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
        publish_every: int = 1,
        engine: Callable[[Job], Engine] = InProcesses,
    ) -> None:
        n = columns.num_envs // each
        if not 1 <= workers <= n:
            raise ProtoRLError(f"{workers} workers cannot share {n} environments: use 1 to {n}, or raise num_envs")
        self.agent, self.lockstep, self.timeout = agent, lockstep, timeout
        self.publish_every, self.published = publish_every, -1  # after so many updates
        bounds = [n * i // workers * each for i in range(workers + 1)]
        self.lanes = [range(*pair) for pair in pairwise(bounds)]
        self.count = 1 if lockstep else AHEAD
        self.job = Job(id, cloudpickle.dumps(build), self.lanes, columns, steps, self.count, agent, timeout)
        self.engine = engine(self.job)
        self.forget()
        self.finished: list[Done] = []
        self.starts = self.restarts = 0
        self.waited, self.since, self.ages, self.times = 0.0, time.monotonic(), [0, 0], [0.0, 0.0]
        util.Finalize(self, self.engine.end, exitpriority=1)

    def forget(self) -> None:
        """There are no workers, and nothing has come."""
        n = len(self.lanes)
        self.started = False
        self.asked: list[list[int]] = [[] for _ in range(n)]  # slots that a worker fills, in order
        self.free = [list(range(self.count)) for _ in range(n)]
        self.came: list[tuple[int, int, Chunk]] = []  # worker, slot, what is in it: waiting for those of the others
        self.ready: list[tuple[int, int, Chunk]] = []  # the same, not handed over
        self.at = 0  # so many steps of the first one are
        self.used: list[tuple[int, int]] = []  # worker, slot: handed over, and maybe still read
        self.heard = [(0, 0.0)] * n  # what each had counted when it was heard of, and when that was
        self.new = set(range(n))  # workers that have not answered yet

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
            begin, length, lanes = self.at, len(chunk.valid), len(chunk.lanes)
            self.at = min(begin - (-room // lanes), length)
            room -= (self.at - begin) * lanes
            given.append(chunk if self.at - begin == length else Chunk(*[*chunk.part(slice(begin, self.at)), chunk.lanes]))
            if self.at == length:
                self.at = 0
                self.ready.pop(0)
                self.used.append((worker, slot))
        return given

    # The traffic with workers

    def gather(self, timeout: float | None) -> None:
        """Ask for as many chunks as there is room for, and take in what comes, in lockstep one of every worker. Where nothing
        comes for a while it ends, so that whoever trains can look whether to go on."""
        begin = time.monotonic()
        late = begin + (LOOK_EVERY if timeout is None else timeout)
        if not self.started:
            self.start()
        newer = self.published < 0 or not 0 <= self.agent.updates - self.published < self.publish_every
        if newer and any(self.free):  # there is somebody to ask
            self.engine.publish()
            self.published = self.agent.updates
        for i in range(len(self.lanes)):
            self.ask(i)
        left = late - begin
        while not self.ready and left >= 0:  # once at least: what is there costs no time
            self.listen(min(left, LOOK_EVERY))
            left = late - time.monotonic()
        self.waited += time.monotonic() - begin

    def ask(self, i: int) -> None:
        """Have a worker fill its free slots, as many as it may have to do."""
        while self.free[i] and len(self.asked[i]) < self.engine.deep and self.engine.up(i):
            slot = self.free[i].pop(0)
            self.asked[i].append(slot)
            self.heard[i] = int(self.engine.beats[i]), time.monotonic() + (GRACE if i in self.new else 0.0)
            try:
                self.engine.ask(i, slot)
            except Lost as error:
                self.again(i, error)

    def listen(self, seconds: float) -> None:
        """Take in what comes within so many seconds."""
        for i, answer in self.engine.hear(seconds):
            if isinstance(answer, Filled):
                self.take(i, answer)
            elif answer is not None:
                self.again(i, answer)
            self.ask(i)
        beats = self.engine.beats
        for i, (beat, at) in enumerate(self.heard):
            if beats[i] != beat:
                self.heard[i] = int(beats[i]), time.monotonic()
            elif self.asked[i] and time.monotonic() - at > self.timeout:
                self.again(i, Lost(f"the worker of {self.job.who(i)} gave no step for {self.timeout:g} s (worker_timeout)"))

    def take(self, i: int, filled: Filled) -> None:
        """A chunk has come; in lockstep it waits for those of the others."""
        self.new.discard(i)
        self.came.append((i, self.asked[i].pop(0), filled.chunk))
        finished, updates, waited, worked = filled.report
        self.finished += finished
        self.ages = [self.ages[0] + self.agent.updates - updates, self.ages[1] + 1]
        self.times = [self.times[0] + waited, self.times[1] + waited + worked]
        self.heard[i] = int(self.engine.beats[i]), time.monotonic()
        if not self.lockstep:
            self.ready.append(self.came.pop())
        elif len(self.came) == len(self.lanes):
            self.came.sort(key=lambda one: one[0])
            chunk = side_by_side([chunk for _, _, chunk in self.came])
            self.used += [(worker, slot) for worker, slot, _ in self.came[1:]]
            self.ready, self.came = [(*self.came[0][:2], chunk)], []

    # Beginning and end

    def start(self) -> None:
        """Start the workers."""
        try:
            self.engine.start(range(len(self.lanes)), self.starts)
        except (OSError, Lost, Failed, Unmade) as error:
            raise self.none(error) from error
        self.started = True

    def none(self, error: Exception) -> ProtoRLError:
        """The end of a training whose workers cannot be started."""
        self.engine.end()
        return ProtoRLError(f"{len(self.lanes)} {self.engine.what} cannot be started: {error}")

    def again(self, i: int, error: Exception) -> None:
        """A worker failed: another one begins new episodes in its lanes. Raises: ProtoRLError where that was too often."""
        if isinstance(error, Unmade):
            raise self.none(error) from error
        self.restarts += not isinstance(error, Left)
        if self.restarts > MOST_RESTARTS:
            self.engine.end()
            raise ProtoRLError(f"{error}; that was failure {self.restarts} of a worker") from error
        logging.getLogger("protorl").warning(f"{error}; it is started again, with new episodes")
        self.engine.drop(i)
        self.free[i] += self.asked[i]
        self.asked[i] = []
        self.starts += 1
        self.new.add(i)
        try:
            self.engine.start([i], self.starts)
        except (OSError, Lost, Failed, Unmade) as worse:
            self.engine.end()
            raise ProtoRLError(f"{error}, and it cannot be started again: {worse}") from worse
        self.ask(i)

    def publish(self, agent: Acts) -> None:
        """Handed on with the next chunk that is asked for."""

    def episodes(self) -> Sequence[Finished]:
        finished, self.finished = self.finished, []
        return finished

    def figures(self) -> dict[str, float]:
        """Since the last call: the share of time that the learner waited for steps; of the chunks that came in, the share of
        their workers' time that those waited to be asked for them, and how many updates older than the learner's the weights
        were by which they act, when they came."""
        now = time.monotonic()
        share, age = self.waited / max(now - self.since, 1e-9), self.ages[0] / max(self.ages[1], 1)
        idle = self.times[0] / max(self.times[1], 1e-9)
        self.waited, self.since, self.ages, self.times = 0.0, now, [0, 0], [0.0, 0.0]
        return {"learner_waits": share, "actors_wait": idle, "weights_age": age}

    def plan(self) -> dict[str, object]:
        lanes, shared = [len(lanes) for lanes in self.lanes], self.engine.shared
        return {"workers": len(lanes), "environments": lanes, "worker_threads": THREADS, "shared_bytes": shared}

    def rebuild(self, boundary: int) -> None:
        """Environments elsewhere go on: with workers a resumed run begins new episodes."""

    def restart(self, boundary: int) -> None:
        """New episodes everywhere."""
        self.close()
        self.starts += 1

    def close(self) -> None:
        for failure in self.engine.end():
            logging.getLogger("protorl").warning(f"{failure}; what was learned is not touched")
        self.forget()

    def state_dict(self) -> State:
        return {"starts": self.starts}

    def load_state_dict(self, state: State) -> None:
        self.close()
        self.starts = state["starts"] + 1


def side_by_side(chunks: Sequence[Chunk]) -> Chunk:
    """One chunk of all lanes."""

    def joined(*arrays: Array) -> Array:
        return np.concatenate(arrays, 1)

    if len(chunks) == 1:
        return chunks[0]
    *columns, lanes = zip(*chunks)
    arrays: list[Any] = [tree_map(joined, *parts) for parts in columns]
    return Chunk(*[*arrays, np.concatenate(lanes)])
