"""What a training will come to, in numbers, before it begins: whether it can learn, and what never happens in it."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

from protorl.agents import Agent
from protorl.data import EnvSpec, Linear, ProtoRLError
from protorl.memory import Replay, Starts, plan_memory
from protorl.memory.storage import human_bytes
from protorl.recipes.experiment import Experiment

FEW_UPDATES, FEW_BURSTS = 100, 10
"""Fewer than these are hardly a training."""
MUCH_MEMORY = 1e9
"""Bytes of a memory that never fills that are worth a word."""


class Plan(NamedTuple):
    """What so many agent `steps` bring."""

    steps: int
    updates: int
    bursts: int  # of updates, one after the other
    first: int  # agent steps before the first of them is due
    starts: Starts  # of examples


def plan(recipe: Experiment, memory: Replay) -> Plan:
    """The plan of a training with this memory, by its rate."""
    rate, lanes = memory.rate, memory.storage.lanes
    updates = memory.expected(-(-recipe.steps // lanes) * lanes)  # all environments take the last step
    first = (max(rate.start, memory.batch_size - 1, memory.idle) // rate.every + 1) * rate.every
    return Plan(recipe.steps, updates, updates // rate.updates, first, memory.view.starts)


def foresee(recipe: Experiment, agent: Agent, memory: Replay, spec: EnvSpec) -> None:
    """Warn of what the plan leaves out. Raises: ProtoRLError where nothing would be learned."""
    made = plan(recipe, memory)
    if not made.updates:
        raise ProtoRLError(
            f"nothing would be learned in {made.steps:,} steps: the first update comes with step {made.first:,} "
            f"({waits(recipe)}): use more --steps, or lower what it waits for"
        )
    for sentence in warnings(recipe, agent, made, spec):
        logging.getLogger("protorl").warning(f"warning: {sentence}")


def warnings(recipe: Experiment, agent: Agent, made: Plan, spec: EnvSpec) -> list[str]:
    """A sentence for everything that never, or hardly, happens."""
    fields, steps = values(recipe), made.steps
    said = []
    if made.updates < FEW_UPDATES or made.bursts < FEW_BURSTS or made.first > 0.75 * steps:
        bursts = f" in {made.bursts:,} bursts" if 1 < made.bursts < made.updates else ""
        said.append(
            f"only {made.updates:,} updates{bursts} come in {steps:,} steps, the first with step {made.first:,} "
            f"({waits(recipe)}): use more --steps, or lower what they wait for"
        )
    for name, what in (("target_every", "the target network never follows"), ("delay", "the actor never learns")):
        if (every := fields.get(name, 0)) > made.updates:
            said.append(f"{what}: {name} {every:,} exceeds the {made.updates:,} updates that {steps:,} steps bring: lower it")
    if {"epsilon_start", "epsilon_end", "epsilon_steps"} <= fields.keys():
        start, end, length = (fields[f"epsilon_{part}"] for part in ("start", "end", "steps"))
        reached = Linear(start, end, length)(steps - fields.get("epsilon_after", 0))
        if reached - end > 0.1 * (start - end) > 0:
            said.append(
                f"epsilon falls to {reached:.2g} and not to {end:g}: epsilon_steps {length:,} exceeds the {steps:,} steps: "
                f"use --epsilon-steps {max(steps // 5, 1)}"
            )
    if recipe.eval_every > steps:
        said.append(
            f"no evaluation comes before the last step: eval_every {recipe.eval_every:,} exceeds the {steps:,} steps: "
            f"use --eval-every {max(steps // 10, 1)} to keep the best weights"
        )
    if (capacity := fields.get("capacity", 0)) > steps:
        whole, used = (plan_memory(agent.columns(spec), rows, starts=made.starts).total for rows in (capacity, steps))
        if whole > max(MUCH_MEMORY, 2 * used):
            said.append(
                f"the memory never fills: capacity {capacity:,} takes {human_bytes(whole)}, of which {steps:,} steps use "
                f"{human_bytes(used)}: use --capacity {steps}"
            )
    return said


def values(recipe: Experiment) -> dict[str, Any]:
    """The fields that are numbers, by name."""
    found = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def waits(recipe: Experiment) -> str:
    """The numbers by which the first update waits: "warmup_steps 10,000"."""
    fields = values(recipe)
    if "rollout_steps" in fields:
        names = ["rollout_steps", "num_envs"]
    else:
        least = max(("warmup_steps", "batch_size"), key=lambda name: fields.get(name, 0))
        names = [least, "update_every"] if fields.get("update_every", 1) > 1 else [least]
    return ", ".join(f"{name} {fields[name]:,}" for name in names if name in fields)
