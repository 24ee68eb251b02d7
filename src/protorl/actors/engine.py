"""What workers do, wherever they are, and how whoever starts them speaks with them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cloudpickle
from torch import Tensor

from protorl.actors.actors import Actors, Acts
from protorl.actors.slots import Slots
from protorl.data import Chunk, Columns, ProtoRLError
from protorl.processes import Lost


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


class Report(NamedTuple):
    """What a worker tells of a chunk: the episodes that ended in it, after how many updates the weights were by which it acted,
    and for how many seconds it waited to be asked, and worked."""

    finished: list[Done]
    updates: int
    waited: float
    worked: float


class Filled(NamedTuple):
    """What a worker answers."""

    chunk: Chunk
    report: Report


class Left(Lost):
    """A worker is gone because its machine is: no fault of its own."""


class Unmade(Exception):  # noqa: N818
    """What a worker should host cannot be built there: it would be no better the next time."""


@dataclass(frozen=True)
class Job:
    """What the workers of a training do: the lanes of each, and what it fills for them.

    id: of the environment, for sentences. build: pickled; it makes the agent and the actors of some lanes. columns: of all
    lanes. steps: in a chunk. count: chunks that a worker may be ahead. agent: the learner's. timeout: seconds in which a worker
    must have taken some step.
    """

    id: str
    build: bytes
    lanes: Sequence[range]
    columns: Columns
    steps: int
    count: int
    agent: Publishes
    timeout: float

    def who(self, i: int) -> str:
        """A worker's part, for sentences."""
        lanes = self.lanes[i]
        return f"environment {lanes[0]}" if len(lanes) == 1 else f"environments {lanes[0]} to {lanes[-1]}"

    def columns_of(self, i: int) -> Columns:
        return dataclasses.replace(self.columns, num_envs=len(self.lanes[i]))


class Engine(Protocol):
    """How workers are started, asked, heard and ended; each goes by its number.

    A worker that was started is `up` once it can be asked, and has up to `deep` requests at a time.
    """

    what: str
    """What the workers are, in words."""
    deep: int
    shared: int
    """Bytes of memory that chunks and weights take, at most."""
    beats: Any
    """Of each worker, what it has counted of its steps, as far as that is known: one that hangs counts no more."""

    def start(self, which: Sequence[int], number: int) -> None:
        """Have workers in these places, each with new episodes, whose seeds are of the `number`-th start. Raises: OSError,
        Failed, Lost, Unmade where that cannot be."""
        ...

    def up(self, i: int) -> bool: ...

    def publish(self) -> None:
        """The agent has learned: who is asked from here on acts by its weights of now."""
        ...

    def ask(self, i: int, slot: int) -> None:
        """Have a worker fill a chunk. Raises: Lost."""
        ...

    def hear(self, seconds: float) -> Iterable[tuple[int, Filled | Exception | None]]:
        """What workers have answered, or what became of them, waited for so long; None: from here on it is up."""
        ...

    def drop(self, i: int) -> None:
        """End a worker that has failed, whatever it does."""
        ...

    def end(self) -> list[str]:
        """Have every worker close what it hosts and go; what failed in that, in sentences."""
        ...


class Hosted:
    """At a worker: its agent and its actors, which fill slots as they are asked to.

    build: pickled, makes both. lanes: its part. start: after so many starts, of which each has episodes of its own.
    """

    def __init__(self, build: bytes, lanes: range, start: int) -> None:
        self.build, self.lanes, self.starts = build, lanes, start

    def make(self) -> None:
        """Build agent and actors."""
        self.agent: Publishes
        self.actors: Actors
        built: Callable[[range], tuple[Publishes, Actors]] = cloudpickle.loads(self.build)
        self.agent, self.actors = built(self.lanes)
        if self.starts:
            self.actors.restart(self.starts)
        self.tensors = self.agent.published()
        self.done = time.monotonic()

    def fill(self, slots: Slots, slot: int, beat: Callable[[], object], begin: float) -> Report:
        """Fill a slot. beat: called after every few steps. begin: when that was asked for."""
        n, before, steps = len(self.lanes), self.done, 0
        while steps < slots.steps:
            for chunk in self.actors.poll((slots.steps - steps) * n):
                slots.write(slot, steps, chunk)
                steps += len(chunk.valid)
            beat()
        finished = [Done(one.ret, one.length, self.lanes[one.env], one.members) for one in self.actors.episodes()]
        self.done = time.monotonic()
        return Report(finished, self.agent.updates, begin - before, self.done - begin)

    def failed(self, verb: str, error: BaseException) -> str:
        return str(error) if isinstance(error, ProtoRLError) else f"a worker failed in {verb}(): {error!r}"

    def close(self) -> None:
        if hasattr(self, "actors"):
            self.actors.close()
