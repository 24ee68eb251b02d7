"""Graphs recorded once as a CUDA graph, then replayed: one launch for all their kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from protorl.accelerate.ahead_of_time import compiling
from protorl.accelerate.faster import Run
from protorl.accelerate.graph import Trace
from protorl.accelerate.kept import Kept

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
    """The graph's kernels, recorded now and replayed from then on, on inputs that keep their place."""
    places = [tensor.clone() for tensor in inputs]
    graph, outputs = recording(trace, places, lambda call: call(*trace.given(places)))

    def run(columns: list[Tensor]) -> list[Tensor]:
        torch._foreach_copy_(places, columns, non_blocking=True)
        graph.replay()
        return [output.clone() for output in outputs]  # the next replay writes into the same memory

    return run


def recorded_acting(trace: Trace, inputs: list[Tensor], name: str) -> Run:
    """The same for a graph whose inputs and outputs are in this machine's memory: observations go to the device, outputs come
    back as NumPy arrays, in one launch and one wait."""
    here = [tensor.pin_memory() for tensor in inputs]
    places = [tensor.to(trace.reads.agent.device) for tensor in here]
    back: list[Tensor] = []

    def there_and_back(call: Any) -> None:
        torch._foreach_copy_(places, here, non_blocking=True)
        outputs = call(*trace.given(places))
        if not back:
            back.extend(torch.empty_like(output, device="cpu", pin_memory=True) for output in outputs)
        for output, place in zip(outputs, back, strict=True):
            place.copy_(output, non_blocking=True)

    graph, _ = recording(trace, places, there_and_back)

    def run(columns: list[Tensor]) -> list[Any]:
        torch._foreach_copy_(here, columns)
        graph.replay()
        torch.cuda.current_stream().synchronize()
        return [output.numpy().copy() for output in back]

    return run


def recording(trace: Trace, places: list[Tensor], play: Callable[[Any], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """What `play(call)` does with the graph, recorded, and what it returned.

    With Triton the kernels are those of `compiled`, else the plain ones. Before the recording they run a few times, on a stream
    of their own (libraries choose kernels and workspaces then); what that changed is put back, random generators too.
    """
    with Kept(trace.reads.agent):
        call = compiled_graph(trace, places) if importlib.util.find_spec("triton") else trace.graph
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                play(call)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = play(call)
    return graph, outputs
