"""What actors elsewhere need of the learner, as one block in memory that both see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from protorl.processes import Memory


class Weights:
    """Tensors of an agent, published as a whole under a number, and never read half written: there are two copies, and the one
    that was published last is not written to.

    like: the agent's `published()`, the same here and there: their sizes and types. file: the descriptor of the memory, where
    there is one already.
    """

    def __init__(self, like: Sequence[Tensor], file: int | None = None) -> None:
        forms = [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in like]
        every: list[tuple[tuple[int, ...], str]] = [((2,), "int64"), ((2,), "int64"), *forms, *forms]
        self.memory = Memory(every, file)
        self.numbers, self.updates, *banks = (self.memory.take(*form) for form in every)  # numbers: begun, and done
        views = [torch.from_numpy(bank) for bank in banks]
        self.banks = views[: len(like)], views[len(like) :]

    def publish(self, tensors: Sequence[Tensor], updates: int) -> None:
        """These are the newest, after so many updates."""
        number = int(self.numbers[1]) + 1
        self.numbers[0] = number
        for place, tensor in zip(self.banks[number % 2], tensors):
            place.copy_(tensor)
        self.updates[number % 2] = updates
        self.numbers[1] = number

    def fetch(self, tensors: Sequence[Tensor], known: int) -> tuple[int, int]:
        """Fill `tensors` with the newest, unless they are number `known`; returns their number, and after how many updates."""
        while (number := int(self.numbers[1])) != known:
            for place, tensor in zip(self.banks[number % 2], tensors):
                tensor.copy_(place)
            updates = int(self.updates[number % 2])
            if self.numbers[0] <= number + 1:  # the next one but one would be written here
                return number, updates
        return known, int(self.updates[known % 2])
