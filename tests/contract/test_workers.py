"""Actors in worker processes: in lockstep they change nothing, and whatever befalls one of them the training goes on."""

from __future__ import annotations

import copy
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.actors.weights import Weights
from protorl.actors.workers import WorkerActors
from protorl.checkpoint import Checkpoints
from protorl.parts import Reached
from protorl.recipes.saved import read_recipe, resume
from protorl.recipes.start import start
from tests.contract.cases import small
from tests.contract.faults_of_envs import ID
from tests.contract.test_faults_of_envs import assert_nothing_left, begun, descendants, spawned, wait_for
from tests.contract.test_resume import assert_equal, final_state

SLOW = pytest.mark.slow


def train(name: str, steps: int, **fields: Any) -> dict[str, Any]:
    """What an agent knows after so many steps."""
    parts = small(name, **fields).build()
    accelerate(parts.agent)  # as workers do, and every run
    prl.train(parts.agent, parts.memory, parts.actors, steps=steps)
    parts.actors.close()
    assert multiprocessing.active_children() == []
    return {"agent": parts.agent.state_dict() | {"policy": None}, "memory": parts.memory.state_dict()}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("apex-dqn", {}),
        pytest.param("apex-ddpg", {}, marks=SLOW),
        pytest.param("apex-dqn", {"env": "protorl/EarlyDeath-v0", "n_step": 2}, marks=SLOW),  # lanes of teams, some dead
        pytest.param("r2d2", {"update_every": 6}, marks=SLOW),
        pytest.param("ngu", {"update_every": 6, "arms": "bandit"}, marks=SLOW),
        pytest.param("d3qn", {"per_alpha": 0.6, "first_priority": "td", "n_step": 3, "bonus": "rnd"}, marks=SLOW),
    ],
)
def test_in_lockstep_any_number_of_workers_is_the_process_itself(name: str, fields: dict[str, Any]) -> None:
    fields = {**fields, "num_envs": 4, "chunk_steps": 6, "lockstep": True}
    wanted = train(name, 500, **fields)
    assert wanted["agent"]["updates"] > 50
    for workers in (2,) if name == "apex-dqn" else (1, 4):
        assert_equal(wanted, train(name, 500, workers=workers, **fields), f"{workers} workers")


