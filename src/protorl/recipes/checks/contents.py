"""Everything that an object holds, at any depth and by name: tensors, arrays, numbers, strings, random generators.

The walk is not that of `protorl.parts`, by which agents are saved and compiled: what that one does not see is to be found here.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from protorl.agents import Agent
from protorl.data import Stateful
from protorl.parts import MODULE_HABITS, MODULE_TABLES, Aside

PLAIN = (bool, int, float, complex, str, bytes, np.generic, type(None), torch.dtype, torch.device)
OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, types.GeneratorType, logging.Logger, weakref.ref)
SMALL = 1e-3
"""Numbers below this are noise to a network: differences are not relative to less."""


class Leaf(NamedTuple):
    """One value, and where it is: an attribute, an entry or an item of `holder`."""

    holder: Any
    key: Any
    value: Any


class Contents:
    """What `thing` holds: `leaves` by name, and all `objects` on the way.

    saved: a part of ProtoRL itself that has a `state_dict` counts as what that says (its caches are rebuilt); a person's own
    parts are looked into in any case. Methods that were rebound are no contents, nor is what an agent was when it was built, or
    what was decided about its speed.
    """

    def __init__(self, thing: Any, name: str, *, saved: bool = False) -> None:
        self.saved = saved
        self.leaves: dict[str, Leaf] = {}
        self.objects: dict[int, Any] = {}  # by id; kept alive, so that ids stay unique
        self.visit(thing, name, None, None)

    def visit(self, node: Any, path: str, holder: Any, key: Any) -> None:
        if isinstance(node, PLAIN):
            self.leaves[path] = Leaf(holder, key, node)
            return
        if id(node) in self.objects or isinstance(node, OPAQUE):
            return
        if type(node) is not tuple:  # a tuple shared by two names is no shared memory
            self.objects[id(node)] = node
        generators = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
        if isinstance(node, (Tensor, *generators, itertools.count, set, frozenset)) or is_numbers(node):
            self.leaves[path] = Leaf(holder, key, node)
            return
        if self.saved and is_ours(node):
            node = node.state_dict()
            self.objects[id(node)] = node
        for name, place, under, child in children(node):
            self.visit(child, path + name, place, under)

    def frozen(self) -> dict[str, Any]:
        """Copies of all values, by name."""
        return {path: still(leaf.value) for path, leaf in self.leaves.items()}


def is_numbers(node: Any) -> bool:
    return isinstance(node, np.ndarray) and node.dtype != object


def is_ours(node: Any) -> bool:
    """A part of ProtoRL that says itself what its state is."""
    known = type(node).__module__.startswith("protorl.")
    return known and isinstance(node, Stateful) and not isinstance(node, nn.Module | Agent)


def children(node: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """What is directly in a container or an object: name, holder, key, value."""
    if isinstance(node, Mapping):
        for i, (key, value) in enumerate(list(node.items())):
            yield f".{key}" if isinstance(key, str) else f"[{key if isinstance(key, int) else i}]", node, key, value
    elif isinstance(node, list | tuple | deque | np.ndarray):
        names = getattr(node, "_fields", None)
        for i, value in enumerate(node):
            yield f".{names[i]}" if names else f"[{i}]", node, i, value
    elif isinstance(node, types.FunctionType):
        for name, cell in zip(node.__code__.co_freevars, node.__closure__ or ()):
            with suppress(ValueError):  # empty
                yield f".{name}", cell, "cell_contents", cell.cell_contents
    elif isinstance(node, types.MethodType):
        yield "", None, None, node.__self__
    elif isinstance(node, functools.partial):
        yield "", None, None, node.func
        yield from children(node.args)
        yield from children(node.keywords)
    else:
        yield from attributes(node)


def attributes(node: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """An object's attributes; a module's parameters, buffers and parts under their own names."""
    own = getattr(node, "__dict__", {})
    if isinstance(node, nn.Module):
        for table in MODULE_TABLES:
            yield from children(own[table])
        own = {name: value for name, value in own.items() if name not in MODULE_HABITS}
    slots = [name for cls in type(node).__mro__ for name in vars(cls).get("__slots__", ()) if isinstance(name, str)]
    own = {**own, **{name: getattr(node, name) for name in slots if name != "__dict__" and hasattr(node, name)}}
    for name, value in own.items():
        method = isinstance(value, Aside) or (callable(value) and callable(getattr(type(node), name, None)))
        if not (method or (name == "settled" and isinstance(node, Agent))):
            yield f".{name}", node, name, value


def still(value: Any) -> Any:
    """A copy that stays as it is."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return repr(value) if isinstance(value, itertools.count) else value


