"""Every file of a run, damaged in many ways: one sentence, exit status 1, and what was learned is kept; or the run goes on."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protorl.checkpoint import Checkpoints
from protorl.cli import main
from protorl.recipes.start import start
from protorl.runs import Run
from tests.contract.cases import small
from tests.contract.test_resume import assert_equal


def replaced(data: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None:
    """Nothing."""


def truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(data), 8):
        data[place] ^= 0x80
    path.write_bytes(data)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("")


INF, NAN = float("inf"), float("nan")
DAMAGE: dict[str, Callable[[Path], None]] = {
    "empty": replaced(b""),
    "cut": truncated,
    "flipped": flipped,
    "gone": Path.unlink,
    "folder": folder_instead,
    "binary": replaced(bytes(range(256)) * 8),
    "zeros": replaced(b"\0\n" * 500),
    "text": replaced(b"what is this?\nnot what it was\n"),
    "null": replaced(b"null"),
    "list": replaced(b"[]\n"),
    "number": replaced(b"Infinity\n"),
    "object": replaced(b'{"format": null, "recipe": 7, "sha256": {}, "files": []}'),
    "deep": replaced(b"[" * 100_000),
    "pickle": replaced(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.exit\x94."),
}
CHECKPOINT = "checkpoints/step-000000200"
FILES = {
    "config.json": ["config.json"],
    "metrics": ["metrics.csv"],
    "best weights": ["checkpoints/best.pt"],
    "newest state": [f"{CHECKPOINT}/state.pt"],
    "newest manifest": [f"{CHECKPOINT}/manifest.json"],
    "every state": [f"{CHECKPOINT}/state.pt", "checkpoints/step-000000100/state.pt"],
    "every manifest": [f"{CHECKPOINT}/manifest.json", "checkpoints/step-000000100/manifest.json"],
    "memory": ["checkpoints/rows/seg-000000100.pt"],
}


FIELDS = {
    "steps": 200,
    "log_every": 50,
    "eval_every": 100,
    "checkpoint_every": 100,
    "accelerate": "eager",
    "env_kwargs": {"max_episode_steps": 20},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    fields = {
        "steps": 200,
        "log_every": 50,
        "eval_every": 100,
        "checkpoint_every": 100,
        "env_kwargs": {"max_episode_steps": 20},
    }
    start(small("dqn", **fields), folder, progress=False)
    return folder


def files(folder: Path) -> dict[str, str]:
    """What is in a run folder, but for its lock and for what each command writes."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "eval.json", "curve.png")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def outcome(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and sentence of a command, which ends in either way without a traceback."""
    capsys.readouterr()
    code = main(words)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    if code == 0:
        return 0, said.out
    assert code == 1
    last = said.err.splitlines()[-1]
    assert last.startswith("error: "), said.err
    assert all(line.startswith("skipping the damaged checkpoint") for line in said.err.splitlines()[:-1])
    assert len(last) < 900
    return 1, last


def commands(run: Path, tmp_path: Path) -> dict[str, list[str]]:
    return {
        "resume": ["resume", str(run), "--steps", "220"],
        "eval": ["eval", str(run), "--episodes", "1"],
        "eval last": ["eval", str(run), "--episodes", "1", "--checkpoint", "last"],
        "plot": ["plot", str(run), "--out", str(tmp_path / "curve.png")],
    }


MATTERS = {
    "config.json": ("resume", "eval", "plot"),
    "metrics": ("resume", "plot"),
    "best weights": ("eval",),
    "newest state": ("resume",),
    "newest manifest": ("resume", "eval last"),
    "every state": ("resume", "eval last"),
    "every manifest": ("resume", "eval last"),
    "memory": ("resume",),
}
GOES_ON = {
    "metrics": {"empty", "cut", "gone"},  # a line that is torn, or a table that has not begun
    "best weights": {"gone"},
    "newest state": set(DAMAGE),  # the checkpoint before is there
    "newest manifest": set(DAMAGE),
}


def quick(what: str, damage: str) -> bool:
    """Where the run goes on, each damage costs a training."""
    return damage not in GOES_ON.get(what, ()) or damage in ("cut", "gone", "folder")


@pytest.mark.parametrize(
    ("what", "damage"),
    [pytest.param(*case, marks=() if quick(*case) else pytest.mark.slow) for case in itertools.product(FILES, DAMAGE)],
)
def test_a_damaged_file_is_one_sentence(
    what: str, damage: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for command in MATTERS[what]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained, run)
        for name in FILES[what]:
            DAMAGE[damage](run / name)
        before = files(run)
        code, said = outcome(commands(run, tmp_path)[command], capsys)
        if damage in GOES_ON.get(what, ()):
            assert command == "plot" or code == 0, said
        elif (what, command) != ("config.json", "plot"):  # curves are drawn without
            assert code == 1, said
        if code == 1:
            assert files(run) == before
            assert str(run) in said


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dqn", {}),
        ("d3qn", {"num_envs": 2, "per_alpha": 0.6, "n_step": 3}),
        ("ppo", {"rollout_steps": 64, "num_envs": 2}),  # step 200 is in the middle of a rollout
    ],
)
def test_rows_that_are_lost_can_be_filled_anew(
    name: str, fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    start(small(name, **{**FIELDS, **fields}), run, progress=False)
    before = Checkpoints(run / "checkpoints").load().state
    for rows in (run / "checkpoints" / "rows").iterdir():
        flipped(rows)
    words = ["resume", str(run), "--steps", "400"]
    code, said = outcome(words, capsys)
    assert code == 1
    assert f"at step 200 nothing is missing except rows of the memory: `protorl resume {run} --refill`" in said
    agents: list[Any] = []
    plain = Run.resume

    def resume(self: Run, refill: bool = False) -> Any:
        loaded = plain(self, refill)
        agents.append(copy.deepcopy(self.agent.state_dict()["network"]))
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "resume", resume)
        code, said = outcome([*words, "--refill"], capsys)
    assert code == 0
    assert "at step 200 of 400" in said
    assert_equal(agents, [before["agent"]["network"]])
    assert Checkpoints(run / "checkpoints").load().state["run"]["updates"] > before["run"]["updates"]
    assert outcome(["resume", str(run), "--steps", "420", "--refill"], capsys)[0] == 0  # what is saved now is whole


def edited(run: Path, change: dict[str, Any]) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | change))


SLOW = pytest.mark.slow
VALUES = [
    "x",
    pytest.param(10**400, id="huge"),
    *(pytest.param(value, marks=SLOW) for value in (None, INF, [], {}, True, -1, NAN, [[1]], {"a": [None]})),
]


@pytest.mark.parametrize("value", VALUES)
def test_any_value_in_any_field_is_taken_or_refused(
    value: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    fields = config["recipe_config"]
    for name in fields:
        edited(run, {"recipe_config": fields | {name: value}})
        code, said = outcome(["resume", str(run)], capsys)
        assert code == 0 or name in said or name == "optimizer_kwargs", said
    for key in ("recipe", "recipe_config"):
        edited(run, config | {key: value})
        code, _ = outcome(["resume", str(run)], capsys)
        assert code == 1 or value == {}


@pytest.mark.parametrize("recipe", ["double-dqn", "ppo", "sac", "nothing.py:Mine"])
def test_a_config_of_another_recipe(recipe: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    edited(run, {"recipe": recipe})
    for command in ("resume", "eval"):
        code, _ = outcome(commands(run, tmp_path)[command], capsys)
        assert code == 1
