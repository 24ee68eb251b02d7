"""Actors in this process, in turns with the learner or one step ahead of it; and how the steps of others are handed over."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.actors import WorkerActors
from protorl.actors.engine import Filled, Job, Report
from protorl.actors.slots import Slots
from protorl.data import Act, Columns
from tests.contract.cases import small


class Counting:
    """An agent whose action says how many updates it has made."""

    def __init__(self) -> None:
        self.updates = 0

    def initial_carry(self, n: int) -> Any:
        return ()

    def act(self, seen: prl.Seen, carry: Any = (), *, explore: bool) -> Act:
        assert explore
        n = len(seen.obs)
        return Act(np.full(n, self.updates % 2), extras={"updates": np.full(n, self.updates)})


def steps_of(actors: Any, n: int) -> list[Any]:
    steps: list[Any] = []
    while len(steps) < n:
        steps += [step for chunk in actors.poll() for step in chunk.steps()]
        actors.agent.updates += 1
    actors.close()
    return steps


def test_a_step_is_seen_one_poll_later_and_chosen_with_the_weights_of_the_poll() -> None:
    local = steps_of(prl.LocalActors(Counting(), prl.make_vec_envs("CartPole-v1", 3, seed=1)), 60)
    behind = steps_of(prl.OverlappedActors(Counting(), prl.make_vec_envs("CartPole-v1", 3, seed=1)), 60)
    for k, (one, two) in enumerate(zip(local, behind, strict=True)):
        assert (one.extras["updates"] == k).all()
        assert (two.extras["updates"] == k).all()
        for name in ("obs", "action", "reward", "next_obs", "first", "terminated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_the_first_poll_has_nothing_to_tell() -> None:
    actors = prl.OverlappedActors(Counting(), prl.make_vec_envs("CartPole-v1", 2))
    assert actors.poll() == []
    assert len(actors.poll()) == 1
    actors.close()


def test_episodes_belong_to_the_steps_given() -> None:
    actors = prl.OverlappedActors(Counting(), prl.make_vec_envs("protorl/Counter-v0", 1))
    ended = 0
    for _ in range(40):
        for step in [step for chunk in actors.poll() for step in chunk.steps()]:
            ended += int(step.ended.sum())
        if actors.flying is not None:
            actors.flying[0].result()
        assert len(actors.episodes()) == ended
        ended = 0
    actors.close()


def test_environments_step_in_another_thread_while_this_one_works() -> None:
    env = prl.make_vec_envs("CartPole-v1", 1)
    plain, began, go = env.step, threading.Event(), threading.Event()

    def step(action: Any) -> Any:
        began.set()
        assert go.wait(60)
        return plain(action)

    env.step = step  # type: ignore[method-assign]
    actors = prl.OverlappedActors(Counting(), env)
    assert actors.poll() == []
    assert began.wait(60)  # under way, and yet we are here
    go.set()
    assert len(actors.poll()) == 1
    actors.close()


def test_a_crash_of_the_environment_is_raised_here_and_a_restart_forgets_the_step() -> None:
    env = prl.make_vec_envs("CartPole-v1", 1)
    actors = prl.OverlappedActors(Counting(), env)
    actors.poll()
    actors.poll()
    plain = env.step

    def crash(action: Any) -> Any:
        raise prl.ProtoRLError("the pole broke")

    env.step = crash  # type: ignore[method-assign]
    actors.poll()
    with pytest.raises(prl.ProtoRLError, match="the pole broke"):
        actors.poll()
    env.step = plain  # type: ignore[method-assign]
    actors.restart(7)
    assert actors.poll() == []
    assert actors.poll()[0].first.all()
    actors.close()


class Sent:
    """Actors elsewhere, of two lanes, whose steps come as a stream of chance has it: none for a while, then many at once."""

    def __init__(self, often: float) -> None:
        self.env, self.rng, self.often = prl.make_vec_envs("protorl/Counter-v0", 2), np.random.default_rng(0), often
        self.env.reset(0)
        self.polls = 0

    def poll(self, room: int = 1, timeout: float | None = None) -> list[prl.Chunk]:
        self.polls += 1
        if self.rng.random() > self.often:
            return []
        most = min(int(self.rng.integers(1, 40)), -(-room // 2))
        return [prl.Chunk.of(self.env.step(np.zeros(2, np.int64)), np.arange(2)) for _ in range(most)]

    def publish(self, agent: Any) -> None:
        pass


class Steady(prl.Monitor):
    """After every round of the loop as many updates have been made as belong to the steps that were stored."""

    def __init__(self, memory: Any) -> None:
        super().__init__()
        self.memory, self.rounds = memory, 0

    def tick(self) -> None:
        self.rounds += 1
        assert self.updates == self.memory.expected(self.steps)


@pytest.mark.parametrize("often", [0.05, 1.0])  # the learner waits; and the actors do
def test_so_many_updates_for_so_many_steps_whoever_is_slow(often: float) -> None:
    recipe: Any = prl.recipes.DQN(
        env="protorl/Counter-v0",
        widths=(4,),
        batch_size=8,
        warmup_steps=30,
        update_every=7,
        updates=2,
        capacity=500,
        num_envs=2,
    )
    actors: Any = Sent(often)
    agent = recipe.build_agent(actors.env.spec)
    memory = recipe.memory(agent, actors.env.spec)
    watch = Steady(memory)
    prl.train(agent, memory, actors, steps=700, monitor=watch)
    assert watch.updates == agent.updates == 2 * (watch.steps // 7 - 30 // 7) > 180
    assert watch.rounds == actors.polls
    assert (actors.polls > 1_000) == (often < 1)


def test_who_waited_is_a_share_of_the_time_since_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    actors: Any = small("apex-dqn", workers=2, num_envs=2).build().actors
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    actors.figures()
    actors.waited, actors.times, actors.ages = 3.0, [6.0, 8.0], [30, 4]  # s; s of s, of all workers; updates of chunks
    now[0] += 12
    assert actors.figures() == {"learner_waits": 0.25, "actors_wait": 0.75, "weights_age": 7.5}
    now[0] += 12
    assert actors.figures() == {"learner_waits": 0.0, "actors_wait": 0.0, "weights_age": 0.0}


class AtOnce:
    """An engine whose one worker has filled a chunk as soon as it is asked, with numbers that go on."""

    what, deep, shared, beats = "workers", 2, 0, (0,)

    def __init__(self, job: Job) -> None:
        self.job, self.asked, self.rows, self.published = job, list[int](), 0, 0
        self.slots = Slots(job.columns, job.steps, job.count)

    def start(self, which: Any, number: int) -> None:
        """It is there."""

    def up(self, i: int) -> bool:
        return True

    def publish(self) -> None:
        self.published += 1

    def ask(self, i: int, slot: int) -> None:
        rewards = self.slots.slots[slot][2]
        rewards[...] = self.rows + np.arange(rewards.size).reshape(rewards.shape)
        self.rows += rewards.size
        self.asked.append(slot)

    def hear(self, seconds: float) -> Any:
        assert seconds >= 0
        chunk = self.slots.chunk(self.asked.pop(0), np.arange(self.job.columns.num_envs))
        yield 0, Filled(chunk, Report([], 0, 0.0, 0.0))

    def end(self) -> list[str]:
        return []


@pytest.mark.parametrize("rooms", [[1], [2, 3, 1], [7], [30], [9, 1 << 30]])
def test_chunks_are_cut_to_the_room_there_is_and_nothing_is_lost_or_waited_for(rooms: list[int]) -> None:
    spec = prl.make_vec_envs("CartPole-v1", 2).spec
    columns = Columns(spec.obs, spec.action, 2)
    made: list[AtOnce] = []
    agent: Any = Counting()
    actors = WorkerActors(
        agent, lambda lanes: (agent, None), columns, "CartPole-v1", workers=1, steps=5,
        engine=lambda job: made.append(AtOnce(job)) or made[0],  # type: ignore[func-returns-value, arg-type, return-value]
    )  # fmt: skip
    (engine,) = made
    rewards: list[float] = []
    polls = 0
    while len(rewards) < 60:
        room = rooms[polls % len(rooms)]
        given = [chunk.reward.copy() for chunk in actors.poll(room, timeout=0.0)]
        assert 0 < sum(map(len, given)) <= -(-room // 2)  # what is there comes at once
        rewards += [float(number) for one in given for number in one.reshape(-1)]
        polls += 1
    assert rewards == list(range(len(rewards)))
    assert engine.published == 1  # nothing was learned
    agent.updates += 1
    while engine.published == 1:
        assert engine.rows < 100
        actors.poll(4)
