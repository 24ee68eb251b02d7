"""Randomness has a name: every stream comes from (root seed, name), never from the order in which things are built."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from protorl.data import Array, State


def seed_sequence(root: int, *name: str | int) -> np.random.SeedSequence:
    """The seed sequence of a named stream; names differ, streams are independent."""
    digest = hashlib.sha256("/".join(str(part) for part in name).encode()).digest()
    return np.random.SeedSequence([root, *np.frombuffer(digest[:16], np.uint32).tolist()])


def generator(root: int, *name: str | int) -> np.random.Generator:
    """A NumPy generator of its own for a named stream."""
    return np.random.Generator(np.random.PCG64(seed_sequence(root, *name)))


def integer(root: int, *name: str | int) -> int:
    """A 31-bit seed for a library that wants an integer (an environment, say)."""
    return int(seed_sequence(root, *name).generate_state(1)[0] >> 1)


@contextmanager
def torch_stream(root: int, *name: str | int) -> Iterator[None]:
    """Inside, torch's default CPU generator is the named stream; outside, it is as it was. For initialising networks."""
    before = torch.get_rng_state()
    torch.manual_seed(integer(root, *name))
    try:
        yield
    finally:
        torch.set_rng_state(before)


class Randomness(NamedTuple):
    """The generators that a whole process shares, as they were."""

    torch: Tensor
    cuda: list[Tensor]
    numpy: Any
    python: Any

    @staticmethod
    def now() -> Randomness:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return Randomness(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())  # noqa: NPY002

    def put_back(self) -> None:
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@contextmanager
def untouched() -> Iterator[None]:
    """Inside, draws from shared generators leave no trace: afterwards the next number is what it would have been."""
    before = Randomness.now()
    try:
        yield
    finally:
        before.put_back()


def pack(gen: np.random.Generator) -> str:
    """A generator's state as plain text, exact."""
    return json.dumps(gen.bit_generator.state, default=lambda a: {"__array__": a.tolist(), "dtype": str(a.dtype)})


def unpack(gen: np.random.Generator, state: str) -> None:
    """Put a generator where `pack` saw it."""

    def revive(node: State) -> object:
        return np.array(node["__array__"], node["dtype"]) if "__array__" in node else node

    gen.bit_generator.state = json.loads(state, object_hook=revive)


class RowStreams:
    """Numbers for N rows (environments), each row from a stream of its own, so that the numbers a row gets depend neither on
    the other rows nor on which process hosts it. Uniform in [0, 1), or standard normal. Drawn in blocks: a call costs a
    slice."""

    def __init__(self, root: int, name: str, rows: Sequence[int], block: int = 1024, normal: bool = False) -> None:
        self.generators = [generator(root, name, row) for row in rows]
        self.block, self.normal = block, normal
        self.numbers = np.empty((len(self.generators), block))
        self.starts = [pack(gen) for gen in self.generators]
        self.refill()

    def take(self, k: int) -> Array:
        """The next [N, k] float64; k at most the block length."""
        if self.cursor + k > self.block:
            self.starts = [pack(gen) for gen in self.generators]
            self.refill()
        numbers = self.numbers[:, self.cursor : self.cursor + k]
        self.cursor += k
        return numbers

    def refill(self) -> None:
        for row, gen in enumerate(self.generators):
            (gen.standard_normal if self.normal else gen.random)(out=self.numbers[row])
        self.cursor = 0

    def state_dict(self) -> State:
        return {"starts": list(self.starts), "cursor": self.cursor}

    def load_state_dict(self, state: State) -> None:
        self.starts = list(state["starts"])
        for gen, start in zip(self.generators, self.starts, strict=True):
            unpack(gen, start)
        self.refill()
        self.cursor = state["cursor"]
