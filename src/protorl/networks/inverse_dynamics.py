"""Embeddings of what an agent controls: they say which action led from one observation to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from protorl.networks.bases import Base


class InverseDynamics(nn.Module):
    """p(a_t | x_t, x_{t+1}) = softmax(h(f(x_t), f(x_{t+1}))): to tell the actions apart f has to hold what they change, and
    nothing makes it hold the rest.

    base: of f, behind which one dense layer gives its `features` numbers. actions: how many there are. hidden: width of h.
    Source: Pathak et al. 2017, arXiv 1705.05363; Badia et al. 2020, arXiv 2002.06038, section 2 (32 features, h of 128).
    """

    def __init__(self, base: Base, actions: int, features: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.features = features
        self.embedding = nn.Sequential(base, nn.Linear(base.features, features))
        self.classifier = nn.Sequential(nn.Linear(2 * features, hidden), nn.ReLU(), nn.Linear(hidden, actions))

    def forward(self, now: Tensor, then: Tensor) -> Tensor:
        """Logits [..., A] of the action between frames [..., *F]."""
        logits: Tensor = self.classifier(torch.cat([self.embedding(now), self.embedding(then)], -1))
        return logits

    def loss(self, now: Tensor, then: Tensor, action: Tensor, weight: Tensor) -> Tensor:
        """The mean cross-entropy [] of the actions [...] that were taken, of weight [...] (0 everywhere: 0)."""
        logits = self(now, then)
        losses = cross_entropy(logits.flatten(0, -2), action.flatten(), reduction="none")
        return (weight.flatten() * losses).sum() / weight.sum().clamp(min=1.0)
