"""What actors elsewhere need of the learner, as one block in memory that both see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protorl.data import Array
from protorl.processes import Block, Memory, room_for


class Weights:
    """Tensors of an agent, published as a whole under a number, and never read half written: there are two copies, and the one
    that was published last is not written to.

    like: the agent's `published()`, the same here and there: their sizes and types. file: the descriptor of the memory, where
    there is one already.
    """

    def __init__(self, like: Sequence[Tensor], file: int | None = None) -> None:
        forms = forms_of(like)
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


class Packed:
    """Tensors of an agent as one array of bytes, which travels. like: the agent's `published()`, the same here and there."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.forms = forms_of(like)
        self.size = sum(room_for(*form) for form in self.forms)
        self.block = np.zeros(self.size, np.uint8)
        self.places = self.of(self.block)

    def of(self, block: Array) -> list[Array]:
        """The arrays in such bytes."""
        take = Block(block).take
        return [take(*form) for form in self.forms]

    def packed(self, tensors: Sequence[Tensor]) -> Array:
        """[size] uint8, which the next call writes to."""
        for place, tensor in zip(self.places, tensors):
            torch.from_numpy(place).copy_(tensor)
        return self.block

    def unpack(self, block: Array, tensors: Sequence[Tensor]) -> None:
        """Fill `tensors`, of this machine's processor."""
        for place, tensor in zip(self.of(block), tensors):
            np.copyto(tensor.numpy(), place)


def forms_of(tensors: Sequence[Tensor]) -> list[tuple[tuple[int, ...], str]]:
    """Their shapes and types, as NumPy calls them."""
    return [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]
