"""Divergence: a loss, a parameter or a metric that is not finite, and where it was seen first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from protorl.data import Batch, ProtoRLError
from protorl.parts import first_not_finite
from protorl.runs.parts import Learner


class Diverged(ProtoRLError):  # noqa: N818 - it says what happened
    """A loss, a parameter or a metric is not finite: there is nothing worth saving since the last checkpoint."""


def diverged(what: str, at: str, batch: Batch | None, agent: Learner, last: int | None, folder: Path) -> Diverged:
    """The sentence that ends such a run: what is not finite, when, the first bad tensor in the batch or the agent, and
    the step of the last checkpoint."""
    columns = {name: value for name, value in batch.columns.items() if name != "index"} if batch is not None else {}
    culprit = first_not_finite(SimpleNamespace(**columns), "batch") or first_not_finite(agent, "agent")
    good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
    where = f"the first bad tensor is {culprit}" if culprit else "parameters and inputs are finite, so the loss overflowed"
    return Diverged(
        f"training diverged at {at}: {what}; {where}; {good} in {folder}. "
        f"Try a lower lr (`protorl resume {folder} --set lr=...`), max_grad_norm, or look at the rewards."
    )
