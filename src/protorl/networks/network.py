"""A network is a base and a head."""

from __future__ import annotations

from torch import Tensor, nn

from protorl.data import TensorObs
from protorl.networks.bases import MLP, Base, flat
from protorl.networks.heads import Head, QHead, QOut
from protorl.networks.masks import Visible, masked
from protorl.networks.numpy_forms import Form, in_numpy, in_order


class Network(nn.Module):
    """`head(base(obs))`: observations [..., *O] (a tensor, or a dict of them) to the head's NamedTuple. With a mask among them
    (`protorl.networks.masks`), actions that are not available have the value, or logit, -inf.

    Weights come from torch's default generator: seed it (or use `rng.torch_stream`) before making the parts.
    Raises ProtoRLError when the head is already part of another network.
    """

    def __init__(self, base: Base, head: Head) -> None:
        super().__init__()
        head.build(base.features)
        self.base = base
        self.head = head

    def forward(self, obs: TensorObs) -> tuple[Tensor, ...]:
        return masked(self.head(self.base(obs)), obs)

    def in_numpy(self) -> Form | None:
        base, head = in_numpy(self.base), in_numpy(self.head)
        if base is None or head is None:
            return None
        if type(self.base) is MLP and type(self.head) is QHead:  # one chain from the observation to the values
            layers = in_order([*self.base.layers, *self.head.layers])
            return None if layers is None else lambda obs: QOut(layers(flat(obs)))
        if type(self.base) is Visible:
            return lambda obs: masked(head(base(obs)), obs)
        return lambda obs: head(base(obs))
