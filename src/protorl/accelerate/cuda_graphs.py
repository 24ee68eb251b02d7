"""Graphs recorded once as a CUDA graph, then replayed: one launch for all their kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from protorl.accelerate.ahead_of_time import compiling
from protorl.accelerate.faster import Run
from protorl.accelerate.graph import Trace
from protorl.accelerate.kept import Kept
from protorl.data import Array, Obs

WARM_UP = 3


def compiled(trace: Trace, inputs: list[Tensor], name: str) -> Run:
    """The graph through `torch.compile`: on a GPU its operations become a few fused kernels. Compiled anew in every process
    (torch caches parts). On the CPU the guards of each call cost more than a small network: `packaged` has none."""
    call = compiled_graph(trace, inputs)
    return lambda columns: call(*trace.given(columns))


def compiled_graph(trace: Trace, inputs: list[Tensor]) -> Any:
    """The graph through `torch.compile`, called once on copies."""
    call = torch.compile(trace.graph, fullgraph=True, dynamic=False)
    with compiling():
        call(*[tensor.clone() for tensor in trace.example(inputs)])  # type: ignore[no-untyped-call]
    return call


def recorded(trace: Trace, inputs: list[Tensor], name: str) -> Run:
    """The graph's kernels, recorded now and replayed from then on, on inputs that keep their place.

    With Triton the kernels are those of `compiled`, else the plain ones. Before the recording they run a few times (libraries
    choose kernels and workspaces then); what that changed is put back, random generators too.
    """
    places = [tensor.clone() for tensor in inputs]
    with Kept(trace.reads.agent):
        call = compiled_graph(trace, inputs) if importlib.util.find_spec("triton") else trace.graph
        warm_up(lambda: call(*trace.given(places)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call(*trace.given(places))

    def run(columns: list[Tensor]) -> list[Tensor]:
        torch._foreach_copy_(places, columns, non_blocking=True)
        graph.replay()
        return [output.clone() for output in outputs]  # the next replay writes into the same memory

    return run


def recorded_acting(agent: Any, precision: Any) -> Callable[[Obs, bool], Any]:
    """An agent's actor, recorded at the first exploring call and replayed from then on: observations go to the device, outputs
    come back as NumPy arrays, in one launch and one wait. Evaluations, other numbers of rows and dict observations stay plain.
    """
    made: dict[str, Any] = {}

    def answer(obs: Obs, explore: bool) -> Any:
        if not explore or isinstance(obs, dict):
            return None
        if "rows" not in made:
            made["rows"] = len(obs)
            record(obs)
        if len(obs) != made["rows"]:
            return None
        made["obs"][...] = obs
        made["graph"].replay()
        torch.cuda.current_stream().synchronize()
        return tree_unflatten([output.copy() for output in made["outputs"]], made["form"])

    @torch.no_grad()
    def record(obs: Array) -> None:
        pinned = torch.from_numpy(np.array(obs)).pin_memory()
        place = pinned.to(agent.device)
        made["obs"] = pinned.numpy()

        def forward() -> list[Tensor]:
            place.copy_(pinned, non_blocking=True)
            with precision():
                outputs, made["form"] = tree_flatten(agent.actor(place))
            return list(outputs)

        with Kept(agent):
            warm_up(forward)
            back = [torch.empty_like(output, device="cpu", pin_memory=True) for output in forward()]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for output, here in zip(forward(), back, strict=True):
                    here.copy_(output, non_blocking=True)
        made["outputs"] = [here.numpy() for here in back]
        made["graph"] = graph

    return answer


def warm_up(call: Callable[[], Any]) -> None:
    """Call a few times on a stream of its own, as a recording asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
