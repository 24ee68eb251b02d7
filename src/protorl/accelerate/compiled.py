"""A pure method compiled in this process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protorl.accelerate.graph import Run, Traced, compiling


class Compiled(Traced):
    """The graph through `torch.compile`: on a GPU its operations become a few fused kernels. Compiled anew in every process
    (torch caches parts). On the CPU the guards of each call cost more than a small network: `AheadOfTime` has none."""

    def compile(self, graph: Any, example: tuple[Tensor, ...]) -> Run:
        compiled = torch.compile(graph, fullgraph=True, dynamic=False)
        with compiling():
            compiled(*example)  # type: ignore[no-untyped-call]
        return lambda tensors: compiled(*tensors)  # type: ignore[no-untyped-call]
