"""Actors in this process: in turns with the learner, and one step ahead of it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.data import Act
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
