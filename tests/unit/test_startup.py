"""What importing and asking for help do not import: heavy libraries come when they are first needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import protorl

FOR_COMPUTING = {"torch", "numpy", "numba", "gymnasium", "psutil"}
FOR_SHOWING = {"tensorboard", "torch.utils.tensorboard", "matplotlib", "rich", "tyro", "cv2", "ale_py", "imageio"}


def loaded_by(code: str, names: set[str]) -> list[str]:
    """Which of these modules a fresh Python has after running the code."""
    code = f"import sys\n{code}\nprint(); print(*sorted({names!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by("import protorl; dir(protorl); protorl.__version__", FOR_COMPUTING | FOR_SHOWING) == []


def test_the_check_sees_what_is_imported() -> None:
    assert loaded_by("import protorl; protorl.Linear", FOR_COMPUTING) == ["numpy", "torch"]


def test_help_computes_and_draws_nothing() -> None:
    code = """
from protorl.cli import main
for words in [], ["train"], ["resume"], ["eval"], ["plot"], ["list"]:
    try:
        main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
"""
    assert loaded_by(code, FOR_COMPUTING | FOR_SHOWING - {"rich", "tyro"}) == []


def test_algorithms_come_without_what_shows_results() -> None:
    assert loaded_by("import protorl; protorl.recipes, protorl.DQN, protorl.train", FOR_SHOWING | {"torch._inductor"}) == []


def names_for_type_checkers() -> Iterator[str]:
    """What `if TYPE_CHECKING:` imports in `protorl/__init__.py`."""
    for node in ast.parse(Path(protorl.__file__).read_text()).body:
        if isinstance(node, ast.If):
            yield from (alias.name for line in node.body if isinstance(line, ast.ImportFrom) for alias in line.names)


def test_type_checkers_see_the_names_that_are_there() -> None:
    assert sorted(names_for_type_checkers()) == sorted(protorl.__all__) == sorted(protorl._MODULE_OF)


@pytest.mark.parametrize("name", ["recipes", "functional", "envs", "rng"])
def test_parts_are_attributes(name: str) -> None:
    assert getattr(protorl, name).__name__ == f"protorl.{name}"
