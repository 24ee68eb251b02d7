"""Divergence: a loss, a parameter or a metric that is not finite, and where it was seen first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from protorl.data import Batch, ProtoRLError, State


class Diverged(ProtoRLError):  # noqa: N818 - it says what happened
    """A loss, a parameter or a metric is not finite: there is nothing worth saving since the last checkpoint."""


def diverged(what: str, at: str, batch: Batch | None, agent: State, last: int | None, folder: Path) -> Diverged:
    """The sentence that ends such a run: what is not finite, when, the first bad tensor in the batch or the agent's state, and
    the step of the last checkpoint."""
    columns = {name: value for name, value in batch.columns.items() if name != "index"} if batch is not None else {}
    culprit = first_not_finite(columns, "batch") or first_not_finite(agent, "agent")
    good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
    where = f"the first bad tensor is {culprit}" if culprit else "parameters and inputs are finite, so the loss overflowed"
    return Diverged(
        f"training diverged at {at}: {what}; {where}; {good} in {folder}. "
        "Try a lower lr, max_grad_norm, or look at the rewards."
    )


def first_not_finite(tree: object, name: str) -> str | None:
    """The name of the first tensor with a NaN or infinity in a tree of dicts and lists; None if all are finite."""
    children: Iterable[tuple[str, object]]
    if isinstance(tree, dict):
        children = ((f"{name}.{key}", value) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        children = ((f"{name}[{i}]", value) for i, value in enumerate(tree))
    elif isinstance(tree, torch.Tensor):
        return name if tree.is_floating_point() and not bool(torch.isfinite(tree).all()) else None
    else:
        return None
    for child, value in children:
        bad = first_not_finite(value, child)
        if bad:
            return bad
    return None
