"""Speed, in one place: rebinds an agent's tensor-only methods to faster equals. The eager path stays the reference."""

from __future__ import annotations

from typing import Any

from protorl.accelerate.ahead_of_time import AheadOfTime, AheadOfTimeInference, compiler, fits, require_compiler
from protorl.accelerate.compiled import Compiled
from protorl.accelerate.cuda_graphs import CudaGraph, CudaGraphInference
from protorl.accelerate.inference import numpy_inference
from protorl.accelerate.precision import Rounded
from protorl.data import ProtoRLError

MODES = ("auto", "eager", "compiled", "aot", "cudagraphs")
PRECISIONS = ("float32", "bf16")
WORTH_COMPILING = 50_000
"""Updates from which half a minute of compilation is paid back: it saves 0.5 ms and more in each."""
WORTH_RECORDING = 10_000
"""The same on a GPU, where compiling and recording take 15 to 30 s and save 1 to 7 ms in each."""


def choose(agent: Any, updates: int) -> tuple[str, str]:
    """The mode that "auto" stands for in a training of so many updates, and why.

    It depends on the algorithm's size and the machine, not on what happens to be in a cache, so that a command gives the same
    numbers twice.
    """
    if agent.device.type == "cuda":
        if updates < WORTH_RECORDING:
            return "eager", f"{updates:,} updates, below {WORTH_RECORDING:,} recording costs more than it saves"
        return "cudagraphs", f"{updates:,} updates on a GPU, from {WORTH_RECORDING:,} recording pays"
    if agent.device.type != "cpu":
        return "eager", f"nothing faster is known for {agent.device.type}"
    if updates < WORTH_COMPILING:
        return "eager", f"{updates:,} updates, below {WORTH_COMPILING:,} compiling costs more than it saves"
    if not compiler():
        return "eager", f'{updates:,} updates would gain from "aot", but there is no C++ compiler (g++ or clang++)'
    return "aot", f"{updates:,} updates, from {WORTH_COMPILING:,} compiling pays"


def accelerate(agent: Any, mode: str = "auto", precision: str = "float32") -> Any:
    """Bind `agent.infer` and the methods in `agent.pure` to faster equals, in place. Restore a checkpoint before, not after.

    mode: "eager" changes nothing. All others let small fully connected networks on the CPU answer from NumPy views of the
    same parameters, without the cost that torch adds to every small operation; "auto" does no more (a recipe's "auto" is one
    of the others, see `choose`). "aot": on the CPU, each method is one graph compiled ahead of time and kept on disk
    (`AheadOfTime`), acting of other networks too. "compiled": the same graph, compiled in this process (`Compiled`).
    "cudagraphs": on a GPU, the method's kernels are recorded once and replayed (`CudaGraph`).
    precision: "bf16" rounds the factors of large matrix products (`BFloat16Products`).

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
    infer = numpy_inference(agent.actor) if mode != "eager" and device == "cpu" else None
    if infer is not None:
        agent.infer = infer
    elif mode == "aot" and fits(agent.actor):
        agent.infer = AheadOfTimeInference(agent, precision)
    elif mode == "cudagraphs" and fits(agent.actor):
        agent.infer = CudaGraphInference(agent, precision)
    if precision == "bf16":
        for method in (*agent.pure, "prepare", *(("infer",) if "infer" not in vars(agent) else ())):
            setattr(agent, method, Rounded(getattr(agent, method)))
    faster: dict[str, Any] = {"aot": AheadOfTime, "compiled": Compiled, "cudagraphs": CudaGraph}
    if mode in faster:
        for method in agent.pure:
            setattr(agent, method, faster[mode](agent, method))
    return agent
