"""Actors in worker processes: in lockstep they change nothing, and whatever befalls one of them the training goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
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
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from tests.contract.cases import small
from tests.contract.faults_of_envs import ID
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
        pytest.param("d3qn", {"per_alpha": 0.6, "first_priority": "td", "n_step": 3, "epsilon_steps": 400}, marks=SLOW),
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
def test_a_killed_learner_leaves_nobody_and_its_side_is_resumed(tmp_path: Path) -> None:
    recipe = small("apex-dqn", num_envs=4, workers=2, steps=600, checkpoint_every=200, eval_every=0)
    start(recipe, tmp_path / "run", progress=False)
    before = final_state(tmp_path / "run")
    parts = recipe.build()
    parts.actors.load_state_dict(before["actors"])
    assert parts.actors.starts == before["actors"]["starts"] + 1  # other episodes than those of before
    parts.actors.close()
    again = resume(tmp_path / "run", steps=800, progress=False)
    after = final_state(tmp_path / "run")
    assert again.steps >= 800
    assert after["run"]["updates"] > before["run"]["updates"]
    assert after["memory"]["rate"]["steps"] >= 800


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


def test_every_worker_has_an_environment() -> None:
    assert small("dqn", workers=3).num_envs == 3
    assert small("dqn", workers=3, num_envs=7).num_envs == 7
    agent: Any = small("dqn").build_agent(prl.make_vec_envs("CartPole-v1", 4).spec)
    columns = agent.columns(prl.make_vec_envs("CartPole-v1", 4).spec)
    with pytest.raises(prl.ProtoRLError, match="5 workers cannot share 4 environments: use 1 to 4, or raise num_envs"):
        WorkerActors(agent, lambda lanes: (agent, agent), columns, "CartPole-v1", workers=5)


@pytest.mark.slow
def test_a_learner_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=begin, args=(child,))
    process.start()
    pids = parent.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for pid in pids:
        for _ in range(100):
            if not alive(pid):
                break
            process.join(0.1)
            parent.poll(0.1)
        assert not alive(pid)


def begin(line: Any) -> None:
    parts = small("apex-dqn", num_envs=2, workers=2).build()
    actors: Any = parts.actors
    assert isinstance(actors, WorkerActors)
    actors.poll(1)
    line.send([worker.process.pid for worker in actors.workers])
    while True:
        actors.poll(1_000)


def alive(pid: int) -> bool:
    """Whether a process runs, and is not only waiting to be counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
