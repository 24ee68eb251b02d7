"""Who does what on this machine, as decided when a training starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from protorl.actors import Actors
from protorl.machine import cores
from protorl.memory.storage import human_bytes


def plan_of(actors: Actors) -> dict[str, object]:
    """The plan of a training that was just built, as config.json has it."""
    return {"cores": cores(), "learner_threads": torch.get_num_threads(), **actors.plan()}


def sentence(plan: Mapping[str, Any]) -> str | None:
    """The plan as a line; None: one process does everything."""
    if not plan["workers"]:
        return None
    lanes, workers, learner = plan["environments"], counted(plan["workers"], "worker"), plan["learner_threads"]
    even = len(set(lanes)) == 1
    each = f" x {counted(lanes[0], 'environment')}" if even else f" with {', '.join(map(str, lanes))} environments"
    return (
        f"plan for {counted(plan['cores'], 'core')}: {workers}{each} ({counted(plan['worker_threads'], 'thread')} each), "
        f"learner {counted(learner, 'thread')}, {human_bytes(plan['shared_bytes'])} of shared memory"
    )


def counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
