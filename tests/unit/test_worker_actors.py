"""What actors elsewhere have in common, with an engine that follows a script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.actors.engine import Filled, Job, Left, Report
from protorl.actors.slots import Slots
from protorl.actors.workers import MOST_RESTARTS, WorkerActors
from protorl.modules import brought, texts_of
from protorl.processes import Lost
from tests.contract.cases import small

ROOM = 1_000


class Scripted:
    """Workers that answer at once: with a chunk of zeros, or with what `fails` says."""

    what, deep, shared = "scripted workers", 1, 0

    def __init__(self, job: Job) -> None:
        self.job, self.beats = job, [0] * len(job.lanes)
        self.asked: list[int] = []
        self.most = [0] * len(job.lanes)
        self.published: list[int] = []
        self.started: list[int] = []
        self.fails: list[Exception] = []

    def start(self, which: Any, number: int) -> None:
        self.started += which

    def up(self, i: int) -> bool:
        return True

    def publish(self) -> None:
        self.published.append(self.job.agent.updates)

    def ask(self, i: int, slot: int) -> None:
        self.asked.append(i)
        self.most[i] = max(self.most[i], self.asked.count(i))

    def hear(self, seconds: float) -> Iterator[tuple[int, Filled | Exception]]:
        i = self.asked.pop(0)
        if self.fails:
            yield i, self.fails.pop(0)
        else:
            chunk = Slots(self.job.columns_of(i), self.job.steps, 1).chunk(0, np.array(self.job.lanes[i]))
            yield i, Filled(chunk, Report([], self.published[-1], 0.0, 1.0))

    def drop(self, i: int) -> None:
        self.asked = [each for each in self.asked if each != i]

    def end(self) -> list[str]:
        return []


def made(**fields: Any) -> tuple[Any, Any, Any]:
    """Agent, actors of two workers with a lane each and chunks of four steps, and their engine."""
    agent: Any = small("dqn").build_agent(prl.make_vec_envs("CartPole-v1", 2).spec)
    columns = agent.columns(prl.make_vec_envs("CartPole-v1", 2).spec)
    actors: Any = WorkerActors(
        agent, lambda lanes: (agent, agent), columns, "CartPole-v1", workers=2, steps=4, engine=Scripted, **fields
    )
    return agent, actors, actors.engine


def test_machines_may_leave_as_often_as_they_like_and_workers_fail_a_few_times() -> None:
    _, actors, engine = made()
    for _ in range(20):
        engine.fails = [Left("gone"), Left("gone")]
        assert actors.poll(ROOM)
    assert (actors.restarts, actors.starts, len(engine.started)) == (0, 40, 42)
    for _ in range(MOST_RESTARTS):
        engine.fails = [Lost("died")]
        assert actors.poll(ROOM)
    engine.fails = [Lost("died")]
    with pytest.raises(prl.ProtoRLError, match=r"^died; that was failure 6 of a worker$"):
        actors.poll(ROOM)


def test_a_worker_has_as_many_requests_as_its_engine_takes_and_is_two_chunks_ahead_at_most() -> None:
    _, actors, engine = made()
    came = [0, 0]
    for _ in range(50):
        for chunk in actors.poll(ROOM):
            came[int(chunk.lanes[0])] += len(chunk.valid)
        assert all(len(free) + len(asked) <= 2 for free, asked in zip(actors.free, actors.asked))
    assert engine.most == [1, 1]
    assert abs(came[0] - came[1]) <= 8


@pytest.mark.parametrize(("every", "when"), [(1, list(range(12))), (4, [0, 4, 8])])
def test_weights_are_published_every_so_many_updates(every: int, when: list[int]) -> None:
    agent, actors, engine = made(publish_every=every)
    for _ in range(12):
        actors.poll(ROOM)
        agent.updates += 1
    assert engine.published == when


def test_in_lockstep_a_chunk_has_every_lane() -> None:
    _, actors, engine = made(lockstep=True)
    engine.fails = [Left("gone")]
    (chunk,) = actors.poll(2)
    assert chunk.lanes.tolist() == [0, 1]
    assert chunk.reward.shape == (1, 2)


def test_what_ray_needs_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(prl.ProtoRLError, match=r'^engine=ray needs Ray: pip install "protorl\[ray\]"$'):
        small("apex-dqn", workers=1, engine="ray").build()
    with pytest.raises(prl.ProtoRLError, match="engine=ray needs to know how many workers there are, and workers is 0: "):
        small("dqn", engine="ray")
    with pytest.raises(prl.ProtoRLError, match="address 'auto' is of a Ray cluster, and engine is 'local': use engine=ray"):
        small("dqn", address="auto")


def test_a_file_is_brought_where_it_is_not_the_same(tmp_path: Path) -> None:
    file, wrapper = tmp_path / "mine.py", tmp_path / "wrapper.py"
    file.write_text("one = 1\n")
    wrapper.write_text("two = 2\n")
    texts = texts_of([f"{file}:Mine", "CartPole-v1", "gymnasium.wrappers:ClipReward", f"{wrapper}:Two(a=':')"])
    assert texts == {str(file): "one = 1\n", str(wrapper): "two = 2\n"}
    assert brought(texts) == {str(file): str(file), str(wrapper): str(wrapper)}
    file.write_text("one = 3\n")  # as it is on another machine
    wrapper.unlink()
    places = brought(texts)
    assert places == brought(texts)
    assert [(Path(place).name, Path(place).read_text()) for place in places.values()] == [
        ("mine.py", "one = 1\n"), ("wrapper.py", "two = 2\n"),
    ]  # fmt: skip
    assert file.read_text() == "one = 3\n"
