"""What a method reads of an agent, watched: a graph holds for as long as that is as it was."""

from __future__ import annotations

import operator
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module
from torch.utils.hooks import RemovableHandle

from protorl.parts import MODULE_HABITS, MODULE_TABLES, PLAIN, attributes, children, is_plain, parts, slots_of

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
NOT_RECORDED = (*PLAIN, Tensor, type, types.ModuleType, types.FunctionType, types.MethodType)
MISSING = object()


class Reads:
    """What a method read of an agent: attributes and what containers hold, by where they stand (`holder[key] is value`); the
    lengths of containers; that modules have no hooks; where tensors lie in memory."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.places: list[tuple[Any, Any]] = []  # holder, key
        self.values: list[Any] = []
        self.containers: list[Any] = []
        self.lengths: list[int] = []
        self.asked: list[tuple[Any, str, Any]] = []  # attributes of classes, and those that were not there
        self.cells: list[tuple[types.CellType, Any]] = []
        self.hooks: list[Any] = []
        self.tensors: list[Tensor] = []
        self.addresses: list[int] = []
        self.tables: set[int] = set()
        self.comparison: Comparison
        self.noted: set[tuple[int, Any]] = set()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, whatever is read of the agent and of what is in it is noted."""
        with ExitStack() as stack:
            for _, thing in list(parts(self.agent)):
                cls = type(thing)
                if isinstance(thing, NOT_RECORDED) or not attributes(thing):
                    continue
                try:
                    object.__setattr__(thing, "__class__", recorder(cls, self))
                except TypeError:  # a class of C
                    for name in vars(thing):
                        self.keep(vars(thing), name)
                else:
                    stack.callback(object.__setattr__, thing, "__class__", cls)
            yield

    def note(self, thing: Any, name: str, found: Any) -> None:
        """An attribute was read."""
        if name.startswith("__") or (name in MODULE_HABITS and name not in MODULE_TABLES):
            return
        own = getattr(thing, "__dict__", {})
        for holder in (own, *(own[table] for table in MODULE_TABLES if table in own)):
            if name in holder:
                self.keep(holder, name)
                return
        elsewhere = is_plain(found) or found is MISSING or name in slots_of(thing)
        if elsewhere and not hasattr(nn.Module, name) and (id(thing), name) not in self.noted:
            self.noted.add((id(thing), name))
            self.asked.append((thing, name, found))
            self.look_into(found)

    def keep(self, holder: Any, key: Any) -> None:
        """This place was read, and what is in it, if that has places of its own."""
        if (id(holder), key) in self.noted:
            return
        self.noted.add((id(holder), key))
        value = holder[key]
        self.places.append((holder, key))
        self.values.append(value)
        self.look_into(value)

    def look_into(self, value: Any) -> None:
        if isinstance(value, list | deque | set | dict):
            self.containers.append(value)
            self.lengths.append(len(value))
        if isinstance(value, list | tuple | deque | Mapping):
            for key in value if isinstance(value, Mapping) else range(len(value)):
                self.keep(value, key)
        elif isinstance(value, types.FunctionType):
            for cell, (_, inside) in zip(value.__closure__ or (), children(value)):
                self.cells.append((cell, inside))
                self.look_into(inside)

    def graph_holds(self, tensors: list[Tensor]) -> None:
        """The graph reads these tensors where they are."""
        self.tensors = tensors
        self.addresses = [tensor.data_ptr() for tensor in tensors]
        modules = [part for _, part in parts(self.agent) if isinstance(part, nn.Module)]
        self.hooks = [hooks for part in modules for hooks in (getattr(part, kind) for kind in HOOKS) if not hooks]
        self.tables = {id(getattr(part, table)) for part in modules for table in MODULE_TABLES}
        self.compare()

    def compare(self) -> None:
        self.comparison = Comparison(self.places, self.values, self.containers, self.tensors, self.tables)

    def ask(self) -> Callable[[], bool]:
        """`hold`, or less where less is enough."""
        return self.hold if self.cells or self.asked else self.comparison.ask

    def hold(self) -> bool:
        """Whether all of it is as it was."""
        if not self.comparison.ask() and not self.holds_throughout():
            return False
        return all(same_value(cell.cell_contents, value) for cell, value in self.cells) and all(
            same_value(getattr(thing, name, MISSING), value) for thing, name, value in self.asked
        )

    def holds_throughout(self) -> bool:
        """The same, place by place; equal numbers that were made anew are taken as they are now."""
        try:
            now = [holder[key] for holder, key in self.places]
        except LookupError:
            return False
        same = (
            all(map(same_value, now, self.values))
            and [len(container) for container in self.containers] == self.lengths
            and [tensor.data_ptr() for tensor in self.tensors] == self.addresses
            and not any(self.hooks)
        )
        if same and not all(map(operator.is_, now, self.values)):
            self.values = now
            self.compare()
        self.comparison.mark()
        return same

    def changed(self) -> str:
        """What does not hold any more, by name."""
        for (holder, key), value in zip(self.places, self.values):
            try:
                if same_value(holder[key], value):
                    continue
            except LookupError:
                pass
            return f"`{self.name_of(holder, key)}`"
        for container, length in zip(self.containers, self.lengths):
            if len(container) != length:
                return f"what `{self.name_of(container)}` holds"
        for thing, name, value in self.asked:
            if not same_value(getattr(thing, name, MISSING), value):
                return f"`{name}`"
        return "where tensors lie, a hook, or a closure"

    def name_of(self, holder: Any, key: Any = None) -> str:
        for name, thing in parts(self.agent):
            tables = [getattr(thing, table) for table in MODULE_TABLES] if isinstance(thing, nn.Module) else []
            if thing is holder or any(own is holder for own in (getattr(thing, "__dict__", None), *tables)):
                end = "" if key is None else f"[{key!r}]" if thing is holder else f".{key}"
                return f"{name}{end}".lstrip(".")
        return str(key)


