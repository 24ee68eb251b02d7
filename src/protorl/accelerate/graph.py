"""A method of an agent as one graph of tensor operations, in which everything that it may read or write is an argument."""

from __future__ import annotations

import copy
import operator
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from protorl.accelerate.small import SmallProducts
from protorl.networks import spelled_out
from protorl.parts import MODULE_HABITS, MODULE_TABLES, PLAIN, children, is_plain, parts

aten = torch.ops.aten
DRAWN: dict[Any, Callable[..., Tensor]] = {
    aten.randn.default: torch.randn,
    aten.randn_like.default: torch.randn,
    aten.rand.default: torch.rand,
    aten.rand_like.default: torch.rand,
}
"""Random numbers that a graph can be given instead of drawing them, and what draws the same ones."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NOT_RECORDED = (*PLAIN, Tensor, type, types.ModuleType, types.FunctionType, types.MethodType)
MISSING = object()


class Unfit(Exception):  # noqa: N818 - it is a reason, not an error
    """Why a method cannot be one graph, as the end of a sentence."""


@dataclass
class Trace:
    """graph: `(*arguments, *inputs, *drawn) -> outputs`. arguments: the agent's memory, each piece once. draws: what draws the
    random numbers. reads: what the method read of the agent, besides tensors' contents."""

    graph: Any
    arguments: list[Tensor]
    draws: list[Callable[[], Tensor]]
    reads: Reads

    def given(self, inputs: list[Tensor]) -> list[Tensor]:
        """What the graph takes."""
        return [*self.arguments, *inputs, *[draw() for draw in self.draws]]


def trace(function: Callable[..., list[Tensor]], inputs: list[Tensor], agent: Any) -> Trace:
    """Trace `function(*inputs)`, which uses `agent`; afterwards the agent is as it was. Raises: Unfit where a graph would not
    do what the function does."""
    from torch.fx.experimental.proxy_tensor import make_fx

    small = SmallProducts() if inputs[0].device.type == "cpu" else nullcontext()  # type: ignore[no-untyped-call]

    def written(*tensors: Tensor) -> list[Tensor]:
        with small, ValuesUnread():  # type: ignore[no-untyped-call]
            return function(*tensors)

    with Kept(agent), spelled_out():
        before = Contents(agent)
        reads = Reads(agent)
        try:
            with reads.recorded():
                graph = make_fx(written, tracing_mode="real")(*inputs)
        except Unfit:
            raise
        except Exception as error:
            raise Unfit(
                f"it cannot be traced ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]})"
            ) from error
        finally:
            changed = before.put_back()
    if changed is not None:
        raise Unfit(f"it changes {changed}, which a graph would not: change it in `update`")
    reads.graph_holds([getattr(graph, node.target) for node in graph.graph.nodes if node.op == "get_attr"])
    arguments = lift(graph)
    draws = draw_outside(graph)
    graph.recompile()
    return Trace(graph, arguments, draws, reads)


