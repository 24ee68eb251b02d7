"""A network is a base and a head."""

from __future__ import annotations

from typing import Any

from torch import nn

from protorl.data import TensorObs
from protorl.networks.bases import Base
from protorl.networks.heads import Head


class Network(nn.Module):
    """`head(base(obs))`: observations [..., *O] (a tensor, or a dict of them) to the head's NamedTuple.

    Weights come from torch's default generator: seed it (or use `rng.torch_stream`) before making the parts.
    Raises ProtoRLError when the head is already part of another network.
    """

    def __init__(self, base: Base, head: Head) -> None:
        super().__init__()
        head.build(base.features)
        self.base = base
        self.head = head

    def forward(self, obs: TensorObs) -> Any:
        return self.head.forward(self.base.forward(obs))  # as in `Chain`
