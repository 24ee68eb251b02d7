"""A run folder has one owner, says when nothing was saved, and keeps the text of a user's own recipe."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import protorl as prl
from protorl.cli import main
from protorl.recipes.find import find_recipe
from protorl.recipes.own import numbers_changed
from protorl.recipes.saved import read_recipe, resume
from protorl.recipes.start import make_run_folder, start
from protorl.runs import Run
from protorl.runs.lock import owned
from tests.contract.cases import small

FIELDS: dict[str, Any] = {"steps": 200, "log_every": 50, "eval_every": 0, "checkpoint_every": 100}
SET = [
    word
    for name, value in {
        **FIELDS,
        "warmup_steps": 50,
        "batch_size": 16,
        "update_every": 64,
        "widths": 8,
        "accelerate": "eager",
    }.items()
    for word in ("--set", f"{name}={value}")
]


def failed(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one sentence of a command that fails."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    start(small("dqn", **FIELDS), tmp_path / "run", progress=False)
    return tmp_path / "run"


def test_a_run_that_trains_is_nobody_elses(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run / "config.json").read_bytes()
    with owned(run):
        for more in ([], ["--steps", "300"], ["--set", "lr=1"], ["--refill"]):
            said = failed(capsys, "resume", run, *more)
            assert said == f"{run} is being trained by process {os.getpid()}: " + (
                f"wait for it or stop it (kill {os.getpid()}), then resume"
            )
        assert (run / "config.json").read_bytes() == config
        assert main(["eval", str(run), "--episodes", "1"]) == 0
        assert main(["plot", str(run), "--out", str(tmp_path / "curve.png")]) == 0
    assert main(["resume", str(run)]) == 0


def test_a_lock_that_is_a_link_is_not_followed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("precious")
    (run / "lock").unlink()
    (run / "lock").symlink_to(tmp_path / "precious")
    assert f"{run} cannot be written to: " in failed(capsys, "resume", run)
    assert (tmp_path / "precious").read_text() == "precious"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@needs_fork
def test_an_owner_that_is_killed_leaves_nothing_behind(run: Path) -> None:
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        with owned(run):
            (run / ".tmp-0123-half-written").write_text("")
            os.write(begun, b".")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(prl.ProtoRLError, match=f"is being trained by process {child}"), owned(run):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with owned(run):
        assert not list(run.glob(".tmp-*"))


@needs_fork
def test_a_worker_does_not_hold_the_folder_of_a_parent_that_was_killed(run: Path) -> None:
    (ready, begun), (end, hold) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with owned(run):
            if os.fork() == 0:
                os.close(hold)
                os.write(begun, b".")
                os.read(end, 1)
                os._exit(0)
            signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        with owned(run):
            pass
    finally:
        os.close(hold)  # which ends the worker


def at_step(step: int, act: Callable[[Run], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happens once, when a training has come so far."""
    plain, done = Run.tick, []

    def tick(self: Run) -> None:
        if self.steps >= step and not done:
            done.append(act(self))
        plain(self)

    monkeypatch.setattr(Run, "tick", tick)


def a_file_instead(run: Run) -> None:
    shutil.rmtree(run.folder / "checkpoints")
    (run.folder / "checkpoints").write_text("")


def refuse(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_training_that_is_not_saved_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(150, a_file_instead, monkeypatch)
    said = failed(capsys, "train", "dqn", "--run-dir", tmp_path / "run", *SET)
    assert "the training ended at step 200 and is not saved: " in said
    assert "checkpoints is a file where the folder of checkpoints should be: move it away" in said
    assert "move it away" in failed(capsys, "resume", tmp_path / "run")
    monkeypatch.setattr("protorl.checkpoint._write", refuse)
    (tmp_path / "run" / "checkpoints").unlink()
    said = failed(capsys, "resume", tmp_path / "run")
    assert "cannot write" in said
    assert "No space left on device" in said


@pytest.mark.parametrize("stopped", [False, True])
def test_a_full_disk_at_the_end_is_told(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: Run) -> None:
        monkeypatch.setattr("protorl.checkpoint._write", refuse)
        if stopped:
            run.signals.note(signal.SIGTERM, None)

    at_step(150, full, monkeypatch)
    said = failed(capsys, "train", "dqn", "--run-dir", tmp_path / "run", *SET)
    begin = "stopped at step 150 and not saved" if stopped else "the training ended at step 200 and is not saved"
    assert said.startswith(f"{begin}: cannot save the checkpoint of step ")
    assert "No space left on device" in said
    assert said.endswith("the previous checkpoint (step 100) is intact")


def test_a_folder_that_is_removed_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(120, lambda run: shutil.rmtree(run.folder), monkeypatch)
    said = failed(capsys, "train", "dqn", "--run-dir", tmp_path / "run", *SET)
    assert said == f"{tmp_path / 'run'} was removed while it was trained in: stopped at step 150, and nothing is saved"
    assert not (tmp_path / "run").exists()


def test_a_run_that_starts_from_the_beginning_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run_folder(small("dqn", **FIELDS), tmp_path / "run")
    assert main(["resume", str(tmp_path / "run"), "--set", "capacity=300"]) == 0  # nothing is there that it had shaped
    assert f"{tmp_path / 'run'} has no checkpoint: it starts from the beginning" in capsys.readouterr().out
    assert read_recipe(tmp_path / "run").capacity == 300  # type: ignore[attr-defined]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to name what is synced")
def test_the_folders_above_a_run_are_synced_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    make_run_folder(small("dqn", **FIELDS), tmp_path / "a" / "b" / "run")
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)
    assert synced[-1] == str(tmp_path / "a" / "b")  # the name of the folder itself, once it is there
    assert len({path for path in synced if "/.tmp-" in path and path.endswith("-run")}) == 1
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["run"]