def put(leaves: Mapping[str, Leaf], values: Mapping[str, Any], *, numbers: bool = True) -> None:
    """Write values into leaves of the same names: tensors and arrays in place, plain ones (if `numbers`) where they were."""
    with torch.no_grad():
        for path, (holder, key, there) in leaves.items():
            value = values.get(path)
            if isinstance(there, Tensor) and isinstance(value, Tensor) and there.shape == value.shape:
                if not there.is_inference():
                    there.detach().copy_(value)
            elif isinstance(there, np.ndarray) and isinstance(value, np.ndarray) and there.shape == value.shape:
                if there.flags.writeable:
                    there[...] = value
            elif isinstance(there, PLAIN) and numbers and path in values and isinstance(value, PLAIN):
                write(holder, key, value)


def write(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, dict | list | deque):
        holder[key] = value
    elif isinstance(key, str) and not isinstance(holder, Mapping):
        object.__setattr__(holder, key, value)


# Comparing


def difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """The first name whose values are not the same bit for bit; None if all are."""
    for path in [*one, *(path for path in two if path not in one)]:
        if path not in one or path not in two or not same(one[path], two[path]):
            return path
    return None


def same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN equal to NaN."""
    if isinstance(a, Tensor | np.ndarray):
        if type(a) is not type(b) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool(np.asarray((a == b) | ((a != a) & (b != b))).all())
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def farthest(one: Mapping[str, Any], two: Mapping[str, Any], small: float = SMALL) -> tuple[float, str]:
    """The largest relative difference of two contents, and where it is."""
    names = [*one, *(path for path in two if path not in one)]
    far = ((apart(one.get(path), two.get(path), small), path) for path in names)
    return max(far, default=(0.0, ""), key=lambda pair: pair[0])


def apart(a: Any, b: Any, small: float = SMALL) -> float:
    """|a - b| / max(|a|, |b|), of arrays by their norms, but never relative to less than `small` per number; infinite for what
    cannot be compared and is not the same."""
    numbers = isinstance(a, float | int | Tensor | np.ndarray) and isinstance(b, float | int | Tensor | np.ndarray)
    if not numbers:
        return 0.0 if same(a, b) else float("inf")
    x, y = (torch.as_tensor(value).detach().cpu().to(torch.float64) for value in (a, b))
    if x.shape != y.shape:
        return float("inf")
    if x.numel() == 0:
        return 0.0
    equal = (x == y) | (x.isnan() & y.isnan())
    x, y = x.masked_fill(equal & ~x.isfinite(), 0.0), y.masked_fill(equal & ~y.isfinite(), 0.0)
    size = max(float(x.norm()), float(y.norm()), small * x.numel() ** 0.5)
    far = float((x - y).norm()) / size
    return far if far == far else float("inf")


def told(contents: Mapping[str, Any], path: str) -> str:
    """The value of that name in a sentence."""
    return shown(contents[path]) if path in contents else "missing"


def shown(value: Any) -> str:
    """A value in a sentence: a number, or the norm of an array."""
    if isinstance(value, Tensor | np.ndarray):
        values = torch.as_tensor(value).detach().cpu().to(torch.float64)
        return f"{values.item():.5g}" if values.numel() == 1 else f"of norm {float(values.norm()):.5g}"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
