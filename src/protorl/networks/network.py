"""A network is a base and a head, and between them a core, if it shall remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from protorl.networks.bases import MLP, Base, flat
from protorl.networks.cores import NO_CORE, Answer, Asked, Core, NoCore
from protorl.networks.heads import Head, QHead, QOut
from protorl.networks.masks import Visible, masked
from protorl.networks.numpy_forms import Form, in_numpy, in_order


class Network(nn.Module):
    """`head(base(obs))`: observations [..., *O] (a tensor, or a dict of them) to the head's NamedTuple. With a mask among them
    (`protorl.networks.masks`), actions that are not available have the value, or logit, -inf.

    With a `core` it is `network(seen, carry) -> Answer(out, carry)`, for one step [N, ...] or for an unroll [T, B, ...] of
    them; `seen` is a `Seen` of tensors, `carry` [N, ...] is as `core.initial_carry(n)`, before the (first) step.

    Weights come from torch's default generator: seed it (or use `rng.torch_stream`) before making the parts.
    Raises ProtoRLError when the head is already part of another network.
    """

    def __init__(self, base: Base, head: Head, core: Core | None = None) -> None:
        super().__init__()
        self.base = base
        self.core: Core | NoCore = NO_CORE if core is None else core
        head.build(self.core.build(base.features))
        self.head = head

    def forward(self, *seen: Any) -> Any:
        x, carry = self.core.trunk(self.base, *seen)
        return self.core.answer(masked(self.head(x), self.core.shown(*seen)), carry)

    def in_numpy(self) -> Form | None:
        if isinstance(self.core, Core):
            return remembering(self, lambda out: out)
        base, head = in_numpy(self.base), in_numpy(self.head)
        if base is None or head is None:
            return None
        if type(self.base) is MLP and type(self.head) is QHead:  # one chain from the observation to the values
            layers = in_order([*self.base.layers, *self.head.layers])
            return None if layers is None else lambda obs: QOut(layers(flat(obs)))
        if type(self.base) is Visible:
            return lambda obs: masked(head(base(obs)), obs)
        return lambda obs: head(base(obs))


def remembering(network: Network, outputs: Callable[..., Any], *more: Head) -> Form | None:
    """The NumPy form of a network with a core, and of `more` heads on its trunk: `outputs` of what they say, side by side."""
    core: Any = network.core
    parts: list[Any] = [
        in_numpy(network.base),
        in_numpy(core),
        *map(in_numpy, (network.head, *more)),
        *map(in_numpy, core.inputs),
    ]
    if None in parts:
        return None
    base, step, *rest = parts
    heads, inputs = rest[: 1 + len(more)], rest[1 + len(more) :]

    def forward(asked: Asked) -> Answer:
        seen, carry = asked
        features = [base(seen.obs), *[part(seen) for part in inputs]]
        if seen.first.any():
            carry = core.kind(*[np.where(seen.first[:, None], np.float32(0), part) for part in carry])
        carry = step(np.concatenate(features, 1), carry)
        said, *beside = [head(carry[0]) for head in heads]
        return Answer(outputs(masked(said, seen.obs), *beside), carry)

    return forward
