"""Workers as processes of this machine: chunks, weights and pulse lie in memory that all see."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import cloudpickle
import numpy as np

from protorl.actors.engine import Filled, Hosted, Job, Report
from protorl.actors.slots import Slots
from protorl.actors.weights import Weights
from protorl.processes import Failed, Lost, Memory, Worker, end, stops_held


def beats_of(workers: int) -> list[tuple[tuple[int], str]]:
    """Where workers count what they have done, so that one that hangs is seen."""
    return [((workers,), "int64")]


class InProcesses:
    """See `Engine`."""

    what = "worker processes"

    def __init__(self, job: Job) -> None:
        self.job, self.deep = job, job.count
        self.weights = Weights(job.agent.published())
        self.slots = [Slots(job.columns_of(i), job.steps, job.count) for i in range(len(job.lanes))]
        self.pulse = Memory(beats_of(len(job.lanes)))
        self.beats = self.pulse.take(*beats_of(len(job.lanes))[0])
        self.lanes = [np.array(lanes) for lanes in job.lanes]
        self.workers: list[Worker] = []
        self.poller = select.poll()  # of all lines, made once: with each look it would take longer than the answer
        self.by_line: dict[int, int] = {}  # the worker of each
        self.shared = sum(memory.size for memory in (self.pulse, self.weights.memory, *(slots.memory for slots in self.slots)))

    def start(self, which: Sequence[int], number: int) -> None:
        with stops_held():
            for i in which:
                self.workers[i : i + 1] = [self.worker(i, number)]
                self.poller.register(self.workers[i].line, select.POLLIN)
                self.by_line[self.workers[i].line.fileno()] = i
        for i in which:
            self.begin(i)
        for i in which:
            self.workers[i].answer(None)

    def worker(self, i: int, number: int) -> Worker:
        job = self.job
        hosts = partial(InProcess, job.build, job.lanes[i], number, i, len(job.lanes))
        return Worker(job.who(i), job.id, cloudpickle.dumps(hosts))

    def begin(self, i: int) -> None:
        """Ask a worker that was just started to build what acts; the answer may take as long as importing takes."""
        worker, slots = self.workers[i], self.slots[i]
        worker.answer(None)
        worker.share(self.pulse, "pulse")
        worker.share(slots.memory, "slots", slots.columns, slots.steps, slots.count)
        worker.share(self.weights.memory, "weights")
        worker.ask("make")

    def up(self, i: int) -> bool:
        return True

    def publish(self) -> None:
        self.weights.publish(self.job.agent.published(), self.job.agent.updates)

    def ask(self, i: int, slot: int) -> None:
        self.workers[i].ask("act", slot)

    def hear(self, seconds: float) -> Iterator[tuple[int, Filled | Exception]]:
        for line, _ in self.poller.poll(1000 * seconds):
            i = self.by_line[line]
            try:
                slot, report = self.workers[i].read()
            except (Failed, Lost) as error:
                yield i, error
                return
            yield i, Filled(self.slots[i].chunk(slot, self.lanes[i]), report)

    def drop(self, i: int) -> None:
        gone = [self.workers[i]]
        self.poller.unregister(gone[0].line)
        gone[0].process.kill()
        end(gone)

    def end(self) -> list[str]:
        self.poller = select.poll()
        return end(self.workers)


class InProcess(Hosted):
    """In a worker process: `Hosted`, and the memory that it shares with the learner."""

    def __init__(self, build: bytes, lanes: range, start: int, i: int, workers: int) -> None:
        super().__init__(build, lanes, start)
        self.i, self.workers = i, workers
        self.files: dict[str, tuple[int, tuple[Any, ...]]] = {}
        self.known = -1

    def share(self, file: int, what: str, *told: Any) -> None:
        self.files[what] = file, told

    def make(self) -> None:
        """Build agent and actors, and find the memory."""
        super().make()
        self.weights = Weights(self.tensors, self.files["weights"][0])
        file, (columns, steps, count) = self.files["slots"]
        self.slots = Slots(columns, steps, count, file)
        self.beats = Memory(beats_of(self.workers), self.files["pulse"][0]).take(*beats_of(self.workers)[0])

    def act(self, slot: int) -> tuple[int, Report]:
        """Fill a slot by the newest weights, and say so."""
        begin = time.monotonic()
        self.known, self.agent.updates = self.weights.fetch(self.tensors, self.known)
        return slot, self.fill(self.slots, slot, self.beat, begin)

    def beat(self) -> None:
        self.beats[self.i] += 1
