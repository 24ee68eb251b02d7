"""Rows of teams as rows of agents, and back: tensors and arrays alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from protorl.data import MASK, tree_map


def apart(leaf: Any, axis: int = 0) -> Any:
    """[..., N, M, *X], N being axis `axis`, as [..., N * M, *X]."""
    shape = leaf.shape
    return leaf.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def together(leaf: Any, size: int, axis: int = 0) -> Any:
    """[..., N * M, *X] as [..., N, M, *X], M being `size`."""
    shape = leaf.shape
    return leaf.reshape(*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])


def rows_axis(obs: Any) -> int:
    """Which axis of what teams observe is that over rows: 0, or behind that of time 1."""
    axis: int = obs["alive"].ndim - 2
    return axis


def agents_obs(obs: Any) -> Any:
    """What teams observe, [..., N, M, *O], as each agent does, [..., N * M, *O], with its mask where there is one."""
    shown = {name: apart(obs[name], rows_axis(obs)) for name in ("obs", MASK) if name in obs}
    return shown if MASK in shown else shown["obs"]


def agents_seen(seen: Any, size: int) -> Any:
    """What is seen by teams as it is seen by each agent: it knows its own reward and action."""
    first, axis = seen.first, rows_axis(seen.obs)
    each = first.repeat_interleave(size, -1) if isinstance(first, Tensor) else first.repeat(size, -1)
    action, reward = (apart(column, axis) for column in (seen.action, seen.reward))
    return seen._replace(obs=agents_obs(seen.obs), first=each, action=action, reward=reward)


def teams_out(out: Any, size: int, axis: int) -> Any:
    """The outputs of a head for all agents, as those of teams; a deviation that is the same everywhere is now each one's."""
    if hasattr(out, "log_std"):
        alike = out.log_std
        each = alike.expand_as(out.mean) if isinstance(alike, Tensor) else np.broadcast_to(alike, out.mean.shape)
        out = out._replace(log_std=each)
    return tree_map(lambda leaf: together(leaf, size, axis), out)
