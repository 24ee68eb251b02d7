"""What an agent is made of: everything reachable from it that remembers, by name.

One walk serves checkpoints, compiled updates and the search for what is not finite. It goes through attributes, lists, dicts,
tuples, deques, modules, dataclasses, closures and plain objects, at any depth.
"""

from __future__ import annotations

import enum
import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, enum.Enum)
CONTAINERS = (list, tuple, deque, set, frozenset)
MODULE_TABLES = ("_parameters", "_buffers", "_modules")
MODULE_HABITS = frozenset(vars(nn.Module())) - {"training"}
"""What torch keeps in every module for itself."""


class Aside:
    """Base of what hangs on an agent and is no part of it: what stands in the place of one of its methods, say."""

    def notice(self) -> None:
        """The agent is about to be saved."""


def is_plain(thing: object) -> bool:
    """Whether it is a number, a string, or nothing: what is compared, not what is looked into."""
    return isinstance(thing, PLAIN)


def shows(key: object) -> bool:
    """Whether a key of a dict names what it holds: a parameter, as torch's optimizers have them, does not."""
    return all(map(shows, key)) if isinstance(key, tuple) else is_plain(key)


def slots_of(thing: object) -> list[str]:
    """The names of the attributes that a class of Python's own keeps out of `__dict__`."""
    own = (cls.__dict__.get("__slots__", ()) for cls in type(thing).__mro__)
    names = [name for slots in own for name in ((slots,) if isinstance(slots, str) else slots)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def attributes(thing: object) -> dict[str, object]:
    """The attributes of an object that may remember; of a module, those that are not in torch's tables."""
    found = getattr(thing, "__dict__", {})
    if not isinstance(found, dict) or isinstance(thing, type):
        return {}
    if slots := slots_of(thing):
        found = {**found, **{name: getattr(thing, name) for name in slots if hasattr(thing, name)}}
    habits = MODULE_HABITS if isinstance(thing, nn.Module) else frozenset()
    return {name: value for name, value in found.items() if name not in habits and not isinstance(value, Aside)}


def children(thing: object) -> Iterator[tuple[str, object]]:
    """The things inside one thing, each with the end of its name; none where there is nothing to remember."""
    if is_plain(thing) or isinstance(thing, Tensor | np.ndarray | type | types.ModuleType):
        return
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]" if shows(key) else f"[#{i}]", value) for i, (key, value) in enumerate(thing.items()))
    elif isinstance(thing, CONTAINERS):
        yield from ((f"[{i}]", value) for i, value in enumerate(thing))
    elif isinstance(thing, types.MethodType):
        yield ".__self__", thing.__self__
    elif isinstance(thing, types.FunctionType):
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or ()):
            try:
                yield f".<{name}>", cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif isinstance(thing, functools.partial):
        yield from ((".func", thing.func), (".args", thing.args), (".keywords", thing.keywords))
    else:
        if isinstance(thing, nn.Module):
            for table in MODULE_TABLES:
                yield from ((f".{name}", value) for name, value in getattr(thing, table).items() if value is not None)
        yield from ((f".{name}", value) for name, value in attributes(thing).items())


def parts(root: object) -> Iterator[tuple[str, object]]:
    """Everything reachable from `root`, itself ("") first, each thing once, with its name ("network.base.layers.0.weight",
    "past[2]"). Numbers and strings come each time that they are found."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        name, thing = waiting.pop()
        if not is_plain(thing):
            if id(thing) in seen:
                continue
            seen.add(id(thing))
        yield name, thing
        waiting.extend(reversed([(f"{name}{end}".lstrip("."), child) for end, child in children(thing)]))


def tensors(root: object) -> dict[str, Tensor]:
    """Every tensor reachable from `root`, by name."""
    return {name: thing for name, thing in parts(root) if isinstance(thing, Tensor)}


def whole(tensor: Tensor) -> Tensor:
    """All the memory that a tensor is a view of, as a vector."""
    storage = tensor.untyped_storage()
    size = storage.nbytes() // tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage, 0, (size,), (1,))  # type: ignore[call-overload]


def first_not_finite(root: object, name: str) -> str | None:
    """The name of the first tensor with a NaN or infinity among the parts; None if all are finite."""
    for where, tensor in tensors(root).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            return f"{name}.{where}"
    return None
