"""Actions that are not available: their values and logits are -inf, so that nothing chooses, prefers or expects them.

The mask travels in the observation (`protorl.data.MASK`), and with it through every memory and view to the next one of an
example; networks put it on what their heads say. From there on every argmax, maximum and softmax is over what is available, in
acting and in targets alike.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from protorl.data import MASK, TensorObs, visible
from protorl.networks.bases import Base
from protorl.networks.numpy_forms import Form, in_numpy

Out = TypeVar("Out", bound=tuple[Any, ...])

BEHIND = {"q": 0, "logits": 0, "quantiles": 1}
"""Outputs of heads with a number for each action, and how many axes follow that of the actions."""


def masked(out: Out, obs: object) -> Out:
    """A head's output for observations, tensors or arrays: what is not available is -inf. As it is, where there is no mask."""
    if not isinstance(obs, dict) or MASK not in obs:
        return out
    there = obs[MASK] != 0
    named: Any = out
    new: dict[str, Any] = {}
    for name, axes in BEHIND.items():
        numbers = getattr(out, name, None)
        if numbers is not None:
            shape = (*there.shape, *[1] * axes)
            new[name] = forbidden(there.reshape(shape), numbers)
    kept: Out = named._replace(**new)
    return kept


def forbidden(there: Any, numbers: Any) -> Any:
    """The numbers, -inf where `there` is not true."""
    if isinstance(numbers, Tensor):
        return torch.where(there, numbers, -torch.inf)
    return np.where(there, numbers, numbers.dtype.type(-np.inf))


class Visible(Base):
    """A base over what an observation shows besides its mask: one array, or a dict of the rest."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base, self.features = base, base.features

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        seen: TensorObs = visible(obs)
        features: Tensor = self.base(seen)
        return features

    def in_numpy(self) -> Form | None:
        base = in_numpy(self.base)
        return None if base is None else lambda obs: base(visible(obs))
