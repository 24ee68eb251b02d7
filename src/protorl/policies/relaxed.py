"""Actions as critics see them: numbers through which gradients pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from protorl.data import ProtoRLError


class GumbelSoftmax:
    """Choices as one-hot vectors, `argmax(logits + g)` with Gumbel noise g: exactly a draw from softmax(logits), whose gradient
    is that of `softmax((logits + g) / temperature)` (straight-through). Acting (`Categorical`), the memory, targets and the
    actor's own step so show a critic the same kind of vectors.

    n: choices. temperature: above 0; the gradient is the steeper the lower.
    Raises ProtoRLError for a temperature that is not positive.
    Source: Jang, Gu and Poole 2017, arXiv 1611.01144; Maddison, Mnih and Teh 2017, arXiv 1611.00712.
    """

    def __init__(self, n: int, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ProtoRLError(f"temperature {temperature} is impossible: use a number above 0")
        self.n, self.temperature = n, temperature

    def vectors(self, action: Tensor) -> Tensor:
        """Choices [...] as one-hot [..., n] float32."""
        return one_hot(action.long(), self.n).to(torch.float32)

    def noise(self, vectors: Tensor) -> Tensor:
        """Gumbel noise [..., n], from torch's generator."""
        return -torch.empty_like(vectors).exponential_().log()

    def __call__(self, out: Any, noise: Tensor) -> Tensor:
        """One-hot [..., n], drawn from `out.logits` [..., n] by `noise` [..., n]; differentiable."""
        soft = torch.softmax((out.logits + noise) / self.temperature, -1)
        hard = self.vectors(soft.argmax(-1))
        return hard + (soft - soft.detach())

    def penalty(self, out: Any) -> Tensor:
        """The mean squared logit [...], of those that are not forbidden."""
        logits = out.logits
        there = logits != -torch.inf
        return torch.where(there, logits, 0.0).square().sum(-1) / there.sum(-1)


class Numbers:
    """Actions in [-1, 1] as they are, and those of an actor that gives one (`out.action`). As `GumbelSoftmax`."""

    def vectors(self, action: Tensor) -> Tensor:
        return action

    def noise(self, vectors: Tensor) -> Tensor:
        """None: nothing is drawn."""
        return vectors.new_zeros(len(vectors), 0)

    def __call__(self, out: Any, noise: Tensor) -> Tensor:
        action: Tensor = out.action
        return action

    def penalty(self, out: Any) -> Tensor:
        """0: they are bounded."""
        return torch.zeros_like(out.action[..., 0])