@pytest.mark.parametrize("fault", ["is killed", pytest.param("raises", marks=SLOW), pytest.param("hangs", marks=SLOW)])
def test_a_worker_that_fails_is_started_again(fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    happens = {"fault": fault, "after": 30, "once": str(tmp_path / "once")}
    recipe = small(
        "apex-dqn", env=ID, num_envs=1, workers=1, env_kwargs=happens, worker_timeout=2.0, eval_every=0, steps=200,
        checkpoint_every=100,
    )  # fmt: skip
    with caplog.at_level("WARNING", logger="protorl"):
        result = start(recipe, tmp_path / "run", progress=False)
    assert result.steps >= 200
    (told,) = [record.message for record in caplog.records if "started again" in record.message]
    assert ("failed in step() of row 0" if fault == "raises" else "the worker of environment 0") in told
    assert "\n" not in told
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() == result.steps
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_worker_that_fails_always_ends_the_training_with_everything_saved(tmp_path: Path) -> None:
    recipe = small(
        "apex-dqn", env=ID, num_envs=1, workers=1, env_kwargs={"fault": "raises", "after": 30}, eval_every=0, steps=900,
        checkpoint_every=10,
    )  # fmt: skip
    with pytest.raises(prl.ProtoRLError, match=r"failure 6 of a worker; saved at step") as caught:
        start(recipe, tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_whatever_ends_the_learner_leaves_nobody_and_its_side_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, then SIGTERM, each to the whole group as a terminal sends it; then SIGKILL to the learner alone."""
    folder = tmp_path / "run"
    kept: dict[str, Any] = {"num_envs": 3, "workers": 2, "backend": "auto", "checkpoint_every": 60}

    def saved() -> list[str]:
        return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        before = saved()
        process = spawned(["resume", str(folder)], tmp_path) if before else begun(folder, tmp_path, "apex-dqn", **kept)
        wait_for(lambda before=before: len({*saved()} - {*before}) == 2, process)  # those that are kept
        pids = descendants(process.pid)
        assert len(pids) > 2
        os.killpg(process.pid, number) if number != signal.SIGKILL else process.kill()
        said, error = process.communicate(timeout=60)
        assert_nothing_left([process.pid, *pids], tmp_path)
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), error
        assert "plan for " in said
        if number != signal.SIGKILL:
            assert re.fullmatch(rf"stopped at step \d+ and saved: continue with `protorl resume {folder}`\n", error)
            assert Checkpoints(folder / "checkpoints").latest() == int(error.split()[3])

    checkpoints = Checkpoints(folder / "checkpoints")
    latest, before = checkpoints.latest(), checkpoints.load().state
    assert latest is not None
    found: dict[str, Any] = {}

    def looks(agent: Any, memory: Any, actors: Any, *, steps: int, monitor: Any) -> None:
        told = {"agent": agent, "memory": memory, "actors": actors}
        found.update({name: part.state_dict() for name, part in told.items()}, rows=memory.rows(memory.oldest()))
        found.update(counters=(monitor.steps, monitor.updates))

    with monkeypatch.context() as patched:
        patched.setattr("protorl.recipes.start.train", looks)
        resume(folder, steps=latest + 60, progress=False)
    assert_equal({name: before[name] for name in ("agent", "memory")}, {name: found[name] for name in ("agent", "memory")})
    parts = read_recipe(folder).here().build()
    checkpoints.load(rows=parts.memory)
    parts.memory.load_state_dict(before["memory"])
    assert_equal(parts.memory.rows(parts.memory.oldest()), found["rows"])
    assert found["counters"] == (latest, before["run"]["updates"]) == (latest, before["agent"]["updates"])
    assert found["actors"]["starts"] == before["actors"]["starts"] + 1  # other episodes than those of before
    again = resume(folder, steps=latest + 60, progress=False)
    after = final_state(folder)
    assert again.steps == after["memory"]["rate"]["steps"] >= latest + 60
    assert after["run"]["updates"] > before["run"]["updates"]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_script_trains_with_workers_and_needs_no_guard(tmp_path: Path) -> None:
    """Its own recipe and environment, too: a worker runs the script up to where it begins to train."""
    script = """
        import gymnasium, protorl as prl
        gymnasium.register("Mine-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
        class Mine(prl.recipes.ApexDQN):
            widths = (8,)
        result = Mine(env="Mine-v0", steps=400, warmup_steps=100, batch_size=16, update_every=16, eval_every=0).run("run")
        print("trained", result.agent.updates)
        """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    process = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert [line for line in process.stdout.splitlines() if line.startswith("trained")] == ["trained 19"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "script.py"]


def test_weights_are_read_whole_and_only_once() -> None:
    tensors = [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)]
    there = Weights(tensors)
    here = [torch.ones(3), torch.ones(2, 2, dtype=torch.int64)]
    there.publish(here, updates=7)
    mine = [tensor.clone() for tensor in tensors]
    assert there.fetch(mine, -1) == (1, 7)
    assert all(map(torch.equal, mine, here))
    mine[0].fill_(5)
    assert there.fetch(mine, 1) == (1, 7)  # nothing new: nothing is read
    assert mine[0].tolist() == [5, 5, 5]
    there.publish([tensor * 2 for tensor in here], updates=8)
    there.publish([tensor * 3 for tensor in here], updates=9)
    assert there.fetch(mine, 1) == (3, 9)
    assert mine[0].tolist() == [3, 3, 3]


def test_what_is_published_is_all_but_the_moments_of_optimizers() -> None:
    spec = prl.make_vec_envs("Pendulum-v1", 1).spec
    agent: Any = small("apex-ddpg", widths=(64, 64)).build_agent(spec)
    numbers = sum(tensor.numel() for tensor in agent.published())
    networks = sum(p.numel() for part in (agent.network, agent.target) for p in part.parameters())
    assert networks <= numbers < 1.2 * networks  # and some padding
    other: Any = small("apex-ddpg", widths=(64, 64), seed=3).build_agent(spec)
    shared = Weights(agent.published())
    shared.publish(agent.published(), 1)
    shared.fetch(other.published(), -1)
    obs = np.ones((2, 3), np.float32)
    assert torch.equal(agent.infer(obs, False).action, other.infer(obs, False).action)
    assert torch.equal(agent.target.actor(torch.ones(1, 3)).action, other.target.actor(torch.ones(1, 3)).action)


def test_what_is_published_is_what_the_agent_has_now() -> None:
    agent: Any = small("apex-dqn").build_agent(prl.make_vec_envs("CartPole-v1", 1).spec)

    def there() -> dict[int, float]:
        return {tensor.data_ptr(): float(tensor.sum()) for tensor in agent.published()}

    def wanted() -> dict[int, float]:
        agent.reached = Reached(*agent.reached.skip)  # which knows nothing yet
        return there()

    first = there()
    with torch.no_grad():
        next(agent.network.parameters()).fill_(3.0)
    assert there() == wanted() != first
    changes: list[Callable[[], Any]] = [
        lambda: setattr(agent, "target", copy.deepcopy(agent.network)),
        lambda: setattr(next(agent.target.parameters()), "data", torch.ones(64, 4)),
        lambda: setattr(agent, "seen", None),
        lambda: setattr(agent, "seen", torch.ones(3)),
        lambda: setattr(agent, "past", [torch.ones(2)]),
        lambda: agent.past.append(torch.zeros(4)),
        lambda: agent.past.pop(0),
        lambda: setattr(agent, "names", {"one": {torch.ones(5)}}),
        lambda: agent.names["one"].add(torch.ones(6)),
    ]
    for i, change in enumerate(changes):
        before = there()
        change()
        assert (now := there()) == wanted(), f"change {i}"
        assert (now == before) == (i == 2), f"change {i}"
    twin = copy.deepcopy(agent)
    assert not twin.reached.way
    assert not there().keys() & {tensor.data_ptr() for tensor in twin.published()}


def test_every_worker_has_an_environment() -> None:
    assert small("dqn", workers=3).num_envs == 3
    assert small("dqn", workers=3, num_envs=7).num_envs == 7
    agent: Any = small("dqn").build_agent(prl.make_vec_envs("CartPole-v1", 4).spec)
    columns = agent.columns(prl.make_vec_envs("CartPole-v1", 4).spec)
    with pytest.raises(prl.ProtoRLError, match="5 workers cannot share 4 environments: use 1 to 4, or raise num_envs"):
        WorkerActors(agent, lambda lanes: (agent, agent), columns, "CartPole-v1", workers=5)
