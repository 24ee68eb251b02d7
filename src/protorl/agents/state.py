"""An agent's state: whatever it changed after it was built, and everything that holds tensors, as a tree for a checkpoint."""

from __future__ import annotations

import copy
import enum
import functools
import io
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from protorl.data import Array, ProtoRLError, State, Stateful
from protorl.networks import FlatParameters
from protorl.parts import CONTAINERS, Aside, attributes, children, is_plain, parts
from protorl.rng import pack, unpack

Tree: TypeAlias = object
"""Numbers, strings, tensors and arrays in dicts and lists, as a checkpoint holds them."""
KIND = "__kind__"
LIKE = "__like__"
VALUES = "__values__"
MISSING = object()
SYSTEM = {"builtins", "numpy", "torch", "collections", "functools"}
"""Where the classes come from of which what saves itself takes care."""
SMALL = 10_000
"""Elements up to which an array is compared with what it was at first; larger ones are always saved."""
GENERATORS: dict[type, tuple[Callable[[Any], object], Callable[[Any, Any], object]]] = {
    np.random.Generator: (pack, unpack),
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state),
    random.Random: (lambda gen: list(gen.getstate()[1]), lambda gen, state: gen.setstate((3, tuple(state), None))),
}
"""Sources of random numbers: how to read where they are, and how to put them there."""


class Built(Aside):
    """What an agent was when its constructor had returned: the class of everything in it by name, the form of its modules, and
    the values of what was plain data."""

    def __init__(self, agent: object) -> None:
        there = dict(parts(agent))
        self.kinds = {name: type(thing) for name, thing in there.items()}
        self.forms = {name: form(thing) for name, thing in there.items() if isinstance(thing, nn.Module)}
        self.values: State = {}
        saver = Saver(agent, self)
        saver.all()
        self.values = copy.deepcopy(saver.plain)


def form(module: nn.Module) -> tuple[object, ...]:
    """What makes two modules interchangeable: their class, and their tensors but for the numbers in them."""
    tensors = module.state_dict(keep_vars=True).items()
    return type(module), [(name, t.shape, t.dtype, t.requires_grad) for name, t in tensors if isinstance(t, Tensor)]


