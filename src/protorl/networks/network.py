"""A network is a base and a head."""

from __future__ import annotations

from torch import Tensor, nn

from protorl.data import TensorObs
from protorl.networks.bases import MLP, Base, flat
from protorl.networks.heads import Head, QHead, QOut
from protorl.networks.numpy_forms import Form, in_numpy, in_order


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

    def forward(self, obs: TensorObs) -> tuple[Tensor, ...]:
        return self.head(self.base(obs))

    def in_numpy(self) -> Form | None:
        base, head = in_numpy(self.base), in_numpy(self.head)
        if base is None or head is None:
            return None
        if type(self.base) is MLP and type(self.head) is QHead:  # one chain from the observation to the values
            layers = in_order([*self.base.layers, *self.head.layers])
            return None if layers is None else lambda obs: QOut(layers(flat(obs)))
        return lambda obs: head(base(obs))
