"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import protorl
from protorl.cli import main

PACKAGE = Path(protorl.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
NAMED = {
    ".".join(["protorl", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file for file in MODULES
}

# part -> the parts of protorl it may import, besides itself
ALLOWED: dict[str, set[str]] = {
    "functional": set(),
    "data": set(),
    "rng": {"data"},
    "moments": {"data"},
    "jit": set(),
    "words": set(),
    "modules": {"data", "place"},
    "digits": set(),
    "networks": {"functional", "data", "rng", "moments", "jit", "parts"},
    "policies": {"functional", "data", "rng", "jit"},
    "memory": {"functional", "data", "rng", "jit"},
    "parts": set(),
    "agents": {"functional", "networks", "policies", "data", "rng", "parts"},
    "place": set(),
    "machine": {"data"},
    "processes": {"modules"},
    "envs": {"data", "rng", "moments", "jit", "words", "modules", "place", "processes"},
    "actors": {"data", "rng", "memory", "processes"},
    "checkpoint": {"data", "rng"},
    "accelerate": {"networks", "data", "rng", "jit", "parts"},
    "loops": {"data", "actors", "memory", "modules"},
    "runs": {"data", "digits", "loops", "checkpoint", "parts"},
}
BELOW = set(ALLOWED)
ALLOWED["recipes"] = BELOW
ALLOWED["papers"] = BELOW | {"recipes"}
ALLOWED["cli"] = BELOW | {"recipes", "papers"}
ALLOWED["__main__"] = {"cli"}
ALLOWED["__init__"] = BELOW | {"recipes"}

FOREIGN_ONLY = {
    "words": set(),
    "modules": set(),
    "functional": {"torch"},
    "data": {"torch", "numpy"},
    "rng": {"torch", "numpy"},
    "jit": {"numba"},
}
ONLY_IN_ENVS = {"gymnasium", "pettingzoo", "ale_py", "envpool", "mujoco", "Box2D", "minigrid", "popgym", "mpe2"}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file: Path) -> set[str]:
    """Dotted names of everything a module imports, also inside functions."""
    package = ["protorl", *file.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*home, *([node.module] if node.module else [])])
            # `from protorl import agents` is an import of protorl.agents
            found |= {f"protorl.{alias.name}" for alias in node.names} if base == "protorl" else {base}
    return found


def parts_imported(file: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(file) if name.startswith("protorl.")} - {part_of(file)}


def test_the_reader_of_imports_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import protorl.memory\nfrom protorl import envs\nfrom ..loops import train\ndef f(): from protorl.actors import X"
    monkeypatch.setattr(Path, "read_text", lambda _: source)
    assert parts_imported(PACKAGE / "agents" / "imaginary.py") == {"memory", "envs", "loops", "actors"}


def test_every_part_has_its_rule() -> None:
    assert {part_of(file) for file in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_who_imports_whom(file: Path) -> None:
    part = part_of(file)
    assert parts_imported(file) <= ALLOWED[part], f"{part} may not import these"
    others = {name.split(".")[0] for name in imported(file)} - {"protorl", *sys.stdlib_module_names}
    if part in FOREIGN_ONLY:
        assert others <= FOREIGN_ONLY[part]
    if part != "envs":
        assert not others & ONLY_IN_ENVS
    assert part == "jit" or "numba" not in others


def modules_imported(file: Path) -> set[str]:
    """The modules of protorl that a module imports, anywhere in it: a package where its own names are meant."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inside if name in NAMED} or {node.module}
    return found & set(NAMED)


def test_no_module_is_named_as_one_of_the_standard_library() -> None:
    assert [file.name for file in MODULES if file.stem in sys.stdlib_module_names] == []


def test_no_module_imports_itself_by_a_detour() -> None:
    """Not inside functions either, nor for type checkers; the package's own lazy names are another matter."""
    imports = {name: modules_imported(file) - {"protorl"} for name, file in NAMED.items() if name != "protorl"}
    while leaves := [name for name, wanted in imports.items() if not wanted & set(imports)]:
        for name in leaves:
            del imports[name]
    assert imports == {}, "these modules are in a circle, or above one"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_everything_changes_nothing_global() -> None:
    code = """
import pkgutil, importlib, random, signal, sys, warnings
import numpy as np, torch

def state():
    return (torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.get_rng_state().tolist(), torch.are_deterministic_algorithms_enabled(), np.geterr(),
            str(np.random.get_state()), random.getstate(),
            signal.getsignal(signal.SIGINT), sys.excepthook, torch.backends.cudnn.benchmark)

import tyro, rich, gymnasium, numba, tensorboard, torch.utils.tensorboard, psutil  # theirs is theirs
before, filters = state(), list(warnings.filters)
import protorl
for module in pkgutil.walk_packages(protorl.__path__, "protorl."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert state() == before
assert warnings.filters == filters
print(sorted({"ale_py", "mujoco", "Box2D", "envpool", "matplotlib", "imageio", "cv2", "ray"} & set(sys.modules)))
"""
    assert python(code) == "[]"


@pytest.mark.parametrize("name", protorl.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(protorl, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Dqn'"):
        _ = protorl.Dqn  # type: ignore[attr-defined]


def test_a_missing_extra_is_one_sentence_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "mujoco" or n.startswith("gymnasium.envs.mujoco")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)  # what Python itself notes for a module that must not be found
    assert main(["train", "dqn", "--env", "HalfCheetah-v5", "--steps", "10", "--run-dir", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert 'pip install "protorl[mujoco]"' in error
    assert len(error.splitlines()) == 1
