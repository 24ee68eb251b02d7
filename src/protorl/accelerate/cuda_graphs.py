"""A pure method, or acting, recorded once as a CUDA graph, then replayed: one launch for all its kernels."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from protorl.accelerate.compiled import Compiled
from protorl.accelerate.graph import Tensors, kept_randomness
from protorl.accelerate.precision import BFloat16Products, Rounded
from protorl.data import Array, Batch, Obs, Update

WARM_UP = 3


class CudaGraph:
    """A method's kernels, recorded at its first call and replayed from then on, on inputs that keep their place.

    With Triton the kernels are those of `Compiled`, else the eager ones. Before the recording the method runs a few times
    (libraries choose kernels and workspaces then); what that changed is put back, random generators too. A batch of another
    size, and dict observations, stay eager.
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
        torch._foreach_copy_(self.inputs, [batch.columns[name] for name in self.columns], non_blocking=True)
        self.graph.replay()
        numbers = self.numbers.clone()  # the next replay writes into the same memory
        return Update(numbers[len(self.metrics) :], dict(zip(self.metrics, numbers[: len(self.metrics)].unbind())))

    def record(self, batch: Batch) -> None:
        """Warm up, put everything back, record."""
        self.columns = [name for name in batch if name != "index"]
        columns = [batch.columns[name] for name in self.columns]
        if not all(isinstance(column, Tensor) for column in columns):
            logging.getLogger("protorl").info(f"{self.method} stays eager: dict observations are not recorded")
            return
        self.inputs = [column.to(self.agent.device, copy=True) for column in columns]
        given = Batch(dict(zip(self.columns, self.inputs)))
        run = Compiled(self.agent, self.method) if importlib.util.find_spec("triton") else self.eager
        state = Tensors(self.agent).tensors()
        before = [tensor.detach().clone() for tensor in state]
        with kept_randomness(self.agent.device):
            warm_up(lambda: run(given))
            for tensor, value in zip(state, before, strict=True):
                tensor.detach().copy_(value)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                update = run(given)
                self.metrics = list(update.metrics)
                self.numbers = torch.cat([*(metric.reshape(1) for metric in update.metrics.values()), update.priority])
        self.graph = graph


class CudaGraphInference:
    """An agent's actor, recorded at the first exploring call and replayed from then on: observations go to the device, outputs
    come back as NumPy arrays, in one launch and one wait.

    For a network whose head answers from the features alone. Evaluations, another number of rows, and dict observations stay
    eager.
    """

    def __init__(self, agent: Any, precision: str = "float32") -> None:
        rounding = precision == "bf16"
        self.agent, self.eager = agent, Rounded(agent.infer) if rounding else agent.infer
        self.products: Any = BFloat16Products if rounding else nullcontext
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
        self.obs[...] = obs
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return tree_unflatten([output.copy() for output in self.outputs], self.form)

    @torch.no_grad()
    def record(self, obs: Array) -> None:
        """Warm up, record."""
        pinned = torch.from_numpy(np.array(obs)).pin_memory()
        place = pinned.to(self.agent.device)
        self.obs = pinned.numpy()

        def forward() -> list[Tensor]:
            place.copy_(pinned, non_blocking=True)
            with self.products():
                outputs, self.form = tree_flatten(self.agent.actor(place))
            return outputs

        warm_up(forward)
        back = [torch.empty_like(output, device="cpu", pin_memory=True) for output in forward()]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for output, here in zip(forward(), back, strict=True):
                here.copy_(output, non_blocking=True)
        self.outputs = [here.numpy() for here in back]
        self.graph = graph


def warm_up(call: Callable[[], Any]) -> None:
    """Call a few times on a stream of its own, as a recording asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
