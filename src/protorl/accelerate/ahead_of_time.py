"""A pure method compiled ahead of time, into a package that is kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from protorl.accelerate.graph import Run, Traced, compiling, trace
from protorl.accelerate.precision import BFloat16Products, Rounded
from protorl.accelerate.subnormals import Flushed
from protorl.data import Obs, ProtoRLError
from protorl.networks import (
    ActorCritic,
    BetaHead,
    C51Head,
    CategoricalHead,
    DeterministicHead,
    DuelingHead,
    GaussianHead,
    Network,
    QHead,
    QuantileHead,
    ValueHead,
)


class AheadOfTime(Traced):
    """The graph compiled by AOTInductor: forward, gradients, clipping and optimizer are one function call, without Python
    between the operations and without guards.

    The package is kept in the user's cache folder under the hash of the graph, and loaded from there the next time. Numbers
    agree with the eager path to rounding.
    """

    def compile(self, graph: Any, example: tuple[Tensor, ...]) -> Run | None:
        return package_of(graph, example, self.method)


PLAIN_HEADS = (QHead, DuelingHead, C51Head, QuantileHead, CategoricalHead, GaussianHead, BetaHead, DeterministicHead, ValueHead)


def fits(network: nn.Module) -> bool:
    """Whether a forward pass alone is what acting needs: every head answers from the features, with nothing drawn besides."""
    if isinstance(network, ActorCritic):
        return fits(network.actor) and fits(network.critic)
    return isinstance(network, Network) and type(network.head) in PLAIN_HEADS


class AheadOfTimeInference:
    """The outputs of an agent's actor for NumPy observations, its forward pass compiled by AOTInductor.

    For a network whose head answers from the features alone (`fits`), and the number of rows that it first sees; others, dict
    observations and noisy layers stay eager.
    """

    def __init__(self, agent: Any, precision: str = "float32") -> None:
        rounding = precision == "bf16"
        self.eager = Rounded(agent.infer) if rounding else agent.infer
        self.actor = agent.actor
        self.products: Any = BFloat16Products if rounding else nullcontext
        self.state = [tensor.detach() for tensor in (*self.actor.parameters(), *self.actor.buffers())]
        self.rows: int | None = None
        self.run: Run | None = None

    def __call__(self, obs: Obs, explore: bool) -> Any:
        if isinstance(obs, dict):
            return self.eager(obs, explore)
        if self.rows is None:
            self.rows = len(obs)
            self.prepare(torch.from_numpy(np.ascontiguousarray(obs)))
        if self.run is None or len(obs) != self.rows:
            return self.eager(obs, explore)
        return tree_unflatten(self.run([*self.state, torch.from_numpy(np.ascontiguousarray(obs))]), self.form)

    def prepare(self, obs: Tensor) -> None:
        """Trace, and load or compile."""
        names = [name for name, _ in (*self.actor.named_parameters(), *self.actor.named_buffers())]

        def pure(*tensors: Tensor) -> list[Tensor]:
            with self.products():
                # Untied: a base that two networks share is one module, and has each name once.
                given = dict(zip(names, tensors))
                out = torch.func.functional_call(self.actor, given, (tensors[-1],), tie_weights=False)
            outputs, self.form = tree_flatten(out)
            return outputs

        with torch.no_grad():
            example = (*[tensor.detach().clone() for tensor in self.state], obs)
            graph, draws = trace(pure, example, "acting")
            if graph is not None and not draws:
                self.run = package_of(graph, example, "acting")


def package_of(graph: Any, example: tuple[Tensor, ...], name: str) -> Run | None:
    """The compiled graph, from the cache or made now; None, and a sentence in the log, where the machine's compiler does not
    make one that runs, which is kept in the cache too, or the disk refuses. Raises: ProtoRLError without a C++ compiler."""
    log = logging.getLogger("protorl")
    try:
        package = cache_folder() / f"{graph_key(graph, example)}.pt2"
        refused = package.with_suffix(".refused")
        if not (package.exists() or refused.exists()):
            require_compiler()
            log.info(f"compiling {name} ahead of time (half a minute, once for this algorithm and these sizes)")
            try:
                compile_package(graph, example, package)
            except OSError:
                raise
            except Exception as error:
                refused.write_text(str(error).strip().partition("\n")[0][:300])
        if not package.exists():
            why = refused.read_text()
            log.info(f"{name} stays eager: {compiler()} did not compile it ({why}; to try again, delete {refused})")
            return None
    except OSError as error:  # a full disk, or a folder that cannot be written: next time it may go
        log.info(f"{name} stays eager: the compiled package cannot be kept ({error})")
        return None
    return Flushed(torch._inductor.aoti_load_package(str(package)).loader.run)


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
    return next((path for path in found if path is not None), None)


def require_compiler() -> None:
    """Raises: ProtoRLError without a C++ compiler."""
    if compiler() is None:
        raise ProtoRLError('accelerate "aot" needs a C++ compiler (g++ or clang++): install one, or use "eager"')


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
    """Compile into `package`, which appears whole or not at all. Raises: RuntimeError where what was compiled does not load.

    There are machines whose C++ compiler and torch do not go together, and loading ends the process: another one tries it.
    """
    with tempfile.TemporaryDirectory(dir=package.parent) as folder, compiling(compiler()):
        exported = torch.export.export(graph, example, strict=False)
        made = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "learn.pt2"))
        tried = subprocess.run([sys.executable, "-c", LOAD, made], capture_output=True, text=True)
        if tried.returncode != 0:
            raise RuntimeError(f"it does not load: {(tried.stderr.strip().splitlines() or [f'status {tried.returncode}'])[-1]}")
        os.replace(made, package)


LOAD = "import sys, torch._inductor; torch._inductor.aoti_load_package(sys.argv[1])"
