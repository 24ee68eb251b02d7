"""Actors on a Ray cluster of two nodes: in lockstep they change nothing, and nodes and workers may come and go."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import protorl as prl
from protorl.checkpoint import Checkpoints
from protorl.recipes.find import find_recipe
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from tests.contract.cases import settings, small
from tests.contract.faults_of_envs import ID
from tests.contract.test_resume import assert_equal
from tests.contract.test_workers import train

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "protorl[ray]"')
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

STORE = 80_000_000
HEALTH = {"health_check_initial_delay_ms": 1_000, "health_check_period_ms": 1_000, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "_system_config": HEALTH}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    yield cluster
    importlib.import_module("ray").shutdown()  # whoever is connected yet, because a test failed, would be killed
    cluster.shutdown()


def on(cluster: Any, name: str = "apex-dqn", **fields: Any) -> Any:
    return small(name, **{"num_envs": 2, "workers": 2, "engine": "ray", "address": cluster.address, **fields})


@pytest.mark.parametrize("name", ["apex-dqn", "ngu"])
def test_in_lockstep_workers_on_two_nodes_are_the_process_itself(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where actors carry embedding, episodic memory and predictor."""
    fields = {"num_envs": 4, "chunk_steps": 6, "lockstep": True}
    wanted = train(name, 300, **fields)
    versions: list[int] = []
    kept: list[Any] = []

    def put(value: Any) -> Any:
        versions.append(kept[0].agent.updates)
        return plain(value)

    plain, init = ray.put, prl.recipes.off_policy.OnRay.__init__

    def noted(self: Any, job: Any, address: Any) -> None:
        kept.append(job)
        init(self, job, address)

    monkeypatch.setattr(ray, "put", put)
    monkeypatch.setattr(prl.recipes.off_policy.OnRay, "__init__", noted)
    assert_equal(wanted, train(name, 300, workers=2, engine="ray", address=cluster.address, **fields))
    assert len(versions) == len(set(versions)) > 5