class Registered:
    """How many parameters, buffers and parts were ever given to a module of this process, and how many hooks."""

    count = 0
    watched = False

    @classmethod
    def watch(cls) -> None:
        """From now on, count; torch tells."""
        if not cls.watched:
            cls.watched = True
            for tell in (
                module.register_module_parameter_registration_hook,
                module.register_module_buffer_registration_hook,
                module.register_module_module_registration_hook,
            ):
                tell(cls.one_more)

    @classmethod
    def one_more(cls, *_: object) -> None:
        cls.count += 1


class Comparison:
    """Whether places still hold their very values, containers have their lengths, and tensors lie where they do; and whether
    nothing was registered in any module since `marks` were set, so that modules' own tables need not be gone through.

    `ask()` is one written-out expression, since it comes before every call.
    """

    def __init__(
        self,
        places: Iterable[tuple[Any, Any]],
        values: Iterable[Any],
        containers: Iterable[Any],
        tensors: Iterable[Tensor],
        tables: set[int],
    ) -> None:
        Registered.watch()
        self.marks = [Registered.count, RemovableHandle.next_id]
        names: dict[str, Any] = {"marks": self.marks, "registered": Registered, "handles": RemovableHandle}
        terms = ["registered.count == marks[0]", "handles.next_id == marks[1]"]
        for i, ((holder, key), value) in enumerate(zip(places, values)):
            if id(holder) not in tables:
                names |= {f"holder_{i}": holder, f"key_{i}": key, f"value_{i}": value}
                terms.append(f"holder_{i}[{repr(key) if type(key) in (str, int) else f'key_{i}'}] is value_{i}")
        for i, container in enumerate(containers):
            if id(container) not in tables:
                names[f"container_{i}"] = container
                terms.append(f"len(container_{i}) == {len(container)}")
        for i, tensor in enumerate({tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values()):
            names[f"place_{i}"] = tensor.data_ptr
            terms.append(f"place_{i}() == {tensor.data_ptr()}")
        exec(f"def ask():\n try:\n  return {' and '.join(terms)}\n except LookupError:\n  return False", names)
        self.ask: Callable[[], bool] = names["ask"]

    def mark(self) -> None:
        """What was registered until now did not matter."""
        self.marks[:] = Registered.count, RemovableHandle.next_id


def same_value(one: Any, two: Any) -> bool:
    """The same object, or an equal number."""
    return one is two or (is_plain(one) and type(one) is type(two) and bool(one == two))


def recorder(cls: type, reads: Reads) -> type:
    """A class like `cls` whose instances tell what is read of them."""

    def __getattribute__(self: Any, name: str) -> Any:  # noqa: N807
        try:
            found = cls.__getattribute__(self, name)  # type: ignore[call-arg]
        except AttributeError:
            reads.note(self, name, MISSING)
            raise
        reads.note(self, name, found)
        return found

    return type(cls.__name__, (cls,), {"__getattribute__": __getattribute__, "__slots__": ()})
