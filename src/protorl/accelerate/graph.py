"""An agent's pure method as one graph of tensor operations: everything it may read or write becomes an argument."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from protorl.accelerate.small import SmallProducts
from protorl.data import Batch, Update
from protorl.networks import FlatParameters, Optimizer

Run = Callable[[list[Tensor]], list[Tensor]]
Draw = Callable[[], Tensor]
DRAWN: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.randn.default: torch.randn,
    torch.ops.aten.randn_like.default: torch.randn,
    torch.ops.aten.rand.default: torch.rand,
    torch.ops.aten.rand_like.default: torch.rand,
}
"""Random numbers that a graph can be given instead of drawing them, and what draws the same ones."""


class Traced:
    """One of an agent's pure methods (`learn`, say), traced once as it stands and handed to a compiler.

    The graph is a pure function of everything the method may read or write (flat parameters, optimizers' state, buffers,
    schedules: `Tensors`) and of the batch; it updates the former in place. A subclass says in `compile` what runs it. Random
    numbers that it draws are drawn before each call instead, the same ones. A batch of another size, a method that reads
    dicts, and other kinds of randomness than `DRAWN`, stay eager.
    """

    def __init__(self, agent: Any, method: str = "learn") -> None:
        self.agent, self.method, self.eager = agent, method, getattr(agent, method)
        self.size: int | None = None
        self.run: Run | None = None
        self.warned = False
        self.draws: list[Draw] = []

    def __call__(self, batch: Batch) -> Update:
        if self.size is None:
            self.size = len(batch)
            self.prepare(batch)
        if self.run is None:
            return self.eager(batch)
        if len(batch) != self.size:
            if not self.warned:
                self.warned = True
                logging.getLogger("protorl").info(
                    f"{self.method} stays eager for batches of {len(batch)}: it began with {self.size}"
                )
            return self.eager(batch)
        drawn = [draw() for draw in self.draws]
        priority, *metrics = self.run([*self.state, *[batch.columns[name] for name in self.columns], *drawn])
        return Update(priority, dict(zip(self.metrics, metrics)))

    def prepare(self, batch: Batch) -> None:
        """Trace, and compile."""
        self.columns = [name for name in batch if name != "index"]
        columns = [batch.columns[name] for name in self.columns]
        if not all(isinstance(column, Tensor) for column in columns):
            logging.getLogger("protorl").info(f"{self.method} stays eager: dict observations are not compiled")
            return
        self.memory = Tensors(self.agent)
        self.state = self.memory.tensors()

        def pure(*tensors: Tensor) -> tuple[Tensor, ...]:
            with self.memory.lifted(list(tensors[: len(self.state)])):
                update = self.eager(Batch(dict(zip(self.columns, tensors[len(self.state) :]))))
            self.metrics = list(update.metrics)
            return update.priority, *update.metrics.values()

        example = (*[tensor.detach().clone() for tensor in self.state], *[column.clone() for column in columns])
        graph, self.draws = trace(pure, example, self.method)
        if graph is not None:
            with kept_randomness(self.agent.device):
                drawn = [draw() for draw in self.draws]
            self.run = self.compile(graph, (*example, *drawn))

    def compile(self, graph: Any, example: tuple[Tensor, ...]) -> Run | None:
        """What runs the graph; None: it stays eager."""
        raise NotImplementedError


def trace(pure: Callable[..., Any], example: tuple[Tensor, ...], name: str) -> tuple[Any, list[Draw]]:
    """The graph of a function of tensors, its random numbers among the arguments, last, and what draws them in the order in
    which it would have; no graph, and a sentence in the log, where it draws others than `DRAWN`. On a CPU, with
    `SmallProducts`."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def written(*tensors: Tensor) -> Any:
        with SmallProducts() if example[0].device.type == "cpu" else nullcontext():  # type: ignore[no-untyped-call]
            return pure(*tensors)

    with kept_randomness(example[0].device):
        graph = make_fx(written, tracing_mode="real")(*example)
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    draws: list[Draw] = []
    for node in list(graph.graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
            continue
        made = node.meta.get("val")
        if node.target not in DRAWN or made is None or not made.is_contiguous():
            logging.getLogger("protorl").info(
                f"{name} stays eager: {node.target} draws random numbers, a compiled graph would draw others"
            )
            return None, []
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"drawn_{len(draws)}")
        last.meta.update(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        draws.append(partial(DRAWN[node.target], tuple(made.shape), dtype=made.dtype, device=made.device))
    graph.recompile()
    return graph, draws


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Inside, draws leave no trace: afterwards the next number is what it would have been."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def compiling(compiler: str | None = None) -> Iterator[None]:
    """Inside, torch's compiler works in this process alone (by itself it starts a process of half a gigabyte for each core,
    however little there is to do), keeps its advice to itself, and uses this C++ compiler, if one is named."""
    import torch._inductor.config

    changes: dict[str, Any] = {"compile_threads": 1} | ({"cpp.cxx": (None, compiler)} if compiler else {})
    with torch._inductor.config.patch(changes), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Tensors:
    """Every tensor of an agent that a pure method may read or write, and how to put others in their places while tracing."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        parts = [item for part in vars(agent).values() for item in (part if isinstance(part, list) else [part])]
        self.optimizers = [part for part in parts if isinstance(part, Optimizer)]
        self.flats = [part for part in parts if isinstance(part, FlatParameters)]
        self.flats += [optimizer.flat for optimizer in self.optimizers]
        self.pieces: list[FlatParameters] = []  # those that own a buffer; the others share one
        for flat in sorted(self.flats, key=lambda flat: -flat.buffer.numel()):
            if not any(self.offset(flat, piece) is not None for piece in self.pieces):
                self.pieces.append(flat)
        self.owners = [
            (i, begin)
            for flat in self.flats
            for i, piece in enumerate(self.pieces)
            if (begin := self.offset(flat, piece)) is not None
        ]
        self.buffers: list[tuple[nn.Module, str, Tensor]] = []
        for part in parts:
            for name, buffer in part.named_buffers() if isinstance(part, nn.Module) else ():
                if not any(buffer is other for _, _, other in self.buffers):
                    self.buffers.append((part, name, buffer))
        self.loose = {name: part for name, part in vars(agent).items() if isinstance(part, Tensor)}

    @staticmethod
    def offset(flat: FlatParameters, piece: FlatParameters) -> int | None:
        """Where a buffer begins in another, if it lies in it."""
        begin = (flat.buffer.data_ptr() - piece.buffer.data_ptr()) // 4
        return begin if 0 <= begin < piece.buffer.numel() else None

    def tensors(self) -> list[Tensor]:
        """All of them, in a fixed order."""
        found = [flat.buffer for flat in self.pieces]
        found += [moment for optimizer in self.optimizers for moment in optimizer.moments().values()]
        return found + [buffer for _, _, buffer in self.buffers] + list(self.loose.values())

    @contextmanager
    def lifted(self, tensors: list[Tensor]) -> Iterator[None]:
        """Inside, the agent's tensors are these instead of its own."""
        from torch.nn.utils.stateless import _reparametrize_module

        given = iter(tensors)
        owned = [next(given) for _ in self.pieces]
        with ExitStack() as stack:
            views: dict[int, Tensor] = {}
            for flat, buffer in zip(self.pieces, owned):
                begin = flat.buffer.storage_offset()
                for p in flat.parameters:
                    view = buffer[p.storage_offset() - begin :][: p.numel()].view(p.shape)
                    views[id(p)] = view.detach().requires_grad_(p.requires_grad)
                mine = {name: views[id(p)] for name, p in flat.module.named_parameters()}
                stack.enter_context(_reparametrize_module(flat.module, mine))
            for flat, (i, begin) in zip(self.flats, self.owners):
                whole = owned[i][begin : begin + flat.buffer.numel()]
                mine_too = [views[id(p)] for p in flat.parameters]
                stack.enter_context(exchanged(flat, buffer=whole, parameters=mine_too))
            for optimizer in self.optimizers:
                moments = {name: next(given) for name in optimizer.moments()}
                plain = {"fused": False} if hasattr(optimizer, "fused") else {}
                stack.enter_context(exchanged(optimizer, **moments, **plain))
            for module, name, _ in self.buffers:
                stack.enter_context(_reparametrize_module(module, {name: next(given)}))
            stack.enter_context(exchanged(self.agent, **{name: next(given) for name in self.loose}))
            yield


@contextmanager
def exchanged(thing: Any, **attributes: Any) -> Iterator[None]:
    """Inside, `thing` has these attributes instead of its own."""
    before = {name: getattr(thing, name) for name in attributes}
    for name, value in attributes.items():
        setattr(thing, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)
