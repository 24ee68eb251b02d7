"""Do workers build their part of a recipe, and give what one process gives?"""

from __future__ import annotations

import dataclasses
import multiprocessing
from contextlib import closing
from typing import Any

import torch

from protorl.accelerate import accelerate
from protorl.recipes.checks.contents import Contents, difference, told
from protorl.recipes.checks.finding import Verdict
from protorl.recipes.checks.training import Training, short
from protorl.recipes.plan import counted


def workers_agree(recipe: Any, updates: int) -> Verdict:
    """Workers in lockstep, which find the recipe again by its name and fields, lead to the weights and the memory of a training
    in one process; afterwards none is left."""
    workers = recipe.processes
    if not workers:
        return None, "no workers act (--actors N)"
    lanes = max(recipe.num_envs, workers)
    chunk = max(1, recipe.update_every // lanes)  # from one burst of updates to the next: weights of one age everywhere
    rate = {"num_envs": lanes, "chunk_steps": chunk, "update_every": chunk * lanes, "overlap": False}
    alone = dataclasses.replace(short(recipe), lockstep=True, **rate)
    before = set(multiprocessing.active_children())
    with closing(Training(alone)) as one:
        accelerate(one.agent)  # as workers do
        one.train(updates)
        seen, draws = learned(one), draws_from_torch(one)
    with closing(Training(dataclasses.replace(alone, workers=workers))) as other:
        accelerate(other.agent)
        other.train(updates)
        steps, elsewhere = other.steps, learned(other)
    if left := set(multiprocessing.active_children()) - before:
        return False, f"{len(left)} of {workers} worker processes did not end"
    said = f"{workers} built their part and ended, after {steps:,} steps"
    if draws:
        return True, f"{said}; {draws} draws from torch's generator, of which each process has its own: not compared"
    if path := difference(seen, elsewhere):
        here = f"and {told(seen, path)} in one process"
        return False, f"{path} is {told(elsewhere, path)} with {counted(workers, 'worker')}, {here}"
    return True, f"{said}: {len(seen):,} values are equal"


def learned(training: Training) -> dict[str, Any]:
    """What the learner has: all of the agent but its policy, which acts elsewhere, and the memory."""
    memory = training.memory
    agent = {name: value for name, value in training.agent.state_dict().items() if name != "policy"}
    return Contents({"agent": agent, "memory": memory.state_dict(), "rows": memory.rows(memory.oldest())}, "run").frozen()


def draws_from_torch(training: Training) -> str | None:
    """What of an actor's work draws from torch's generator."""
    agent, batch = training.agent, training.batch
    before = torch.get_rng_state()
    agent.act(training.env.seen, agent.initial_carry(training.env.num_envs), explore=True)
    if not torch.equal(before, torch.get_rng_state()):
        return "acting"
    if training.recipe.judged and batch is not None:
        agent.drawn(batch)
    return None if torch.equal(before, torch.get_rng_state()) else "judging a step"