class ValuesUnread(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, no tensor's value becomes a number of Python's: a graph would hold that number for ever."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default or func is aten.is_nonzero.default:
            raise Unfit("it reads a tensor's value in Python (`.item()`, `if`, `float()`)")
        return func(*args, **(kwargs or {}))


# The graph's constants become arguments


def lift(graph: Any) -> list[Tensor]:
    """Make every tensor that a graph holds an argument of it, first in the order of arguments: tensors that share memory are
    views of one. Returns the arguments."""
    held: dict[int, list[Any]] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            tensor = getattr(graph, node.target)
            held.setdefault(tensor.untyped_storage().data_ptr() if tensor.numel() else -id(tensor), []).append(node)
    first = next(node for node in graph.graph.nodes if node.op == "placeholder")
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    arguments = []
    for i, nodes in enumerate(held.values()):
        tensors = [getattr(graph, node.target).detach() for node in nodes]
        whole = memory_of(tensors)
        with graph.graph.inserting_before(first):
            argument = graph.graph.placeholder(f"memory_{i}")
        arguments.append(whole)
        views: dict[Any, Any] = {}
        for node, tensor in zip(nodes, tensors):
            form = tensor.shape, tensor.stride(), tensor.storage_offset()
            if form not in views:
                with graph.graph.inserting_after(last):
                    views[form] = view_of(graph.graph, argument, whole, tensor)
            node.replace_all_uses_with(views[form])
            graph.graph.erase_node(node)
    for table in (graph._parameters, graph._buffers):
        table.clear()
    return arguments


def memory_of(tensors: list[Tensor]) -> Tensor:
    """One tensor over all the memory that these views share: one of them where it is all, else a vector."""
    one = tensors[0]
    whole = memory(one)
    forms = {(tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in tensors}
    if len(forms) == 1 and one.is_contiguous() and one.numel() == whole.numel():
        return one
    if len({t.dtype for t in tensors}) > 1:
        raise Unfit("tensors of different types share memory")
    return whole


def view_of(graph: Any, argument: Any, whole: Tensor, tensor: Tensor) -> Any:
    """The node of a view of an argument."""
    if tensor.shape == whole.shape and tensor.stride() == whole.stride() and tensor.storage_offset() == whole.storage_offset():
        return argument
    begin = tensor.storage_offset()
    if not tensor.is_contiguous():
        return graph.call_function(aten.as_strided.default, (argument, list(tensor.shape), list(tensor.stride()), begin))
    piece = graph.call_function(aten.slice.Tensor, (argument, 0, begin, begin + tensor.numel()))
    with graph.inserting_after(piece):
        return graph.call_function(aten.view.default, (piece, list(tensor.shape)))


def draw_outside(graph: Any) -> list[Callable[[], Tensor]]:
    """Make the random numbers that a graph draws arguments of it, last; returns what draws them, in the order in which it would
    have. Raises: Unfit where it draws others than `DRAWN`."""
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    draws: list[Callable[[], Tensor]] = []
    for node in list(graph.graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
            continue
        made = node.meta.get("val")
        if node.target not in DRAWN or made is None or not made.is_contiguous() or node.kwargs.get("generator") is not None:
            raise Unfit(f"it draws random numbers by {node.target}, of which a graph would draw others")
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"drawn_{len(draws)}")
        last.meta.update(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        draws.append(partial(DRAWN[node.target], tuple(made.shape), dtype=made.dtype, device=made.device))
    return draws


# What stays as it was


class Kept:
    """The contents of an agent's tensors and torch's generators, put back at the end of a `with`, or by `put_back`."""

    def __init__(self, agent: Any) -> None:
        self.memory = {
            tensor.untyped_storage().data_ptr(): memory(tensor)
            for _, tensor in parts(agent)
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.untyped_storage().nbytes()
        }
        self.copies = self.copied()
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def copied(self) -> list[Tensor]:
        """All contents as they are now."""
        return [memory.clone() for memory in self.memory.values()]

    def put_back(self) -> None:
        for memory, contents in zip(self.memory.values(), self.copies):
            memory.copy_(contents)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()


def memory(tensor: Tensor) -> Tensor:
    """All the memory that a tensor is a view of, as a vector."""
    storage = tensor.untyped_storage()
    size = storage.nbytes() // tensor.element_size()
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage, 0, (size,), (1,))  # type: ignore[call-overload]


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Inside, draws leave no trace: afterwards the next number is what it would have been."""
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):  # type: ignore[no-untyped-call]
        yield


class Contents:
    """What every object and container of an agent holds, and the gradients that its parameters have."""

    def __init__(self, agent: Any) -> None:
        self.held: list[tuple[str, Any, Any]] = []
        self.grads: list[tuple[str, Tensor, Tensor | None]] = []
        for name, thing in parts(agent):
            if isinstance(thing, Tensor):
                self.grads.append((name, thing, thing.grad if thing.is_leaf else None))
            elif isinstance(thing, nn.Module):
                self.held += [(name, table, dict(table)) for table in (getattr(thing, table) for table in MODULE_TABLES)]
                self.held.append((name, vars(thing), dict(vars(thing))))
            elif isinstance(thing, dict | list | deque | set):
                self.held.append((name, thing, copy.copy(thing)))
            elif not isinstance(thing, type | types.ModuleType) and isinstance(getattr(thing, "__dict__", None), dict):
                self.held.append((name, vars(thing), dict(vars(thing))))

    def put_back(self) -> str | None:
        """Put everything back; returns the name of the first thing that was exchanged."""
        found = None
        for name, held, before in self.held:
            if len(held) == len(before) and all(map(operator.is_, listed(held), listed(before))):
                continue
            if isinstance(held, dict):
                key = next((k for k in (*before, *held) if held.get(k, MISSING) is not before.get(k, MISSING)), "")
                found = found or f"`{name}.{key}`".replace("`.", "`") if isinstance(key, str) else f"`{name}`"
            found = found or f"`{name}`"
            held.clear()
            (held.extend if isinstance(held, list | deque) else held.update)(before)
        for name, tensor, grad in self.grads:
            if tensor.is_leaf and tensor.grad is not grad:
                found = found or f"the gradient that `{name}` keeps (`backward()`; our optimizers' `step(loss)` keeps none)"
                tensor.grad = grad
        return found


def listed(held: Any) -> list[Any]:
    return [*held, *held.values()] if isinstance(held, dict) else list(held)


# What the method read


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
        self.noted: set[tuple[int, Any]] = set()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, whatever is read of the agent and of what is in it is noted."""
        with ExitStack() as stack:
            for _, thing in list(parts(self.agent)):
                cls = type(thing)
                if isinstance(thing, NOT_RECORDED) or not isinstance(getattr(thing, "__dict__", None), dict):
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
        own = object.__getattribute__(thing, "__dict__")
        for holder in (own, *(own[table] for table in MODULE_TABLES if table in own)):
            if name in holder:
                self.keep(holder, name)
                return
        if (is_plain(found) or found is MISSING) and not hasattr(nn.Module, name) and (id(thing), name) not in self.noted:
            self.noted.add((id(thing), name))
            self.asked.append((thing, name, found))

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

    def hold(self) -> bool:
        """Whether all of it is as it was."""
        try:
            now = [holder[key] for holder, key in self.places]
        except LookupError:
            return False
        if not all(map(operator.is_, now, self.values)):
            if not all(map(same_value, now, self.values)):
                return False
            self.values = now  # equal numbers, made anew
        return (
            [len(container) for container in self.containers] == self.lengths
            and not any(self.hooks)
            and [tensor.data_ptr() for tensor in self.tensors] == self.addresses
            and all(same_value(cell.cell_contents, value) for cell, value in self.cells)
            and all(same_value(getattr(thing, name, MISSING), value) for thing, name, value in self.asked)
        )

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
        for _, name, _ in self.asked:
            return f"`{name}`"
        return "where tensors lie, a hook, or a closure"

    def name_of(self, holder: Any, key: Any = None) -> str:
        for name, thing in parts(self.agent):
            tables = [getattr(thing, table) for table in MODULE_TABLES] if isinstance(thing, nn.Module) else []
            if thing is holder or any(own is holder for own in (getattr(thing, "__dict__", None), *tables)):
                end = "" if key is None else f"[{key!r}]" if thing is holder else f".{key}"
                return f"{name}{end}".lstrip(".")
        return str(key)


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
