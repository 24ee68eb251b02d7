"""The files of "One step of DQN" in docs/concepts.md are those that run, in that order."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import protorl
from protorl.cli import main
from protorl.runs import Run

PACKAGE = Path(protorl.__file__).parent
CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"
COMMAND = (
    "train dqn --env CartPole-v1 --accelerate eager --steps 120 --warmup-steps 40 --batch-size 8 --update-every 1 --updates 1 "
    "--eval-every 0 --log-every 1000 --checkpoint-every 0"
)


def documented() -> list[str]:
    section = CONCEPTS.read_text().partition("## One step of DQN")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d+ \| \[(?:.*?)\]\(\.\./src/protorl/(.*?)\)", section, re.MULTILINE)


def files_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[str], list[str]]:
    """The package's files in the order in which functions of theirs run: before the last turns of the loop, and within them."""
    files: dict[bool, dict[str, None]] = {False: {}, True: {}}
    steady, tick = [False], Run.tick

    def watched(self: Run) -> None:
        tick(self)
        steady[0] = 100 <= self.steps < 118

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & 1 and code.co_filename.startswith(str(PACKAGE)):  # no module, no class body
            files[steady[0]].setdefault(str(Path(code.co_filename).relative_to(PACKAGE)))

    monkeypatch.setattr(Run, "tick", watched)
    monkeypatch.setattr("protorl.cli.plot.plot", lambda *_: "no curve")
    sys.setprofile(called)
    try:
        assert main([*COMMAND.split(), "--run-dir", str(tmp_path / "run")]) == 0
    finally:
        sys.setprofile(None)
    return [*files[False]], [*files[True]]


def test_the_documented_files_run_in_that_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = documented()
    before, during = files_run(monkeypatch, tmp_path)
    print(f"{len({*before, *during})} files in all, {len(during)} in a turn of the loop: {', '.join(during)}")
    assert 6 <= len(names) <= 12
    start = [name for name in names if name not in during]
    assert start + [name for name in during if name in names] == names
    assert [name for name in before if name in start] == start
    assert all((PACKAGE / name).is_file() for name in names)