def is_plain_tree(tree: Tree) -> bool:
    """Whether there is nothing in it but numbers, strings and small arrays."""
    if isinstance(tree, dict):
        return all(map(is_plain_tree, tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(is_plain_tree, tree))
    return is_plain(tree) or (isinstance(tree, np.ndarray) and tree.size <= SMALL)


def same(one: Any, two: Any) -> bool:
    """Whether two plain trees are equal: NaN to NaN, 1 not to 1.0 or True."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    return bool(one == two) or bool(one != one and two != two)


class Saver:
    """Turns an agent's attributes into trees; what was met before is saved as where that was."""

    def __init__(self, agent: object, since: Built) -> None:
        self.agent, self.since = agent, since
        self.names: dict[int, str] = {id(agent): ""}
        self.plain: State = {}

    def all(self) -> State:
        """The state, by attribute. Raises: ProtoRLError, by name, for what could not be brought back."""
        found = ((name, self.save(value, name)) for name, value in attributes(self.agent).items())
        return {name: tree for name, tree in found if self.changed(tree, name)}

    def changed(self, tree: Tree, name: str) -> bool:
        """Whether this must be kept: plain data only if it is not as it was, wherever it lies."""
        if isinstance(tree, dict) and tree.get(KIND) == "object" and not tree["items"]:
            return False
        if not is_plain_tree(tree):
            return True
        self.plain[name] = tree
        return not (name in self.since.values and same(tree, self.since.values[name]))

    def save(self, thing: object, name: str) -> Tree:
        if isinstance(thing, enum.Enum):
            return {KIND: "enum", "name": thing.name}
        if is_plain(thing):
            return thing.item() if isinstance(thing, np.generic) else thing
        if isinstance(thing, FlatParameters):  # it lives in its module's memory
            return {KIND: "flat", "module": self.save(thing.module, f"{name}.module")}
        if id(thing) in self.names:
            return {KIND: "same", "as": self.names[id(thing)]}
        if type(thing) not in (tuple, frozenset):  # Python shares those
            self.names[id(thing)] = name
        if isinstance(thing, nn.Module):
            return self.module(thing, name)
        if isinstance(thing, nn.Parameter):
            return {KIND: "parameter", "data": thing.detach(), "grad": thing.requires_grad}
        if isinstance(thing, Tensor | np.ndarray):
            return thing
        if type(thing) is dict or type(thing) in CONTAINERS:
            return self.container(thing, name)
        tree = self.instance(thing, name)
        if tree[KIND] != "constant":
            self.require(thing, name)
        return tree

    def container(self, thing: Any, name: str) -> State:
        if isinstance(thing, Mapping):
            keys = [self.key(key, name) for key in thing]
            return {KIND: "dict", "keys": keys, "items": [self.save(value, f"{name}[{key!r}]") for key, value in thing.items()]}
        ordered = sorted(thing, key=repr) if isinstance(thing, set | frozenset) else thing
        kind = next(kind for kind in CONTAINERS if isinstance(thing, kind))
        more = {"maxlen": thing.maxlen} if kind is deque else {}
        return {KIND: kind.__name__, "items": [self.save(value, f"{name}[{i}]") for i, value in enumerate(ordered)], **more}

    def key(self, key: object, name: str) -> object:
        if isinstance(key, tuple):
            return tuple(self.key(part, name) for part in key)
        if is_plain(key) and not isinstance(key, enum.Enum):
            return key.item() if isinstance(key, np.generic) else key
        raise ProtoRLError(
            f"{name} has the key {key!r}, which a checkpoint cannot hold: use strings, numbers or tuples of them"
        )

    def instance(self, thing: object, name: str) -> State:
        """What a new agent has in this place too, to be filled."""
        for kind, (read, _) in GENERATORS.items():
            if isinstance(thing, kind):
                return {KIND: "generator", "state": read(thing)}
        if isinstance(thing, Stateful) and not isinstance(thing, type):
            return {KIND: "stateful", "state": thing.state_dict(), "items": self.beside(thing, name)}
        if isinstance(thing, Mapping | list | tuple | deque | set | frozenset):  # of a class of its own
            return self.container(thing, name)
        inside = {end: self.save(value, f"{name}{end}") for end, value in children(thing)}
        if inside:
            return {KIND: "object", "items": {end: tree for end, tree in inside.items() if self.changed(tree, f"{name}{end}")}}
        if isinstance(thing, Iterator | io.IOBase) or "lock" in type(thing).__name__.lower():
            raise ProtoRLError(
                f"{name}, a {type(thing).__name__}, cannot be saved in a checkpoint: keep numbers, tensors, modules, lists and "
                "dicts in its place, or give it state_dict() and load_state_dict()"
            )
        return {KIND: "constant"}

    def beside(self, thing: object, name: str) -> State:
        """An author's own objects inside what saves itself: a schedule that remembers, in a policy of ours."""
        found: State = {}
        for end, child in children(thing):
            ours = type(child).__module__.startswith("protorl.")
            if ours and not isinstance(child, nn.Module):
                inside = self.beside(child, f"{name}{end}")
                found |= {end: {KIND: "object", "items": inside}} if inside else {}
            elif not ours and (isinstance(child, FunctionType) or type(child).__module__.split(".")[0] not in SYSTEM):
                found[end] = self.save(child, f"{name}{end}")
        return {end: tree for end, tree in found.items() if tree.get(KIND) not in ("same", "constant")}

    def module(self, thing: nn.Module, name: str) -> State:
        """Its own `state_dict`, and the attributes of it and of its parts that are not as they were built."""
        tree: State = dict(thing.state_dict())
        if self.since.forms.get(name) != form(thing):
            tree[LIKE] = self.like(thing, name)
        values = {}
        for path, part in thing.named_modules():
            self.names.setdefault(id(part), f"{name}.{path}".rstrip("."))
            for end, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                self.names.setdefault(id(tensor), f"{name}.{path}.{end}".replace("..", "."))
            if type(part).get_extra_state is not nn.Module.get_extra_state:
                continue  # it saves itself
            for attribute, value in attributes(part).items():
                where = f"{path}.{attribute}".lstrip(".")
                child = self.save(value, f"{name}.{where}")
                if LIKE not in tree and self.changed(child, f"{name}.{where}"):
                    values[where] = child
        return tree | ({VALUES: values} if values else {})

    def like(self, thing: nn.Module, name: str) -> str:
        """A module that was there from the start and has this one's form: a copy of it, filled, is this one again."""
        for other, kind in self.since.forms.items():
            if kind == form(thing):
                return other
        raise ProtoRLError(
            f"{name}, a {type(thing).__name__}, cannot be saved in a checkpoint: it was made after the agent was built, and no "
            "module of then has its form: make it in the constructor"
        )

    def require(self, thing: object, name: str) -> None:
        """Raises: ProtoRLError for what a new agent would not have in this place, and a checkpoint cannot make."""
        if self.since.kinds.get(name) is not type(thing):
            raise ProtoRLError(
                f"{name}, a {type(thing).__name__}, cannot be saved in a checkpoint: it was not there when the agent was "
                "built; make it in the constructor, or keep numbers, tensors, lists and dicts in its place"
            )


def restore(agent: object, state: State, device: torch.device) -> None:
    """Put what `Saver.all` saved back into a new agent. Raises: ProtoRLError, by name, where a module or a tensor
    of the agent is not in the state."""
    loader = Loader(agent, device)
    here = attributes(agent)
    for name, thing in here.items():
        if name not in state and isinstance(thing, nn.Module | Tensor):
            raise ProtoRLError(
                f"the checkpoint has nothing for {name}, which this {type(agent).__name__} has: it is of another one"
            )
    for name, tree in state.items():
        value = loader.load(here.get(name, MISSING), tree, name)
        if here.get(name, MISSING) is not value:
            setattr(agent, name, value)


class Loader:
    """Turns trees into things again, in the place of those that are there."""

    def __init__(self, agent: object, device: torch.device) -> None:
        self.device = device
        self.there: dict[str, Any] = dict(parts(agent))
        self.done: dict[str, object] = {}

    def load(self, now: object, tree: Tree, name: str) -> Any:
        """What `tree` says: `now` itself, where that can be filled."""
        self.done[name] = value = self.value(now, tree, name)
        return value

    def value(self, now: Any, tree: Tree, name: str) -> object:
        if isinstance(tree, Tensor):
            return self.tensor(now, tree)
        if isinstance(tree, np.ndarray):
            return self.array(now, tree)
        if not isinstance(tree, dict):
            return tree
        kind = tree.get(KIND, "module")
        if kind == "module":
            return self.module(now, tree, name)
        if kind == "same":
            return self.done.get(tree["as"], self.there.get(tree["as"], now))
        if kind == "flat":
            module = self.load(getattr(now, "module", MISSING), tree["module"], f"{name}.module")
            return now if isinstance(now, FlatParameters) and now.module is module else FlatParameters(module)
        if kind == "parameter":
            kept = self.tensor(now, tree["data"])
            return kept if isinstance(kept, nn.Parameter) else nn.Parameter(kept, requires_grad=tree["grad"])
        if kind in CONTAINER_NAMES:
            return self.container(now, tree, name)
        if now is MISSING:
            raise ProtoRLError(f"the checkpoint has a state for {name}, but this agent has nothing there that could take it")
        if kind == "generator":
            next(put for cls, (_, put) in GENERATORS.items() if isinstance(now, cls))(now, tree["state"])
        if kind == "enum":
            return type(now)[tree["name"]]
        if kind == "stateful":
            now.load_state_dict(copy.deepcopy(tree["state"]))  # torch's optimizers keep what they are given
        if kind in ("object", "stateful"):
            before = dict(children(now))
            for end, child in tree["items"].items():
                after = self.load(before.get(end, MISSING), child, f"{name}{end}")
                if after is not before.get(end, MISSING):
                    put(now, end, after)
        return now

    def tensor(self, now: object, saved: Tensor) -> Tensor:
        if isinstance(now, Tensor) and now.shape == saved.shape and now.dtype == saved.dtype:
            with torch.no_grad():
                now.copy_(saved)
            return now
        return saved.to(now.device if isinstance(now, Tensor) else self.device, copy=True)

    def array(self, now: object, saved: Array) -> Array:
        if isinstance(now, np.ndarray) and now.shape == saved.shape and now.dtype == saved.dtype and now.flags.writeable:
            now[...] = saved
            return now
        return saved.copy()

    def module(self, now: Any, tree: State, name: str) -> nn.Module:
        if LIKE in tree:
            pattern = self.there[tree[LIKE]]
            if now is MISSING or form(now) != form(pattern):
                now = copy.deepcopy(pattern)
                if len({p.untyped_storage().data_ptr() for p in pattern.parameters()}) == 1:  # in one flat buffer
                    FlatParameters(now)
        if not isinstance(now, nn.Module):
            raise ProtoRLError(f"the checkpoint has a module for {name}, but this agent has none there")
        now.load_state_dict({key: value for key, value in tree.items() if key not in (LIKE, VALUES)})
        for path, child in tree.get(VALUES, {}).items():
            *way, attribute = path.split(".")
            owner = functools.reduce(getattr, way, now)
            setattr(owner, attribute, self.load(getattr(owner, attribute, MISSING), child, f"{name}.{path}"))
        return now

    def container(self, now: object, tree: State, name: str) -> object:
        kind, saved = CONTAINER_NAMES[tree[KIND]], tree["items"]
        if kind is dict:
            before = now if isinstance(now, Mapping) else {}
            pairs = {
                key: self.load(before.get(key, MISSING), child, f"{name}[{key!r}]") for key, child in zip(tree["keys"], saved)
            }
            if not isinstance(now, Mapping) or not hasattr(now, "clear"):
                return pairs
            now.clear()  # type: ignore[attr-defined]
            now.update(pairs)  # type: ignore[attr-defined]
            return now
        items = list(now) if isinstance(now, list | tuple | deque) else []
        items = [self.load(items[i] if i < len(items) else MISSING, child, f"{name}[{i}]") for i, child in enumerate(saved)]
        if kind is deque and not (isinstance(now, deque) and now.maxlen == tree["maxlen"]):
            return deque(items, tree["maxlen"])
        if kind in (list, deque, set) and isinstance(now, kind):
            now.clear()
            (now.update if kind is set else now.extend)(items)
            return now
        if isinstance(now, kind) and hasattr(now, "_fields"):
            return type(now)(*items)
        return kind(items)


CONTAINER_NAMES: dict[str, Any] = {kind.__name__: kind for kind in (*CONTAINERS, dict)}


def put(thing: Any, end: str, value: object) -> None:
    """Exchange one of the `children` of an object."""
    if end.startswith(".<"):
        cells = dict(zip(thing.__code__.co_freevars, thing.__closure__))
        cells[end[2:-1]].cell_contents = value
    else:
        object.__setattr__(thing, end[1:], value)  # also of a frozen dataclass
