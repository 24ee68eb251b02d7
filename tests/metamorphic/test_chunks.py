"""Many steps at a time are the same as one at a time, whatever ends a chunk."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.actors import local
from protorl.data import Act, Seen
from protorl.recipes.start import start
from tests.contract.test_resume import assert_equal, final_state, make

CASES: dict[str, dict[str, Any]] = {
    "dqn": {"update_every": 16},
    "d3qn": {"num_envs": 3, "update_every": 10},
    "ppo": {"num_envs": 4},
    "ddpg": {"update_every": 7},
    "apex-dqn": {"num_envs": 3, "update_every": 10},
}


def trained(folder: Path, name: str) -> tuple[Any, Any]:
    recipe = make(name, steps=600, eval_every=230, log_every=170, checkpoint_every=350, **CASES[name])
    start(recipe, folder, progress=False)
    with open(folder / "metrics.csv") as file:
        rows = [{key: value for key, value in row.items() if not key.endswith("_per_second")} for row in csv.DictReader(file)]
    return final_state(folder), rows


@pytest.mark.parametrize("name", CASES)
def test_a_run_does_not_depend_on_the_length_of_chunks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: dict[str, list[int]] = {}
    states = {}
    for way, most, prompt in (("one", 1, 1.0), ("many", 128, 1.0), ("odd", 5, 1.0), ("hurried", 128, 0.0)):
        monkeypatch.setattr(local, "MOST", most)
        monkeypatch.setattr(local, "PROMPT", prompt)
        noted, plain = lengths.setdefault(way, []), local.LocalActors.poll

        def poll(self: Any, *args: Any, noted: Any = noted, plain: Any = plain) -> Any:
            chunks = plain(self, *args)
            noted.extend(len(chunk.reward) for chunk in chunks)
            return chunks

        with monkeypatch.context() as patch:
            patch.setattr(local.LocalActors, "poll", poll)
            states[way] = trained(tmp_path / way, name)
    assert set(lengths["one"]) == {1} == set(lengths["hurried"])
    assert max(lengths["many"]) > 5 == max(lengths["odd"])
    for way in ("many", "odd", "hurried"):
        assert sum(lengths[way]) == sum(lengths["one"])
        for one, other in zip(states["one"], states[way]):
            assert_equal(one, other, way)


def test_large_observations_are_handed_over_one_by_one() -> None:
    actors = prl.recipes.PPO(env="ALE/Pong-v5", num_envs=2).build().actors
    (chunk,) = actors.poll(1_000)
    assert len(chunk.reward) == 1
    actors.close()


class Plain:
    """Acts on nothing and has nothing."""

    def initial_carry(self, n: int) -> Any:
        return ()

    def act(self, seen: Seen, carry: Any = (), *, explore: bool) -> Act:
        return Act(np.zeros(len(seen.first), np.int64))


@pytest.mark.parametrize(("room", "steps"), [(-5, 1), (0, 1), (1, 1), (3, 1), (4, 2), (30, 10)])
def test_no_more_steps_than_there_is_room_for(room: int, steps: int) -> None:
    actors = prl.LocalActors(Plain(), prl.make_vec_envs("protorl/Counter-v0", 3, first_row=4))
    (chunk,) = actors.poll(room)
    assert chunk.reward.shape == (steps, 3)
    assert chunk.lanes.tolist() == [4, 5, 6]
    np.testing.assert_array_equal(chunk.reward[:, 0], np.arange(steps) % 3 + 1)
    assert len(actors.episodes()) == 3 * (steps // 3)


def test_what_came_before_a_failure_is_handed_over_first() -> None:
    env = prl.make_vec_envs("protorl/Counter-v0", 1)
    plain, left = env.step, [4]

    def step(action: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise prl.ProtoRLError("the counter broke")
        return plain(action)

    env.step = step  # type: ignore[method-assign]
    actors = prl.LocalActors(Plain(), env)
    (chunk,) = actors.poll(100)
    assert chunk.reward[:, 0].tolist() == [1, 2, 3, 1]
    with pytest.raises(prl.ProtoRLError, match="the counter broke"):
        actors.poll(100)
    left[0] = 1
    actors.poll(100)
    actors.restart(3)  # which forgets the failure
    left[0] = 100
    assert actors.poll(1)[0].first.all()


class Observing(prl.DQN):
    """Its greedy action changes with every step that it observes; it notes what `annotate` adds."""

    def initial_carry(self, n: int) -> Any:
        return {"seen": np.zeros(n, np.int64)}

    def act(self, seen: Seen, carry: Any = (), *, explore: bool) -> Act:
        return Act(np.full(len(seen.first), self.told % 2), carry, {"told": np.full(len(seen.first), self.told)})

    def annotate(self, step: prl.Step, carry: Any) -> Any:
        now = carry["seen"] + 1
        return step._replace(extras={**step.extras, "nth": now}), {"seen": now}

    def columns(self, spec: prl.EnvSpec) -> prl.Columns:
        kinds = {name: prl.Field((), np.dtype(np.int64)) for name in ("told", "nth")}
        return prl.Columns(spec.obs, spec.action, spec.num_envs, kinds)

    told = 0
    order: list[int]

    def observe(self, step: prl.Step) -> None:
        self.told += 1
        self.order.extend(step.extras["told"].tolist())


def test_an_agent_that_observes_is_told_of_each_step_before_the_next_and_annotates_all() -> None:
    env = prl.make_vec_envs("protorl/Counter-v0", 1)
    network = prl.Network(prl.MLP(env.spec.obs, [4]), prl.QHead(env.spec.action))
    agent = Observing(network, prl.Greedy(env.spec.action), prl.Adam(network, 1e-3))
    agent.order = []
    memory = prl.Replay(agent.columns(env.spec), 200, batch_size=60, rate=prl.Rate(60, 60), sampler=prl.All())
    prl.train(agent, memory, prl.LocalActors(agent, env), steps=60)
    assert agent.order == list(range(60))
    batch = memory.sample()
    assert batch.told.tolist() == list(range(60))
    assert batch.nth.tolist() == [1, 2, 3] * 20  # the carry begins anew with each episode
