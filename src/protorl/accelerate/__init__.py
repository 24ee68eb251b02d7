"""Speed, in one place: rebinds an agent's tensor-only methods to faster equals. The plain path stays the reference.

accelerate    binds: `learn` and what else is in `agent.pure` to `Faster`, `infer` to `FasterActing`
faster        is the method the same as ever? watched, compared, traced anew, or left as it was
graph         a method as one graph in which all of the agent's memory is an argument
reads, kept   what the method read, watched; the agent put back as it was
ahead_of_time, cuda_graphs    what makes a graph run
acting        NumPy, or a graph, in the place of `infer`
precision, small, subnormals    how products are computed
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch

from protorl.accelerate.acting import FasterActing, graph_of_acting, numpy_acting
from protorl.accelerate.ahead_of_time import compiler, packaged, require_compiler
from protorl.accelerate.cuda_graphs import compiled, recorded, recorded_acting
from protorl.accelerate.faster import WATCHED, Backend, Faster, give_back, say
from protorl.accelerate.precision import BFloat16Products, Rounded
from protorl.data import Batch, ProtoRLError, Update
from protorl.parts import Aside

MODES = ("auto", "eager", "compiled", "aot", "cudagraphs")
PRECISIONS = ("float32", "bf16")
BACKENDS: dict[str, Backend] = {"aot": packaged, "compiled": compiled, "cudagraphs": recorded}
ACTING: dict[str, Backend] = {"aot": packaged, "cudagraphs": recorded_acting}
COSTS = {"aot": 40.0, "cudagraphs": 25.0}
"""Seconds that compiling, or compiling and recording, takes."""
SAVED = 0.5
"""The share of an update's time that this saves, at least."""
SETTLED = 2 * WATCHED + 4
"""Updates after which it is decided how all others run, in every mode."""
TIMED = 4
"""Updates that "auto" times, the first of which does not count."""


def accelerate(agent: Any, mode: str = "auto", precision: str = "float32", *, updates: int = 0) -> Any:
    """Bind `agent.infer` and the methods in `agent.pure` to faster equals, in place. Restore a checkpoint before, not after.

    mode: "eager" changes nothing. All others let small fully connected networks on the CPU answer from NumPy views of the
    same parameters, without the cost that torch adds to every small operation. "aot": on the CPU, each method is one graph
    compiled ahead of time and kept on disk, acting of other networks too. "compiled": the same graph, compiled in this process.
    "cudagraphs": on a GPU, the method's kernels are recorded once and replayed. "auto": one of these if it is paid back within
    the `updates` that are still to come, by the time that the first few take.
    precision: "bf16" rounds the factors of large matrix products (`BFloat16Products`).

    What cannot be the same stays as it is, and one sentence says why (`Faster`).
    Returns the agent. Raises: ProtoRLError for an unknown mode or precision, "aot" without a C++ compiler or on a GPU, or
    "cudagraphs" without a GPU.
    """
    for name, value, known in (("mode", mode, MODES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ProtoRLError(f"{name} {value!r} is unknown: use one of {', '.join(known)}")
    device = agent.device.type
    if mode == "aot" and device != "cpu":
        raise ProtoRLError(f'accelerate "aot" is for the CPU, but the networks are on {device}: use "cudagraphs" or "compiled"')
    if mode == "aot":
        require_compiler()
    if mode == "cudagraphs" and device != "cuda":
        raise ProtoRLError(f'accelerate "cudagraphs" needs a GPU, but the networks are on {device}: use "aot" or "eager"')
    if mode == "auto":
        mode = agent.settled.get("mode", "auto") if updates else "numpy"
    if precision == "bf16":
        for method in (*agent.pure, "prepare", "infer"):
            setattr(agent, method, Rounded(getattr(agent, method)))
    if mode == "auto":
        agent.update = Timed(agent, precision, updates)
    if mode in BACKENDS:
        bind_updates(agent, mode, precision)
    bind_acting(agent, mode, precision)
    return agent


def bind_updates(agent: Any, mode: str, precision: str) -> None:
    """The methods in `agent.pure`, each as one graph."""
    for method in agent.pure:
        setattr(agent, method, Faster(agent, method, BACKENDS[mode], precision))


def bind_acting(agent: Any, mode: str, precision: str) -> None:
    """`infer`, if it is the one that every agent has: one that was written anew does what it says."""
    if mode == "eager":
        return
    own = vars(agent).get("infer")
    if not getattr(type(agent).infer, "asks_the_actor", False) or not (own is None or isinstance(own, Aside)):
        say(f"acting stays eager: {type(agent).__name__} has an `infer` of its own")
        return
    answer = numpy_acting(agent) if agent.device.type == "cpu" else None
    products: Any = BFloat16Products if precision == "bf16" else nullcontext
    if answer is None and mode in ACTING:
        answer = graph_of_acting(agent, ACTING[mode], products)
    if answer is not None:
        agent.infer = FasterActing(agent, answer, precision)


class Timed(Aside):
    """The first updates, timed; then the mode that pays, which `agent.settled` keeps."""

    def __init__(self, agent: Any, precision: str, updates: int) -> None:
        self.agent, self.precision, self.updates = agent, precision, updates
        self.plain = agent.update
        self.seconds: list[float] = []

    def __call__(self, batch: Batch) -> Update:
        begin = time.perf_counter()
        update: Update = self.plain(batch)
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize()
        if update.metrics:  # some rollouts teach nothing: a warm-up's, those after PPO has gone far enough
            self.seconds.append(time.perf_counter() - begin)
        if len(self.seconds) == TIMED:
            mode, why = choose(self.agent, min(self.seconds[1:]), self.updates)
            say(f"accelerate: {mode} ({why})")
            self.agent.settled["mode"] = mode
            give_back(self.agent, "update", self.plain)
            if mode in BACKENDS:
                bind_updates(self.agent, mode, self.precision)
                if not isinstance(vars(self.agent).get("infer"), FasterActing):
                    bind_acting(self.agent, mode, self.precision)
        return update


def choose(agent: Any, seconds: float, updates: int) -> tuple[str, str]:
    """The mode that "auto" stands for where an update takes so many `seconds` and so many `updates` are to come, and why."""
    mode = {"cpu": "aot", "cuda": "cudagraphs"}.get(agent.device.type)
    if mode is None:
        return "numpy", f"nothing faster is known for {agent.device.type}"
    saved, cost = SAVED * seconds * updates, COSTS[mode]
    time_it_takes = f"{updates:,} updates of {1e3 * seconds:.2g} ms"
    if saved < cost:
        return "numpy", f"{time_it_takes}: {mode} would save some {saved:.0f} s and cost {cost:.0f}"
    if mode == "aot" and not compiler():
        return "numpy", f'{time_it_takes} would gain from "aot", but there is no C++ compiler (g++ or clang++)'
    return mode, f"{time_it_takes}: it saves some {saved:.0f} s and costs {cost:.0f}"
