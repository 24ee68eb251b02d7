"""Code of a person's own, by name: a module or a file, and a class in it, with arguments."""

from __future__ import annotations

import ast
import getpass
import hashlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from protorl.data import ProtoRLError
from protorl.place import own_place

EXTRAS = {
    "box2d": "box2d",
    "Box2D": "box2d",
    "mujoco": "mujoco",
    "ale_py": "atari",
    "cv2": "atari",
    "minigrid": "minigrid",
    "popgym": "popgym",
    "pettingzoo": "multiagent",
    "mpe2": "multiagent",
    "lbforaging": "multiagent",
    "vmas": "vmas",
}
"""Our extras, by what their packages are imported as."""


class Call(NamedTuple):
    """What "place:attribute(arguments)" says."""

    place: str
    attribute: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def module_at(place: str) -> ModuleType:
    """A module by its name, or a file (`my_env.py`), imported once; files of one name in two folders are two modules.

    Raises: ProtoRLError where it is not there, or its own code fails, with the line at which it does.
    """
    path = Path(place).resolve()
    name = name_of(path, "file") if place.endswith(".py") else place
    if name in sys.modules:
        return sys.modules[name]
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not path.is_file():
            raise ProtoRLError(f"there is no file {place}")
        return run_file(path, name)
    except ProtoRLError:
        raise
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if place == missing or place.startswith(f"{missing}."):
            extra = EXTRAS.get(missing.partition(".")[0])
            way = f'pip install "protorl[{extra}]"' if extra else "install it, or run where Python finds it"
            raise ProtoRLError(f"cannot import {place!r}: {way}") from error
        raise ProtoRLError(f"cannot import {place!r}: it needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise ProtoRLError(f"cannot import {place!r}: {blamed(error)}") from error


def name_of(path: Path, kind: str) -> str:
    """What the module of a file is called: files of one name in two folders are two modules."""
    return f"{kind}_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


class Begins(BaseException):
    """A file that is run for what it defines and registers has come to where its work begins."""


class Reading:
    """How many files are run right now for what they define."""

    files = 0


@contextmanager
def reading() -> Iterator[None]:
    """Inside, a file is run for what it defines: where its work begins is its end, so that it needs no `if __name__`."""
    Reading.files += 1
    try:
        with suppress(Begins):
            yield
    finally:
        Reading.files -= 1


def work_begins() -> None:
    """A training, or a process for one, is about to begin. Raises: Begins where that is not what the file is run for."""
    if Reading.files:
        raise Begins


def run_file(path: Path, name: str) -> ModuleType:
    """A file as the module of this name, run now, up to where it begins a training; where it raises, nothing of it stays.
    Raises: what its code does."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ProtoRLError(f"{path} cannot be imported as Python")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # there already: dataclasses look their module up
    try:
        with reading():
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def blamed(error: Exception) -> str:
    """An error in code of a person's own: where, and what."""
    what = (str(error).strip().splitlines() or ["without a word"])[0]
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    place = own_place(error)
    return f"{'' if place is None else f'{place}: '}{type(error).__name__}: {what}"


def call_of(text: str, what: str) -> Call:
    """ "gymnasium.wrappers:TimeAwareObservation(flatten=True)" in its parts; arguments are plain values. what: it is, in words.

    Raises: ProtoRLError where it is not written like that.
    """
    head, bracket, rest = text.strip().partition("(")
    place, _, attribute = head.rpartition(":")
    if not place or not attribute.isidentifier():
        raise ProtoRLError(f"{text!r} names no {what}: write MODULE:CLASS or FILE.py:CLASS, with (arguments) if need be")
    if not bracket:
        return Call(place, attribute, (), {})
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        args = tuple(ast.literal_eval(value) for value in call.args)
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
        if len(kwargs) < len(call.keywords):
            raise ValueError
    except (ValueError, SyntaxError, TypeError):
        example = "(3, name=True, other='text')"
        raise ProtoRLError(f"the arguments of {text!r} are no plain values: write them as {example}") from None
    return Call(place, attribute, args, kwargs)


def absolute(text: str) -> str:
    """ "my_env.py:MyEnv" with the whole path of its file, so that it is found from elsewhere too; other names as they are."""
    head, bracket, rest = text.partition("(")
    place, _, attribute = head.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}{bracket}{rest}" if place.endswith(".py") else text


def texts_of(names: Iterable[str]) -> dict[str, str]:
    """The files among names such as "/home/me/my_env.py:MyEnv(3)", by their paths: what is in them."""
    places = [name.partition("(")[0].rpartition(":")[0] for name in names]
    return {place: Path(place).read_text() for place in places if place.endswith(".py") and Path(place).is_file()}


def brought(texts: Mapping[str, str]) -> dict[str, str]:
    """Where these files are on this machine, which may be another one: each at its own path, if it is the same there, or else
    written to the machine's folder for what is temporary."""
    found = {}
    for path, text in texts.items():
        here = Path(path)
        if not (here.is_file() and here.read_text() == text):
            digest = hashlib.sha256(f"{path} {text}".encode()).hexdigest()[:16]
            here = Path(tempfile.gettempdir()) / f"protorl-{getpass.getuser()}" / digest / here.name
            here.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=here.parent, delete=False) as file:  # several may be about it
                file.write(text)
            Path(file.name).replace(here)
        found[path] = str(here)
    return found
