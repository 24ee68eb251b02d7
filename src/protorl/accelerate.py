"""Speed, in one place: rebinds an agent's tensor-only methods to faster equals. The eager path stays the reference."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protorl.networks import (
    MLP,
    BetaHead,
    BetaOut,
    CategoricalHead,
    CategoricalOut,
    DeterministicHead,
    DeterministicOut,
    DuelingHead,
    FlatParameters,
    GaussianHead,
    GaussianOut,
    Network,
    ObsScaler,
    Optimizer,
    QHead,
    QOut,
    ScaledBase,
)
from protorl.types import Array, Batch, Obs, ProtoRLError, Update

MODES = ("auto", "eager", "aot")


def accelerate(agent: Any, mode: str = "auto") -> Any:
    """Bind `agent.infer`, and with "aot" also the methods in `agent.pure`, to faster equals.

    Restore a checkpoint before, not after.

    "eager" changes nothing. "auto": on the CPU, small fully connected networks answer from NumPy views of the same
    parameters, without the cost that torch adds to every small operation; any other network stays as it is. "aot": the same,
    and on the CPU the whole of `learn` (and what else is in `pure`) is one graph compiled ahead of time (see `AheadOfTime`).

    Returns the agent. Raises: ProtoRLError for an unknown mode, or "aot" without a C++ compiler.
    """
    if mode not in MODES:
        raise ProtoRLError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    if mode == "eager" or agent.device.type != "cpu":
        return agent
    infer = numpy_inference(agent.actor)
    if infer is not None:
        agent.infer = infer
    if mode == "aot":
        if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
            raise ProtoRLError('accelerate "aot" needs a C++ compiler (g++ or clang++): install one, or use "auto"')
        for method in agent.pure:
            setattr(agent, method, AheadOfTime(agent, method))
    return agent


class AheadOfTime:
    """One of an agent's pure methods (`learn`, say) as one compiled call: forward, gradients, clipping, optimizer.

    The method is traced once, as it stands, into a pure function of everything it may read or write (flat parameters,
    optimizers' state, buffers, schedules) and of the batch; that is compiled by AOTInductor into a package, which is kept in
    the user's cache folder under the hash of the traced graph and loaded from there the next time. A call then costs one
    function call: no Python between the operations, no guards. Numbers agree with the eager path to rounding. A batch of
    another size, and a method that draws random numbers or reads dicts, stay eager.
    """

    def __init__(self, agent: Any, method: str = "learn") -> None:
        self.agent, self.method, self.eager = agent, method, getattr(agent, method)
        self.size: int | None = None
        self.run: Callable[[list[Tensor]], list[Tensor]] | None = None

    def __call__(self, batch: Batch) -> Update:
        if self.size is None:
            self.size = len(batch)
            self.prepare(batch)
        if self.run is None or len(batch) != self.size:
            return self.eager(batch)
        priority, *metrics = self.run([*self.state, *[batch.columns[name] for name in self.columns]])
        return Update(priority, dict(zip(self.metrics, metrics)))

    def prepare(self, batch: Batch) -> None:
        """Trace, and load or compile."""
        from torch.fx.experimental.proxy_tensor import make_fx

        log = logging.getLogger("protorl")
        self.columns = [name for name in batch if name != "index"]
        columns = [batch.columns[name] for name in self.columns]
        if not all(isinstance(column, Tensor) for column in columns):
            log.info(f"{self.method} stays eager: dict observations are not compiled ahead of time")
            return
        self.memory = Tensors(self.agent)
        self.state = self.memory.tensors()

        def pure(*tensors: Tensor) -> tuple[Tensor, ...]:
            with self.memory.lifted(list(tensors[: len(self.state)])):
                update = self.eager(Batch(dict(zip(self.columns, tensors[len(self.state) :]))))
            self.metrics = list(update.metrics)
            return update.priority, *update.metrics.values()

        example = (*[tensor.detach().clone() for tensor in self.state], *[column.clone() for column in columns])
        graph = make_fx(pure, tracing_mode="real")(*example)
        for node in graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
                log.info(f"{self.method} stays eager: {node.target} draws random numbers, a compiled graph would draw others")
                return
        package = cache_folder() / f"{graph_key(graph, example)}.pt2"
        if not package.exists():
            log.info(f"compiling {self.method} ahead of time (half a minute, once for this algorithm and these sizes)")
            compile_package(graph, example, package)
        self.run = torch._inductor.aoti_load_package(str(package)).loader.run


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


def cache_folder() -> Path:
    """Where compiled packages are kept: $XDG_CACHE_HOME/protorl, or ~/.cache/protorl."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(root) if root else Path.home() / ".cache") / "protorl"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def graph_key(graph: Any, example: tuple[Tensor, ...]) -> str:
    """The hash of a traced graph: its operations, its constants, the shapes it runs on, the versions that compile it."""
    digest = hashlib.sha256(graph.code.encode())
    for name, tensor in graph.state_dict().items():
        digest.update(f"{name} {tensor.tolist()}".encode())
    shapes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in example]
    setting = (shapes, torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    digest.update(repr(setting).encode())
    return digest.hexdigest()[:32]


def compile_package(graph: Any, example: tuple[Tensor, ...], package: Path) -> None:
    """Compile into `package`, which appears whole or not at all."""
    import warnings

    with tempfile.TemporaryDirectory(dir=package.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        exported = torch.export.export(graph, example, strict=False)
        made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "learn.pt2"))
        os.replace(made, package)