# A recipe of one's own

PAPER = """
import protorl as prl


class Mine(prl.recipes.DQN):
    name = "mine"
    lr = 1e-3
    omega: float = prl.hp(5.0, "a number")
    other: float = prl.hp(5.0, "one that may change", tunable=True)
"""


def own(folder: Path, text: str = PAPER) -> Path:
    path = folder / "paper.py"
    path.write_text(text)
    return path


def test_a_changed_file_is_told_on_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper, run = own(tmp_path), tmp_path / "run"
    start(
        find_recipe(f"{paper}:Mine")(**FIELDS, warmup_steps=50, batch_size=16, update_every=10, updates=1), run, progress=False
    )
    assert (run / "recipe.py").read_text() == PAPER

    def resumed(text: str, **settings: float) -> str:
        own(tmp_path, text)
        capsys.readouterr()
        resume(run, settings=settings, progress=False)
        return capsys.readouterr().out

    assert "paper.py" not in resumed(PAPER)
    assert "paper.py" not in resumed("# a comment\n" + PAPER)
    said = resumed(PAPER.replace("1e-3", "2e-4").replace("5.0", "-7.5"))
    assert f"{paper} has changed since this run began: lr from 0.001 to 0.0002, omega from 5.0 to -7.5, other from" in said
    assert read_recipe(run).lr == 1e-3
    said = resumed(PAPER + "\n    def agent_arguments(self):\n        return {}\n")
    assert f"{paper} is not as it was when this run began ({run / 'recipe.py'} is): it goes on with the new code" in said
    resumed(PAPER, other=6)
    with pytest.raises(prl.ProtoRLError, match=r"^omega was 5\.0 in the training so far and is 6\.0 now, but nothing says"):
        resumed(PAPER, omega=6)


def test_a_moved_file_can_be_given_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper, run = own(tmp_path), tmp_path / "run"
    assert main(["train", f"{paper}:Mine", "--run-dir", str(run), *SET]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = paper.rename(tmp_path / "elsewhere" / "paper.py")
    for command in ("resume", "eval"):
        said = failed(capsys, command, run)
        assert said.startswith(f"there is no file {paper} any more, which {run} took its recipe from: ")
        assert f"`protorl resume {run} --recipe FILE.py:Mine`, such as {run / 'recipe.py'}:Mine, the copy" in said
    assert main(["resume", str(run), "--recipe", f"{moved}:Mine"]) == 0
    assert json.loads((run / "config.json").read_text())["recipe"] == f"{moved}:Mine"
    assert main(["eval", str(run), "--episodes", "1"]) == 0


def test_only_numbers() -> None:
    assert numbers_changed("x = 1", "x = 1  # one") == []
    assert numbers_changed("x = 1\ny = f(a=2)", "x = 1\ny = f(a=-3)") == ["a from 2 to -3"]
    assert numbers_changed("x = 1", "x = True") is None
    assert numbers_changed("x = 1", "y = 1") is None
    assert numbers_changed("x = 1", "x = (") is None


BASE = "import protorl as prl\nclass R(prl.recipes.DQN):\n"
AGENT = "import protorl as prl\nclass A(prl.DQN):\n    def learn(self, batch):\n        return batch.nothing\n"
MISTAKES = {
    "syntax": ("x = 1\nclass R(:\n", "R", "{file}:2: SyntaxError: invalid syntax"),
    "import": ("\n\nx = 1 / 0\n", "R", "{file}:3: ZeroDivisionError: division by zero"),
    "package": ("import nothing_there\n", "R", "{file}:1: ModuleNotFoundError: No module named 'nothing_there' ("),
    "exit": ("import sys\nsys.exit(3)\n", "R", "{file}:2: SystemExit: 3"),
    "ours": (BASE + "    agent = 3\n    agent: int = 3\n", "R", "{file}:2: R cannot have a field 'agent'"),
    "bytes": ("x = '\0'\n", "R", "{file}"),
    "no name": (BASE + "    pass\n", "", "recipe '{file}:' is unknown"),
    "other name": (BASE + "    pass\n", "Q", "{file} has no recipe class 'Q' (a subclass of prl.Recipe); it has R"),
    "no agent": ("import protorl as prl\nclass R(prl.Recipe):\n    pass\n", "R", "R lacks agent_class, or a method agent("),
    "no network": (
        "import protorl as prl\nclass R(prl.Recipe):\n    agent_class = prl.DQN\n", "R", "R lacks a method network(spec)",
    ),
    "building": (BASE + "    def policy(self, spec):\n        return spec.nothing\n", "R", "{file}:4: AttributeError: "),
    "learning": (
        AGENT + "class R(prl.recipes.DQN):\n    agent_class = A\n", "R", "{file}:4: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_sentence_with_its_place(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, name, expected = MISTAKES[kind]
    words = SET if "recipes.DQN" in text else []
    said = failed(capsys, "train", f"{own(tmp_path, text)}:{name}", "--run-dir", tmp_path / "run", *words)
    assert said.startswith(expected.format(file=tmp_path / "paper.py")), said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (":R", "recipe ':R' is unknown"),
        (":", "recipe ':' is unknown"),
        ("no_such_module:R", "module 'no_such_module' of recipe 'no_such_module:R' cannot be imported: No module"),
        ("broken_module:R", "{file}:1: NameError: name 'oops' is not defined"),
        ("..x:R", "module '..x' of recipe '..x:R' cannot be imported"),
    ],
)
def test_a_recipe_of_a_module(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("oops\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert failed(capsys, "train", name).startswith(expected.format(file=tmp_path / "broken_module.py"))
