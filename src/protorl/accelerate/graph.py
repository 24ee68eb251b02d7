"""A method of an agent as one graph of tensor operations, in which everything that it may read or write is an argument."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from protorl.accelerate.kept import Kept
from protorl.accelerate.reads import Reads
from protorl.accelerate.small import SmallProducts
from protorl.networks import spelled_out
from protorl.parts import whole
from protorl.rng import untouched

aten = torch.ops.aten
DRAWN: dict[Any, Callable[..., Tensor]] = {
    aten.randn.default: torch.randn,
    aten.randn_like.default: torch.randn,
    aten.rand.default: torch.rand,
    aten.rand_like.default: torch.rand,
}
"""Random numbers that a graph can be given instead of drawing them, and what draws the same ones."""


class Unfit(Exception):  # noqa: N818 - it is a reason, not an error
    """Why a method cannot be one graph, as the end of a sentence."""


class Unmade(Unfit):
    """Why there is no graph this time, on this machine: the next process may try again."""


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

    def example(self, inputs: list[Tensor]) -> list[Tensor]:
        """The same, to compile with: its random numbers are none of the run's."""
        with untouched():
            return [tensor.detach() for tensor in self.given(inputs)]


def trace(function: Callable[..., list[Tensor]], inputs: list[Tensor], agent: Any) -> Trace:
    """Trace `function(*inputs)`, which uses `agent`; afterwards the agent is as it was. Raises: Unfit where a graph would not
    do what the function does."""
    from torch.fx.experimental.proxy_tensor import make_fx

    small = SmallProducts() if inputs[0].device.type == "cpu" else nullcontext()  # type: ignore[no-untyped-call]

    def written(*tensors: Tensor) -> list[Tensor]:
        with small, ValuesUnread():  # type: ignore[no-untyped-call]
            return function(*tensors)

    before, reads = Kept(agent), Reads(agent)
    try:
        with spelled_out(), reads.recorded():
            graph = make_fx(written, tracing_mode="real")(*inputs)
    except Unfit:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:200]
        raise Unfit(f"it cannot be traced ({type(error).__name__}: {said})") from error
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
            raise Unfit("it reads a tensor's value in Python (`.item()`, `if`, `float()`, or a step of `torch.optim`)")
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
        held_in = memory_of(tensors)
        with graph.graph.inserting_before(first):
            argument = graph.graph.placeholder(f"memory_{i}")
        arguments.append(held_in)
        views: dict[Any, Any] = {}
        for node, tensor in zip(nodes, tensors):
            form = tensor.shape, tensor.stride(), tensor.storage_offset()
            if form not in views:
                with graph.graph.inserting_after(last):
                    views[form] = view_of(graph.graph, argument, held_in, tensor)
            node.replace_all_uses_with(views[form])
            graph.graph.erase_node(node)
    for table in (graph._parameters, graph._buffers):
        table.clear()
    return arguments


def memory_of(tensors: list[Tensor]) -> Tensor:
    """One tensor over all the memory that these views share: one of them where it is all, else a vector."""
    one = tensors[0]
    shared = whole(one)
    forms = {(tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in tensors}
    if len(forms) == 1 and one.is_contiguous() and one.numel() == shared.numel():
        return one
    if len({t.dtype for t in tensors}) > 1:
        raise Unfit("tensors of different types share memory")
    return shared


def view_of(graph: Any, argument: Any, held_in: Tensor, tensor: Tensor) -> Any:
    """The node of a view of an argument."""
    if (
        tensor.shape == held_in.shape
        and tensor.stride() == held_in.stride()
        and tensor.storage_offset() == held_in.storage_offset()
    ):
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
