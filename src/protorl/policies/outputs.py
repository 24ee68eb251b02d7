"""What policies read of a head's output, whatever else is in it: tensors, or arrays where an agent acts in NumPy."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

Out = TypeVar("Out", contravariant=True)
"""The outputs that a policy can read."""


class ActionValues(Protocol):
    @property
    def q(self) -> Tensor: ...  # [N, A]


class Logits(Protocol):
    @property
    def logits(self) -> Tensor: ...  # [N, n] or [N, A, n]


class Normal(Protocol):
    @property
    def mean(self) -> Tensor: ...  # [N, A]

    @property
    def log_std(self) -> Tensor: ...  # [N, A] or [A]


class BetaParameters(Protocol):
    @property
    def alpha(self) -> Tensor: ...  # [N, A]

    @property
    def beta(self) -> Tensor: ...  # [N, A]


class BestAction(Protocol):
    @property
    def action(self) -> Tensor: ...  # [N, A]
