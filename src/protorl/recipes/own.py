"""A recipe of one's own: the text of its file, what has changed in it since a run began, and mistakes in it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from protorl.data import ProtoRLError
from protorl.place import own_place

KEPT = "recipe.py"
"""The text of the file of a user's recipe, in the run folder."""


def file_of(recipe: type) -> Path | None:
    """The file of a user's recipe class; None for ours, and where there is none (a notebook)."""
    if recipe.__module__.split(".")[0] == "protorl":
        return None
    try:
        return Path(inspect.getfile(recipe))
    except (TypeError, OSError):
        return None


def text_of(recipe: type) -> str | None:
    """What is in that file."""
    file = file_of(recipe)
    try:
        return None if file is None else file.read_text()
    except (OSError, ValueError):
        return None


def changed_since(folder: Path, recipe: type) -> str | None:
    """A sentence, where the file of a recipe is not as it was when the run in this folder began."""
    try:
        before = (folder / KEPT).read_text()
    except (OSError, ValueError):
        return None
    now = text_of(recipe)
    if now is None or now == before:
        return None
    numbers = numbers_changed(before, now)
    if numbers is None:
        return f"{file_of(recipe)} is not as it was when this run began ({folder / KEPT} is): it goes on with the new code"
    if not numbers:
        return None
    return (
        f"{file_of(recipe)} has changed since this run began: {', '.join(numbers)}; "
        "fields of the recipe stay as they were resolved then, and `--set` changes them"
    )


def numbers_changed(before: str, now: str) -> list[str] | None:
    """Where nothing but numbers differs between two texts (comments and layout aside): which. None: more than that."""
    found: list[str] = []

    def alike(one: object, two: object, name: str) -> bool:
        numbers = number(one), number(two)
        if None not in numbers:
            if numbers[0] != numbers[1]:
                found.append(f"{name} from {numbers[0]!r} to {numbers[1]!r}".lstrip())
            return True
        if type(one) is not type(two):
            return False
        if isinstance(one, list) and isinstance(two, list):
            return len(one) == len(two) and all(alike(a, b, name) for a, b in zip(one, two))
        if not isinstance(one, ast.AST):
            return one == two
        name = name_of(one) or name
        return all(alike(getattr(one, part, None), getattr(two, part, None), name) for part in one._fields)

    try:
        return found if alike(ast.parse(before), ast.parse(now), "") else None
    except SyntaxError:
        return None


def number(node: object) -> float | None:
    """The number that is written there, if it is one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        positive = number(node.operand)
        return None if positive is None else -positive
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def name_of(node: ast.AST) -> str | None:
    """What a statement defines, or an argument is called."""
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    found = target.id if isinstance(target, ast.Name) else getattr(node, "name", getattr(node, "arg", None))
    return found if isinstance(found, str) else None


def mistake(error: BaseException, instead: object) -> ProtoRLError:
    """One sentence for an exception from a user's own code, with its place. instead: what to name where it has none."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return ProtoRLError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}")
    place = own_place(error)
    what = " ".join(str(error).split())
    what = what if isinstance(error, ProtoRLError) else f"{type(error).__name__}: {what}".rstrip(": ")
    if isinstance(error, ModuleNotFoundError):
        what += f" (install what has {error.name}, or mend the import)"
    return ProtoRLError(f"{instead if place is None else place}: {what}")
