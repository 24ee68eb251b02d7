"""Does what a recipe declares reach the agent?"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from protorl.recipes.checks.finding import Verdict, listed

RUNNER = frozenset(
    {
        "steps",
        "accelerate",
        "precision",
        "log_every",
        "eval_every",
        "eval_episodes",
        "eval_epsilon",
        "eval_max_steps",
        "checkpoint_every",
        "keep",
    }
)
"""Fields that what runs a recipe reads, not what builds it."""


@contextmanager
def reads(recipe: type) -> Iterator[set[str]]:
    """Inside, the names of a recipe's attributes that are asked for (by others than dataclasses and this module)."""
    names: set[str] = set()
    plain: Any = recipe.__getattribute__
    own = vars(recipe).get("__getattribute__")

    def noting(self: Any, name: str) -> Any:
        asking = sys._getframe(1).f_globals.get("__name__", "")
        if asking != "dataclasses" and not asking.startswith(("protorl.recipes.fields", "protorl.recipes.checks")):
            names.add(name)
        return plain(self, name)

    recipe.__getattribute__ = noting  # type: ignore[method-assign,assignment]
    try:
        yield names
    finally:
        if own is None:
            del recipe.__getattribute__
        else:
            recipe.__getattribute__ = own  # type: ignore[method-assign]


def fields_are_read(recipe: Any, read: set[str]) -> Verdict:
    """Every field was asked for while the parts were built and trained, or is by a branch of what was called then."""
    fields = {field.name for field in dataclasses.fields(recipe)}
    called = read | {"assemble", "make_env", "make_eval_env"}
    elsewhere = {name for method in called for name in mentioned(type(recipe), method)}
    unread = [name for name in sorted(fields) if name not in read | RUNNER]
    if lost := [name for name in unread if name not in elsewhere and is_own(type(recipe), name)]:
        return False, f"nothing read {listed(lost)}: what it is set to is recorded, and has no effect"
    idle = f"; nothing asked for {listed(unread)} here" if unread else ""
    return True, f"{len(fields) - len(unread)} of {len(fields)} fields are read{idle}"


def is_own(recipe: type, field: str) -> bool:
    """Whether a field was declared by who wrote the recipe: one that a person's recipe inherits may lie idle."""
    home = next(cls for cls in recipe.__mro__ if field in vars(cls).get("__annotations__", ()))
    ours = [cls.__module__.split(".")[0] == "protorl" for cls in (home, recipe)]
    return ours in ([False, False], [True, True])


def mentioned(cls: type, method: str) -> set[str]:
    """The names in a method's code, in that of functions which it calls, and of the method that it overrides by `super()`."""
    names: set[str] = set()
    for base in cls.__mro__:
        function = getattr(vars(base).get(method), "__func__", vars(base).get(method))
        if isinstance(function, types.FunctionType):
            own = names_in(function.__code__)
            beside = (function.__globals__.get(name) for name in own)
            names |= own.union(*(names_in(f.__code__) for f in beside if isinstance(f, types.FunctionType)))
            if "super" not in own:
                break
    return names


def names_in(code: types.CodeType) -> set[str]:
    inner = (names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def class_holds(recipe: Any, agent: Any, read: set[str]) -> Verdict:
    """The agent is an `agent_class`, given its `agent_arguments`."""
    wanted = getattr(recipe, "agent_class", None)
    if wanted is None and not hasattr(recipe, "agent_arguments"):
        return None, "the recipe declares neither"
    if isinstance(wanted, type) and not isinstance(agent, wanted):
        return False, f"agent_class is {wanted.__name__}, but what trains is {type(agent).__name__}"
    if hasattr(recipe, "agent_arguments") and "agent_arguments" not in read:
        return False, f"agent_arguments is never asked for: {type(agent).__name__} was built without it"
    return True, f"{type(agent).__name__} is what trains"
