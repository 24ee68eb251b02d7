"""An environment that fails: one sentence names it, everything is ended, what was learned is saved and can go on."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl import processes
from protorl.checkpoint import Checkpoints
from protorl.data import ProtoRLError
from protorl.envs import SyncEnv, gate, sync
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from tests.contract.cases import settings, small
from tests.contract.faults_of_envs import CLOSING, FAULTS, ID

SLOW = pytest.mark.slow
WAYS = [
    pytest.param(name, backend, marks=SLOW if backend == "async" else (), id=f"{name}-{backend}")
    for name, fault in FAULTS.items()
    for backend in (("sync", "async") if fault.survived else ("async",))
]


@pytest.mark.parametrize(("name", "backend"), WAYS)
def test_a_failure_is_named_once_and_everything_is_ended(name: str, backend: str) -> None:
    env = prl.make_vec_envs(ID, 1, backend=backend, fault=name, worker_timeout=2.0, first_row=4)
    env.step(np.array([0]))
    with pytest.raises(ProtoRLError, match=FAULTS[name].said) as caught:
        env.step(np.array([1]))
    assert "row 4" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []
    env.close()


@pytest.mark.parametrize("env", [ID, ID.replace("Faulty", "Untold")])
@pytest.mark.parametrize("fault", ["raises", "raises in reset", pytest.param("is killed", marks=SLOW)])
def test_what_was_learned_is_saved_and_goes_on(fault: str, env: str, tmp_path: Path) -> None:
    happens = {"fault": fault, "after": 20, "once": str(tmp_path / "once")}
    backend = "sync" if FAULTS[fault].survived else "async"
    kept: dict[str, Any] = {"eval_every": 0, "checkpoint_every": 50, "accelerate": "eager", "env_kwargs": happens}
    recipe, folder = small("dqn", env=env, num_envs=2, steps=120, backend=backend, **kept), tmp_path / "run"
    with pytest.raises(ProtoRLError) as caught:
        start(recipe, folder, progress=False)
    said = FAULTS[fault].said.replace("Faulty", "(Faulty|Untold)")
    assert re.fullmatch(
        rf"\S*{said}; saved at step 38: once it is mended, `protorl resume {folder}` .* new episodes", str(caught.value)
    )
    assert Checkpoints(folder / "checkpoints").latest() == 38
    saved = Checkpoints(folder / "checkpoints").load().state["actors"]["env"]
    assert (saved["seed"], saved["boundary"]) == (recipe.seed, 38)  # the step is a name of a stream, and no root seed
    assert "simulators" not in saved
    assert resume(folder, progress=False).steps == 120


def test_a_rescue_needs_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's licence has run out, say: it cannot be made again either."""

    def no_licence(self: SyncEnv) -> None:
        raise ValueError("no licence")

    monkeypatch.setattr(SyncEnv, "_construct", no_licence)
    happens = {"fault": "raises", "after": 20}
    recipe = small("dqn", env=ID, steps=120, eval_every=0, accelerate="eager", env_kwargs=happens)
    with pytest.raises(ProtoRLError, match="saved at step 19: "):
        start(recipe, tmp_path / "run", progress=False)


@pytest.mark.parametrize("name", CLOSING)
def test_close_is_given_a_few_seconds(name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = "sync" if CLOSING[name].survived else "async"
    for home in (gate, sync, processes):
        monkeypatch.setattr(home, "CLOSE_SECONDS", 0.5)
    monkeypatch.setattr(gate, "TOLD", set())
    env = prl.make_vec_envs(ID, 2, backend=backend, closing=name)
    env.reset()
    env.close()
    (told,) = caplog.messages  # once, for both
    assert re.match(rf"\S*{CLOSING[name].said}", told)
    assert multiprocessing.active_children() == []


@SLOW
def test_what_fails_before_there_is_an_environment_is_named() -> None:
    with pytest.raises(ProtoRLError, match=r"Faulty-v0 cannot be made: .* % of \{power\} are %s gone"):
        prl.make_vec_envs(ID, 2, backend="async", fault="raises when made")
    assert multiprocessing.active_children() == []


# From outside


def begun(folder: Path, tmp_path: Path, recipe: str = "dqn", **fields: Any) -> subprocess.Popen[str]:
    """A training from the command line, in a group of its own, with worker processes."""
    never = {"eval_every": 0, "checkpoint_every": 0}
    fields = {"backend": "async", "num_envs": 2, "log_every": 20, "accelerate": "eager", **never, **fields}
    words = ["train", recipe, "--env", ID, "--steps", "1000000000", "--run-dir", str(folder)]
    for name, value in settings(recipe, **fields).items():
        if name != "env":
            words += ["--set", f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"]
    return spawned(words, tmp_path)


def spawned(words: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    """A command, in a group of its own."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    piped: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    asks = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731 - which is ignored under nohup
    return subprocess.Popen([sys.executable, "-m", "protorl", *words], start_new_session=True, preexec_fn=asks, **piped)


def descendants(pid: int) -> list[int]:
    children = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true: Any, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    late = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < late
        time.sleep(0.05)


def assert_nothing_left(pids: list[int], tmp_path: Path) -> None:
    late = time.monotonic() + 10
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < late, left
        time.sleep(0.05)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [name for name in os.listdir("/dev/shm") if any(str(pid) in name for pid in pids)] == []


@SLOW
@pytest.mark.parametrize("fault", ["raises", "exits at once", "hangs"])
def test_the_command_line_says_one_sentence(fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    happens = f'{{"fault": "{fault}", "after": 20}}'
    process = begun(folder, tmp_path, env_kwargs=happens, worker_timeout=2)
    wait_for(lambda: len(descendants(process.pid)) > 2, process)
    pids = descendants(process.pid)
    output, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.fullmatch(rf"error: \S*{FAULTS[fault].said}.*; saved at step 38: .*\n", error)
    assert "Traceback" not in output
    assert_nothing_left([process.pid, *pids], tmp_path)


@SLOW
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_a_whole_group_save_and_end_everything(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = begun(folder, tmp_path)
    metrics = folder / "metrics.csv"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)
    pids = descendants(process.pid)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert re.fullmatch(rf"stopped at step \d+ and saved: continue with `protorl resume {folder}`\n", error)
    state = Checkpoints(folder / "checkpoints").load().state
    assert len(state["actors"]["env"]["simulators"]) == 2
    assert_nothing_left([process.pid, *pids], tmp_path)


@SLOW
@pytest.mark.parametrize("fault", [None, "hangs", "is stopped"])
def test_workers_end_with_their_parent(fault: str | None, tmp_path: Path) -> None:
    folder, once = tmp_path / "run", tmp_path / "once"
    happens = "{}" if fault is None else f'{{"fault": "{fault}", "after": 20, "once": "{once}"}}'
    process = begun(folder, tmp_path, env_kwargs=happens, worker_timeout=1000)
    begin = folder / "metrics.csv" if fault is None else once
    wait_for(begin.exists, process)
    pids = descendants(process.pid)
    assert len(pids) > 2
    process.kill()
    process.communicate(timeout=60)
    assert_nothing_left([process.pid, *pids], tmp_path)
