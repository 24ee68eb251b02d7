"""What actors elsewhere need of the learner, as one block in memory that both see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from protorl.processes import SharedBytes, room_for


class Weights:
    """Tensors of an agent, published as a whole under a number, and never read half written: there are two copies, and the one
    that was published last is not written to.

    like: the agent's `published()`, the same here and there: their sizes and types.
    """

    def __init__(self, like: Sequence[Tensor], shared: SharedBytes | None = None) -> None:
        self.forms = [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in like]
        forms = [((2,), "int64"), ((2,), "int64"), *self.forms, *self.forms]
        self.shared = SharedBytes(sum(room_for(*form) for form in forms)) if shared is None else shared
        self.numbers, self.updates, *banks = (self.shared.take(*form) for form in forms)  # numbers: begun, and done
        self.banks = banks[: len(like)], banks[len(like) :]

    def publish(self, tensors: Sequence[Tensor], updates: int) -> None:
        """These are the newest, after so many updates."""
        number = int(self.numbers[1]) + 1
        self.numbers[0] = number
        for place, tensor in zip(self.banks[number % 2], tensors):
            torch.from_numpy(place).copy_(tensor)
        self.updates[number % 2] = updates
        self.numbers[1] = number

    def fetch(self, tensors: Sequence[Tensor], known: int) -> tuple[int, int]:
        """Fill `tensors` with the newest, unless they are number `known`; returns their number, and after how many updates."""
        while (number := int(self.numbers[1])) != known:
            for place, tensor in zip(self.banks[number % 2], tensors):
                tensor.copy_(torch.from_numpy(place))
            updates = int(self.updates[number % 2])
            if self.numbers[0] <= number + 1:  # the next one but one would be written here
                return number, updates
        return known, int(self.updates[known % 2])

    def __reduce__(self) -> tuple[object, ...]:
        return attached, (self.forms, self.shared)


def attached(forms: list[tuple[tuple[int, ...], str]], shared: SharedBytes) -> Weights:
    """The same, in another process."""
    return Weights([torch.empty(shape, dtype=getattr(torch, kind)) for shape, kind in forms], shared)
