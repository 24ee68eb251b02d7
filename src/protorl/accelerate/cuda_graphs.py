"""A pure method, or acting, recorded once as a CUDA graph, then replayed: one launch for all its kernels."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protorl.accelerate.compiled import Compiled
from protorl.accelerate.graph import Tensors
from protorl.types import Array, Batch, Obs, Update

WARM_UP = 3


class CudaGraph:
    """A method's kernels, recorded at its first call and replayed from then on, on inputs that keep their place.

    With Triton the kernels are those of `Compiled`, else the eager ones. Before the recording the method runs a few times
    (libraries choose kernels and workspaces then); what that changed is put back. A batch of another size, and dict
    observations, stay eager.
    """

    def __init__(self, agent: Any, method: str = "learn") -> None:
        self.agent, self.method, self.eager = agent, method, getattr(agent, method)
        self.graph: Any = None
        self.size: int | None = None

    def __call__(self, batch: Batch) -> Update:
        if self.size is None:
            self.size = len(batch)
            self.record(batch)
        if self.graph is None or len(batch) != self.size:
            return self.eager(batch)
        for name, place in self.inputs.items():
            place.copy_(batch.columns[name], non_blocking=True)
        self.graph.replay()
        # the next replay writes into the same memory
        return Update(self.update.priority.clone(), {name: value.clone() for name, value in self.update.metrics.items()})

    def record(self, batch: Batch) -> None:
        """Warm up, put everything back, record."""
        columns = {name: batch.columns[name] for name in batch if name != "index"}
        if not all(isinstance(column, Tensor) for column in columns.values()):
            logging.getLogger("protorl").info(f"{self.method} stays eager: dict observations are not recorded")
            return
        self.inputs = {name: column.to(self.agent.device, copy=True) for name, column in columns.items()}
        given = Batch(self.inputs)
        run = Compiled(self.agent, self.method) if importlib.util.find_spec("triton") else self.eager
        state = Tensors(self.agent).tensors()
        before = [tensor.detach().clone() for tensor in state]
        warm_up(lambda: run(given))
        for tensor, value in zip(state, before, strict=True):
            tensor.detach().copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.update = run(given)
        self.graph = graph


class CudaGraphInference:
    """An agent's actor, its kernels recorded at the first exploring call and replayed from then on.

    Evaluations, another number of rows, and dict observations stay eager.
    """

    def __init__(self, agent: Any) -> None:
        self.agent, self.eager = agent, agent.infer
        self.graph: Any = None
        self.rows: int | None = None

    def __call__(self, obs: Obs, explore: bool) -> Any:
        if not explore or isinstance(obs, dict):
            return self.eager(obs, explore)
        if self.rows is None:
            self.rows = len(obs)
            self.record(obs)
        if len(obs) != self.rows:
            return self.eager(obs, explore)
        self.pinned.copy_(torch.from_numpy(np.ascontiguousarray(obs)))
        self.place.copy_(self.pinned, non_blocking=True)
        self.graph.replay()
        return self.out  # read, on the processor, before the next replay

    @torch.inference_mode()
    def record(self, obs: Array) -> None:
        """Warm up, record."""
        self.pinned = torch.from_numpy(np.ascontiguousarray(obs)).pin_memory()
        self.place = self.pinned.to(self.agent.device)
        warm_up(lambda: self.agent.actor(self.place))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.out = self.agent.actor(self.place)
        self.graph = graph


def warm_up(call: Callable[[], Any]) -> None:
    """Call a few times on a stream of its own, as a recording asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
