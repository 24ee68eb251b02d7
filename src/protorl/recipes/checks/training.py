"""Short trainings of a recipe, made small, of which checks can see everything."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protorl import rng
from protorl.checkpoint import Checkpoints
from protorl.data import Batch, Chunk, ProtoRLError, Step, Update
from protorl.loops import Monitor, train
from protorl.recipes.checks.contents import Contents
from protorl.recipes.checks.finding import Verdict

PATIENCE = 20_000
"""Agent steps in which a short training must come to its updates."""


def short(recipe: Any, most: int | None = None) -> Any:
    """The recipe with little to wait for: memory, warm-up and rollouts as small as its batch allows (of at most `most`
    examples), bursts of a few updates, targets that follow soon; on the processor, without workers. The rest is its own."""
    known = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    size = min(known.get("batch_size", 1), most or math.inf)
    lanes = recipe.num_envs
    limits = {
        "batch_size": size, "capacity": 10 * size + 1_000 + 20 * lanes,
        "rollout_steps": -(-2 * size // lanes), "epochs": 3, "steps": 5_000, "epsilon_steps": 200, "target_every": 7,
    }  # fmt: skip
    changes = {name: min(limit, known[name]) for name, limit in limits.items() if isinstance(known.get(name), int)}
    if isinstance(known.get("warmup_steps"), int):
        changes["warmup_steps"] = 2 * size  # not less: updates come due while the memory has no batch yet
    if known.get("updates", 0) > 4 and "update_every" in known:
        changes |= {"updates": 4, "update_every": max(1, round(4 * known["update_every"] / known["updates"]))}
    backend = "sync" if recipe.backend == "async" else recipe.backend
    return dataclasses.replace(recipe.here(), **changes, device="cpu", backend=backend)


class Training(Monitor):
    """A recipe built, with the seeds of a run, and trained for some updates at a time; remembers what was seen."""

    def __init__(self, recipe: Any) -> None:
        super().__init__()
        seed_everything(recipe.seed)
        self.recipe = recipe
        self.env = recipe.make_env_here()
        self.agent, self.memory, self.actors = recipe.assemble(self.env)
        self.saved: dict[str, Any] = {}
        self.history: list[Step] = []
        self.emitted: set[str] = set()
        self.batch: Batch | None = None
        self.priorities: list[Tensor] = []  # of the updates since `train` was called last
        self.losses: list[float] = []
        self.deadline = math.inf  # of the process's own time, whatever else the machine does

    def train(self, updates: int) -> Training:
        """So many updates more, then to the end of the burst."""
        self.goal, self.stop = self.updates + updates, False
        self.priorities, self.losses = [], []
        train(self.agent, self.memory, self.actors, steps=self.steps + PATIENCE, monitor=self)
        if not self.stop:
            raise ProtoRLError(f"only {self.updates} updates came due in {self.steps:,} agent steps")
        return self

    def stepped(self, chunk: Chunk) -> None:
        super().stepped(chunk)
        self.history += chunk.steps()
        self.emitted |= set(chunk.extras)

    def updated(self, batch: Batch, update: Update) -> None:
        super().updated(batch, update)
        self.batch = batch
        self.priorities.append(torch.as_tensor(update.priority))
        self.losses += [float(update.metrics["loss"])] if "loss" in update.metrics else []
        self.stop = self.updates >= self.goal or time.process_time() > self.deadline

    def state(self) -> dict[str, Any]:
        """Everything that a run saves."""
        parts = {"agent": self.agent, "memory": self.memory, "actors": self.actors}
        return {**{name: part.state_dict() for name, part in parts.items()}, "torch": torch.get_rng_state()}

    def save(self, folder: Path) -> Verdict:
        """A checkpoint, as at the boundaries of a run."""
        self.actors.rebuild(self.steps)
        Checkpoints(folder).save(self.steps, self.state(), self.memory)
        self.saved = self.everything(learned=False)
        return True, "it is saved"

    def load(self, folder: Path) -> None:
        """Back from the checkpoint."""
        self.steps, state, _ = Checkpoints(folder).load(rows=self.memory)
        for name in ("agent", "memory", "actors"):
            getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["torch"])

    def everything(self, *, learned: bool = True) -> dict[str, Any]:
        """All that this training holds, by name: the agent's own attributes, what memory and actors say of themselves, and (if
        `learned`) what the last updates gave."""
        run = {
            "memory": self.memory.state_dict(),
            "actors": self.actors.state_dict(),
            "rows": self.memory.rows(self.memory.oldest()),
            "torch_random_state": torch.get_rng_state(),
        } | ({"losses": self.losses, "priorities": self.priorities} if learned else {})
        return Contents(self.agent, "agent", saved=True).frozen() | Contents(run, "run").frozen()

    def close(self) -> None:
        self.actors.close()


def seed_everything(seed: int) -> None:
    torch.manual_seed(rng.integer(seed, "torch"))
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a person's code may draw from it
    random.seed(seed)


@contextmanager
def rebound(thing: Any, **methods: Any) -> Iterator[None]:
    """Inside, `thing` has these methods."""
    before = {name: vars(thing).get(name) for name in methods}
    for name, method in methods.items():
        setattr(thing, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:
                delattr(thing, name)
            else:
                setattr(thing, name, method)
