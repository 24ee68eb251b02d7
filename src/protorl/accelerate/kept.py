"""An agent put back as it was: the contents of its tensors, and what its objects and containers hold."""

from __future__ import annotations

import copy
import operator
import types
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from protorl.parts import MODULE_TABLES, parts, whole
from protorl.rng import Randomness


class Kept:
    """What an agent holds, what its tensors contain, which gradients they have, and the shared random generators: put back at
    the end of a `with`, or by `put_back`."""

    def __init__(self, agent: Any) -> None:
        self.memory: dict[int, Tensor] = {}
        self.held: list[tuple[str, Any, Any]] = []
        self.grads: list[tuple[str, Tensor, Tensor | None]] = []
        for name, thing in parts(agent):
            if isinstance(thing, Tensor):
                self.grads.append((name, thing, thing.grad if thing.is_leaf else None))
                if thing.layout == torch.strided and thing.untyped_storage().nbytes():
                    self.memory[thing.untyped_storage().data_ptr()] = whole(thing)
            elif isinstance(thing, dict | list | deque | set):
                self.held.append((name, thing, copy.copy(thing)))
            elif not isinstance(thing, type | types.ModuleType) and isinstance(getattr(thing, "__dict__", None), dict):
                tables = [getattr(thing, table) for table in MODULE_TABLES] if isinstance(thing, nn.Module) else []
                self.held += [(name, table, dict(table)) for table in (*tables, vars(thing))]
        self.copies = self.copied()
        self.randomness = Randomness.now()

    def copied(self) -> list[Tensor]:
        """The contents of all tensors as they are now."""
        return [memory.clone() for memory in self.memory.values()]

    def put_back(self) -> str | None:
        """Put everything back; returns the name of the first thing that was exchanged, not filled in place."""
        found = None
        for name, held, before in self.held:
            if len(held) == len(before) and all(map(operator.is_, listed(held), listed(before))):
                continue
            if isinstance(held, dict):
                key = next((k for k in (*before, *held) if k not in held or k not in before or held[k] is not before[k]), "")
                found = found or f"`{name}.{key}`".replace("`.", "`") if isinstance(key, str) else f"`{name}`"
            found = found or f"`{name}`"
            held.clear()
            (held.extend if isinstance(held, list | deque) else held.update)(before)
        for name, tensor, grad in self.grads:
            if tensor.is_leaf and tensor.grad is not grad:
                found = found or f"the gradient that `{name}` keeps (`backward()`; our optimizers' `step(loss)` keeps none)"
                tensor.grad = grad
        for memory, contents in zip(self.memory.values(), self.copies):
            memory.copy_(contents)
        self.randomness.put_back()
        return found

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()


def listed(held: Any) -> list[Any]:
    return [*held, *held.values()] if isinstance(held, dict) else list(held)
