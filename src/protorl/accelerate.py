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

from protorl.networks import MLP, DuelingHead, FlatParameters, Network, Optimizer, QHead, QOut
from protorl.types import Array, Batch, Obs, ProtoRLError, Update

MODES = ("auto", "eager", "aot")


def accelerate(agent: Any, mode: str = "auto") -> Any:
    """Bind `agent.infer`, and with "aot" also `agent.learn`, to faster equals. Restore a checkpoint before, not after.

    "eager" changes nothing. "auto": on the CPU, small fully connected networks answer from NumPy views of the same
    parameters, without the cost that torch adds to every small operation; any other network stays as it is. "aot": the same,
    and on the CPU the whole of `learn` runs as one graph compiled ahead of time (see `AheadOfTime`).

    Returns the agent. Raises: ProtoRLError for an unknown mode, or "aot" without a C++ compiler.
    """
    if mode not in MODES:
        raise ProtoRLError(f"mode {mode!r} is unknown: use one of {', '.join(MODES)}")
    if mode == "eager" or agent.device.type != "cpu":
        return agent
    infer = numpy_inference(agent.network)
    if infer is not None:
        agent.infer = infer
    if mode == "aot":
        if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
            raise ProtoRLError('accelerate "aot" needs a C++ compiler (g++ or clang++): install one, or use "auto"')
        agent.learn = AheadOfTime(agent)
    return agent


class AheadOfTime:
    """`agent.learn` as one compiled call: forward, gradients, clipping, optimizer.

    The method is traced once, as it stands, into a pure function of the flat parameters, the optimizers' state and the
    batch; that is compiled by AOTInductor into a package, which is kept in the user's cache folder under the hash of the
    traced graph and loaded from there the next time. A call then costs one function call: no Python between the operations,
    no guards. Numbers agree with the eager path to rounding. A batch of another size, and a `learn` that draws random
    numbers or reads dicts, stay eager.
    """

    def __init__(self, agent: Any) -> None:
        self.agent, self.eager = agent, agent.learn
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
            log.info("learning stays eager: dict observations are not compiled ahead of time")
            return
        # What `learn` reads and writes: the flat parameters of every network, then the moments of every optimizer.
        parts = vars(self.agent).values()
        self.flats = [FlatParameters(part) for part in parts if isinstance(part, nn.Module)]
        self.optimizers = [part for part in parts if isinstance(part, Optimizer)]
        self.state = [flat.buffer for flat in self.flats]
        self.state += [moment for optimizer in self.optimizers for moment in optimizer.moments().values()]

        def pure(*tensors: Tensor) -> tuple[Tensor, ...]:
            with self.lifted(list(tensors[: len(self.state)])):
                update = self.eager(Batch(dict(zip(self.columns, tensors[len(self.state) :]))))
            self.metrics = list(update.metrics)
            return update.priority, *update.metrics.values()

        example = (*[tensor.detach().clone() for tensor in self.state], *[column.clone() for column in columns])
        graph = make_fx(pure, tracing_mode="real")(*example)
        for node in graph.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
                log.info(
                    f"learning stays eager: {node.target} draws random numbers, which a compiled graph would draw differently"
                )
                return
        package = cache_folder() / f"{graph_key(graph, example)}.pt2"
        if not package.exists():
            log.info("compiling the update ahead of time (half a minute, once for this algorithm and these sizes)")
            compile_package(graph, example, package)
        self.run = torch._inductor.aoti_load_package(str(package)).loader.run

    @contextmanager
    def lifted(self, tensors: list[Tensor]) -> Iterator[None]:
        """Inside, the agent's parameters and moments are these tensors instead of its own."""
        from torch.nn.utils.stateless import _reparametrize_module

        given = iter(tensors)
        with ExitStack() as stack:
            for flat in self.flats:
                buffer, begin = next(given), flat.buffer.storage_offset()
                views = [
                    buffer[p.storage_offset() - begin :][: p.numel()].view(p.shape).detach().requires_grad_(p.requires_grad)
                    for p in flat.parameters
                ]
                names = [name for name, _ in flat.module.named_parameters()]
                stack.enter_context(_reparametrize_module(flat.module, dict(zip(names, views))))
                for optimizer in self.optimizers:
                    if optimizer.flat.module is flat.module:
                        stack.enter_context(exchanged(optimizer.flat, buffer=buffer, parameters=views))
            for optimizer in self.optimizers:
                moments = {name: next(given) for name in optimizer.moments()}
                plain = {"fused": False} if hasattr(optimizer, "fused") else {}
                stack.enter_context(exchanged(optimizer, **moments, **plain))
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


def numpy_inference(network: nn.Module) -> Callable[[Obs, bool], QOut] | None:
    """A NumPy forward pass for an MLP of linear, ReLU and tanh layers with a linear or dueling Q head; None for others.

    It reads the parameters' own memory, so it always sees the newest weights.
    """
    if not (isinstance(network, Network) and isinstance(network.base, MLP) and not network.base.bytes):
        return None
    if max(p.numel() for p in network.parameters()) > 300_000:  # arithmetic dominates, torch is as fast
        return None
    body = chain(network.base.layers)
    head: Callable[[Array], Array] | None = None
    if isinstance(network.head, QHead):
        head = chain(network.head.layers)
    elif isinstance(network.head, DuelingHead):
        head = dueling(chain(network.head.value), chain(network.head.advantage))
    if body is None or head is None:
        return None

    def infer(obs: Obs, explore: bool) -> QOut:
        x = np.asarray(obs, np.float32)
        return QOut(head(body(x if x.ndim == 2 else x.reshape(len(x), -1))))  # type: ignore[arg-type]

    return infer


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
