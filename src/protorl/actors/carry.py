"""Carries: trees of arrays or tensors [N, ...], of dicts, lists, tuples and NamedTuples in any mixture, row i of every leaf
belonging to environment row i. A feed-forward agent's is `()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from protorl.data import Array, Carry, ProtoRLError

Leaf: TypeAlias = "Array | torch.Tensor"


class Carries(Protocol):
    """The part of an agent that knows its carry."""

    def initial_carry(self, n: int) -> Carry: ...


def carry_map(function: Callable[..., Any], tree: Carry, *others: Carry) -> Carry:
    """A tree of the same kind, of `function(leaf, *leaves in the same place of the others)`.

    Raises: ProtoRLError where another one is of another kind.
    """
    if isinstance(tree, dict):
        if any(not isinstance(other, dict) or other.keys() != tree.keys() for other in others):
            raise other_kind(tree, others)
        return {key: carry_map(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        if any(type(other) is not type(tree) or len(other) != len(tree) for other in others):
            raise other_kind(tree, others)
        parts = [carry_map(function, *parts) for parts in zip(tree, *others)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(tree, *others)


def other_kind(tree: Carry, others: tuple[Carry, ...]) -> ProtoRLError:
    names = ", ".join(type(one).__name__ for one in (tree, *others))
    return ProtoRLError(
        f"a carry changed its structure ({names}): `act` and `annotate` give back a carry of the kind that initial_carry gave"
    )


def carry_leaves(tree: Carry) -> list[Leaf]:
    """The arrays of a carry in their order."""
    leaves: list[Leaf] = []
    carry_map(leaves.append, tree)
    return leaves


def initial_carry(agent: Carries, n: int) -> Carry:
    """The agent's carry of `n` rows at an episode's start.

    Raises: ProtoRLError unless it is a tree of arrays and tensors with n rows each.
    """
    carry = agent.initial_carry(n)
    for leaf in carry_leaves(carry):
        if not isinstance(leaf, np.ndarray | torch.Tensor) or leaf.ndim < 1 or len(leaf) != n:
            what = f"of shape {tuple(leaf.shape)}" if hasattr(leaf, "shape") else repr(leaf)
            raise ProtoRLError(
                f"initial_carry({n}) of {type(agent).__name__} gives a {type(leaf).__name__} {what}: "
                f"a carry is made of arrays or tensors with {n} rows each"
            )
    return carry


def restarted(carry: Carry, agent: Carries, first: Array) -> Carry:
    """The carry with the initial one's rows where an episode starts, `first` [N] bool; the given one stays as it is."""
    if not first.any():
        return carry

    @torch.no_grad()
    def rows(leaf: Leaf, start: Any) -> Leaf:
        if isinstance(leaf, torch.Tensor):
            mine, leaf = torch.from_numpy(first), leaf.clone()
            leaf[mine] = torch.as_tensor(start)[mine].to(leaf)
        else:
            leaf = leaf.copy()
            leaf[first] = start[first]
        return leaf

    return carry_map(rows, carry, agent.initial_carry(len(first)))


def saved_carry(carry: Carry, like: Carry) -> list[Leaf]:
    """A carry for a checkpoint: copies of its leaves, in the order of the agent's initial carry."""
    leaves: list[Leaf] = []
    carry_map(
        lambda _, leaf: leaves.append(leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf.copy()), like, carry
    )
    return leaves


def loaded_carry(leaves: list[Leaf], like: Carry) -> Carry:
    """What `saved_carry` was given, in the structure of the agent's initial carry.

    Raises: ProtoRLError where it does not fit.
    """
    shapes = [tuple(leaf.shape) for leaf in carry_leaves(like)]
    saved = [tuple(leaf.shape) for leaf in leaves]
    if saved != shapes:
        raise ProtoRLError(f"the saved carry has arrays {saved} and this agent's {shapes}: use the same agent and num_envs")
    given = iter(leaves)

    def back(leaf: Leaf) -> Leaf:
        one = next(given)
        return torch.as_tensor(one).to(leaf.device) if isinstance(leaf, torch.Tensor) else np.array(one)

    return carry_map(back, like)