def test_training_goes_on_while_a_node_is_killed_and_another_one_comes(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    parts = on(cluster, chunk_steps=20, env_kwargs={"max_episode_steps": 50}).build()
    actors: Any = parts.actors
    came = {0: 0, 1: 0}

    def until(enough: Any) -> None:
        while not enough():
            for chunk in actors.poll(20):
                came[int(chunk.lanes[0])] += 1

    until(lambda: min(came.values()) > 3)
    nodes = {worker.node: i for i, worker in actors.engine.workers.items()}
    assert len(nodes) == 2
    other = next(node for node in cluster.worker_nodes)
    lost = nodes[other.node_id]
    cluster.remove_node(other, allow_graceful=False)
    before = dict(came)
    until(lambda: actors.starts and came[1 - lost] > before[1 - lost] + 20)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    before = dict(came)
    until(lambda: came[lost] > before[lost] + 3 and came[1 - lost] > before[1 - lost])
    assert actors.restarts == 0  # a node that leaves is no failure of a worker
    assert "has left the cluster" in caplog.text
    actors.close()


def test_where_there_is_no_room_nobody_waits_for_ever(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Some act, the others wait; in lockstep all wait, and whoever trains is asked again and again whether to go on."""
    actors: Any = on(cluster, num_envs=3, workers=3, chunk_steps=50, lockstep=True).build().actors
    assert actors.poll(1, timeout=0.1) == []
    while len([worker for worker in actors.engine.workers.values() if worker.up]) < 2:
        assert actors.poll(1) == []
    actors.engine.tell()
    assert "the Ray cluster has 2 processors for 3 workers: 1 wait until there are more" in caplog.text
    actors.close()


@pytest.mark.parametrize("fault", ["is killed", "raises", "hangs"])
def test_a_worker_that_fails_is_started_again(cluster: Any, fault: str, tmp_path: Path, caplog: Any) -> None:
    happens = {"fault": fault, "after": 30, "once": str(tmp_path / "once")}
    recipe = on(cluster, env=ID, num_envs=1, workers=1, env_kwargs=happens, worker_timeout=2.0, eval_every=0, steps=200)
    with caplog.at_level(logging.WARNING, logger="protorl"):
        result = start(recipe, tmp_path / "run", progress=False)
    assert result.steps >= 200
    (told,) = [record.message for record in caplog.records if "started again" in record.message]
    assert ("failed in step() of row 0" if fault == "raises" else "the worker of environment 0") in told
    assert "\n" not in told


FILE = """
import gymnasium
import numpy as np

import protorl as prl


class Mine(prl.recipes.ApexDQN):
    base = "mlp"


class Images(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((4, 84, 84), np.uint8), {}

    def step(self, action):
        return np.ones((4, 84, 84), np.uint8), 1.0, False, False, {}
"""


def test_files_are_brought_to_machines_that_lack_them_and_the_store_does_not_fill(cluster: Any, tmp_path: Path) -> None:
    """More than the object store holds comes in, and goes out as weights."""
    from ray._private.internal_api import memory_summary

    file = tmp_path / "mine.py"
    file.write_text(FILE)
    mine: Any = find_recipe(f"{file}:Mine")
    fields = {"env": f"{file}:Images", "num_envs": 2, "workers": 2, "chunk_steps": 20, "engine": "ray", "capacity": 64}
    agent, _, actors = mine(**settings("apex-dqn", **fields, address=cluster.address)).build()
    file.unlink()
    size = sum(tensor.nbytes for tensor in agent.published())
    came = puts = 0
    while min(came, puts * size) < 2 * STORE:
        came += sum(chunk.obs.nbytes + chunk.next_obs.nbytes for chunk in actors.poll(20))
        agent.updates += 1
        puts = actors.engine.puts
    stats = memory_summary(address=cluster.address, stats_only=True)
    assert "Spilled" not in stats
    needed = re.search(r"([\d.]+)% needed", stats)  # what else is there gives way as soon as there is no room
    assert needed is not None
    assert float(needed[1]) < 30, stats
    actors.close()


def test_a_training_that_is_asked_to_stop_is_saved_resumed_and_leaves_nobody(tmp_path: Path) -> None:
    """SIGTERM to the whole group of processes, as service managers send it; Ray is started by the training itself."""
    options = (
        "--steps 1e6 --num-envs 2 --actors 2 --engine ray --eval-every 0 --log-every 100 --accelerate eager --warmup-steps 50"
    )
    command = [sys.executable, "-m", "protorl", "train", "apex-dqn", *options.split(), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    assert process.stdout is not None
    while "learner waits" not in (line := process.stdout.readline()):
        assert line, process.wait()
    members = [one for one in psutil.process_iter() if os.getpgid(one.pid) == process.pid]
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 143, said
    assert "and saved: continue with" in said
    assert psutil.wait_procs(members, timeout=20)[1] == []
    steps = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert steps
    more = resume(tmp_path / "run", steps=steps + 50, settings={"engine": "local"}, progress=False)
    assert more.steps >= steps + 50


def test_an_address_where_nobody_is_has_its_sentence() -> None:
    actors = small("apex-dqn", num_envs=1, workers=1, engine="ray", address="127.0.0.1:1").build().actors
    with pytest.raises(prl.ProtoRLError, match=r"^there is no Ray cluster at 127.0.0.1:1 \(`ray start` .*\): .*refused"):
        actors.poll()


def test_a_learner_that_is_killed_leaves_nobody() -> None:
    """But Ray's own agents, which try to tell of it for a minute or two."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=begin, args=(child,))
    process.start()
    parent.recv()
    theirs = [one for one in psutil.Process(process.pid).children(recursive=True) if not one.name().endswith("Agent")]
    assert {"raylet", "gcs_server"} <= {one.name() for one in theirs}
    assert sum(one.name().startswith("ray::OnNode") for one in theirs) == 2
    process.kill()
    process.join()
    assert psutil.wait_procs(theirs, timeout=30)[1] == []


def begin(line: Any) -> None:
    actors = small("apex-dqn", num_envs=2, workers=2, engine="ray").build().actors
    while not actors.poll():
        pass
    line.send(True)
    while True:
        actors.poll(1_000)
