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
from typing import Any

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


def edges(thing: object) -> Iterator[tuple[str, Any, Any, object]]:
    """The things inside one thing: of each the end of its name, the dict or sequence that holds it (None: something else does),
    its place there, and itself; none where there is nothing to remember."""
    if is_plain(thing) or isinstance(thing, Tensor | np.ndarray | type | types.ModuleType):
        return
    if isinstance(thing, Mapping):
        yield from (
            (f"[{key!r}]" if shows(key) else f"[#{i}]", thing, key, value) for i, (key, value) in enumerate(thing.items())
        )
    elif isinstance(thing, CONTAINERS):
        table = None if isinstance(thing, set | frozenset) else thing
        yield from ((f"[{i}]", table, i, value) for i, value in enumerate(thing))
    elif isinstance(thing, types.MethodType):
        yield ".__self__", (thing.__self__,), 0, thing.__self__
    elif isinstance(thing, types.FunctionType):
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or ()):
            try:
                yield f".<{name}>", None, None, cell.cell_contents
            except ValueError:  # not filled yet
                continue
    elif isinstance(thing, functools.partial):
        once = thing.func, thing.args, thing.keywords
        yield from ((end, once, i, once[i]) for i, end in enumerate((".func", ".args", ".keywords")))
    else:
        if isinstance(thing, nn.Module):
            for table in (getattr(thing, name) for name in MODULE_TABLES):
                yield from ((f".{name}", table, name, value) for name, value in table.items() if value is not None)
        own = getattr(thing, "__dict__", {})
        yield from ((f".{name}", own if name in own else None, name, value) for name, value in attributes(thing).items())


def children(thing: object) -> Iterator[tuple[str, object]]:
    """The things inside one thing, each with the end of its name."""
    return ((end, child) for end, _, _, child in edges(thing))


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


class Reached(Aside):
    """The memory of every tensor reachable from a thing. It walks again only where something on the way was exchanged, added or
    taken away: walking takes longer than copying a small network.

    What closures, sets and slots hold is not watched: where there are any, it walks each time.
    skip: things of these classes are not looked into.
    """

    def __init__(self, *skip: type) -> None:
        self.skip = skip
        self.way: list[tuple[Any, Any, object]] = []  # a dict or sequence, a place in it, and what is there
        self.sizes: list[tuple[Any, int]] = []
        self.tensors: list[tuple[Tensor, int]] = []  # each with the address of its numbers
        self.found: list[Tensor] = []
        self.watched = False

    def __reduce__(self) -> Any:
        return Reached, self.skip  # a copy starts afresh

    def memory(self, root: object) -> list[Tensor]:
        """`whole` of every tensor, each memory once."""
        if not (self.watched and self.stands()):
            self.look(root)
        return self.found

    def stands(self) -> bool:
        """Whether everything is where it was."""
        try:
            return (
                all(table[key] is child for table, key, child in self.way)
                and all(len(table) == size for table, size in self.sizes)
                and all(tensor.data_ptr() == address for tensor, address in self.tensors)
            )
        except LookupError:
            return False

    def look(self, root: object) -> None:
        seen, waiting, sized = {id(root)}, [root], dict[int, Any]()
        self.way, self.tensors, self.watched = [], [], True
        while waiting:
            thing = waiting.pop()
            if isinstance(thing, Tensor):
                self.tensors.append((thing, thing.data_ptr()))
                continue
            if isinstance(thing, Mapping | list | deque):
                sized[id(thing)] = thing
            for _, table, key, child in edges(thing):
                if (is_plain(child) and child is not None) or isinstance(child, (np.ndarray, *self.skip)):
                    continue
                self.watched = self.watched and table is not None
                self.way.append((table, key, child))
                sized[id(table)] = table
                if child is not None and id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)
        self.sizes = [(table, len(table)) for table in sized.values() if table is not None]
        every = [tensor for tensor, _ in self.tensors if tensor.numel()]
        self.found = list({tensor.untyped_storage().data_ptr(): whole(tensor) for tensor in every}.values())


def first_not_finite(root: object, name: str) -> str | None:
    """The name of the first tensor with a NaN or infinity among the parts; None if all are finite."""
    for where, tensor in tensors(root).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.detach()).all()):
            return f"{name}.{where}"
    return None