def numpy_inference(network: nn.Module) -> Callable[[Obs, bool], Any] | None:
    """A NumPy forward pass for an MLP of linear, ReLU and tanh layers, its observations scaled or not, with the head of a Q
    function or of a policy; None for others.

    It reads the parameters' own memory, so it always sees the newest weights.
    """
    base: Any = getattr(network, "base", None)
    scale: Callable[[Array], Array] | None = None
    if isinstance(base, ScaledBase):
        scale, base = scaler(base.scaler), base.base
    if not (isinstance(network, Network) and isinstance(base, MLP) and not base.bytes):
        return None
    if max(p.numel() for p in network.parameters()) > 300_000:  # arithmetic dominates, torch is as fast
        return None
    body, head = chain(base.layers), numpy_head(network.head)
    if body is None or head is None:
        return None

    def infer(obs: Obs, explore: bool) -> Any:
        x = np.asarray(obs, np.float32)
        if x.ndim != 2:
            x = x.reshape(len(x), -1)
        return head(body(x if scale is None else scale(x)))

    return infer


def numpy_head(head: nn.Module) -> Callable[[Array], Any] | None:
    """What a head does, in NumPy; None for others than those of Q functions and policies."""
    if isinstance(head, QHead):
        q = chain(head.layers)
        return None if q is None else lambda x: QOut(q(x))  # type: ignore[arg-type]
    if isinstance(head, DuelingHead):
        both = dueling(chain(head.value), chain(head.advantage))
        return None if both is None else lambda x: QOut(both(x))  # type: ignore[arg-type]
    if isinstance(head, CategoricalHead) and not head.action.nvec:
        logits = affine(head.layer)
        return lambda x: CategoricalOut(logits(x))  # type: ignore[arg-type]
    if isinstance(head, DeterministicHead):
        action = affine(head.layer)
        return lambda x: DeterministicOut(np.tanh(action(x)))  # type: ignore[arg-type]
    if isinstance(head, GaussianHead):
        mean = affine(head.mean)
        if not head.state_dependent:
            log_std = head.log_std.detach().numpy()
            return lambda x: GaussianOut(mean(x), log_std)  # type: ignore[arg-type]
        spread, (low, high) = affine(head.spread), head.log_std_range
        return lambda x: GaussianOut(mean(x), spread(x).clip(low, high))  # type: ignore[arg-type]
    if isinstance(head, BetaHead):
        numbers, size = affine(head.layer), head.action.shape[0]

        def beta(x: Array) -> Any:
            y = 1 + np.logaddexp(np.float32(0), numbers(x))
            return BetaOut(y[:, :size], y[:, size:])  # type: ignore[arg-type]

        return beta
    return None


def scaler(layer: ObsScaler) -> Callable[[Array], Array]:
    """Observations scaled, by the layer's own numbers."""
    mean, scale, clip = layer.mean.numpy().reshape(-1), layer.scale.numpy().reshape(-1), layer.clip

    def forward(x: Array) -> Array:
        return np.minimum(np.maximum((x - mean) * scale, -clip), clip)

    return forward


def chain(layers: nn.Sequential) -> Callable[[Array], Array] | None:
    """The layers one after the other in NumPy; None if one is unknown."""
    steps: list[Callable[[Array], Array]] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            steps.append(affine(layer))
        elif type(layer) is nn.ReLU:
            steps.append(rectify)
        elif type(layer) is nn.Tanh:
            steps.append(np.tanh)
        else:
            return None

    def forward(x: Array) -> Array:
        for step in steps:
            x = step(x)
        return x

    return forward


def affine(layer: nn.Linear) -> Callable[[Array], Array]:
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    def forward(x: Array) -> Array:
        y: Array = np.dot(x, weight)  # less overhead than `@` for one row
        y += bias
        return y

    return forward


def rectify(x: Array) -> Array:
    return np.maximum(x, 0.0, out=x)


def dueling(
    value: Callable[[Array], Array] | None, advantage: Callable[[Array], Array] | None
) -> Callable[[Array], Array] | None:
    """Wang et al. 2016, equation 9."""
    if value is None or advantage is None:
        return None

    def forward(x: Array) -> Array:
        adv = advantage(x)
        q: Array = value(x) + adv - adv.mean(-1, keepdims=True)
        return q

    return forward
