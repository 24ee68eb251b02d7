"""How fast a recipe learns on this machine: what `protorl doctor` reports, and what chooses a device for small networks."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch

from protorl.accelerate import SETTLED, accelerate
from protorl.data import written
from protorl.recipes.experiment import Experiment

Row = dict[str, Any]
FOR_A_GPU = 1.2
"""Times as fast as the processor that a GPU must be for small networks to go there."""


def faster_device(recipe: Experiment, window: float = 0.3) -> tuple[str, str]:
    """The device where acting and learning take less time per agent step, and a sentence that says so.

    Each is measured in the mode that a training of this length would use there ("auto"), compiled for that if need be, which
    the training then finds done.
    """
    times: dict[str, float] = {}
    with kept_threads(), quiet():
        for device in ("cpu", "cuda"):
            here = dataclasses.replace(recipe, device=device)
            times[device] = seconds_per_step(learning_speed(here, here.accelerate, here.precision, window), here)
    device = "cuda" if FOR_A_GPU * times["cuda"] < times["cpu"] else "cpu"
    what = "learning takes" if recipe.processes else "acting and learning take"
    why = f"{what} {times['cpu'] * 1e3:.2f} ms a step on the processor, {times['cuda'] * 1e3:.2f} on the GPU"
    return device, why


def seconds_per_step(row: Row, recipe: Experiment) -> float:
    """Learning, and acting unless workers do it, per agent step."""
    acting = 0.0 if recipe.processes else 1 / (row["acts_per_second"] * recipe.num_envs)
    return float(row["updates_per_step"] / row["updates_per_second"] + acting)


def learning_speed(recipe: Experiment, mode: str, precision: str, window: float) -> Row:
    """Updates and acting calls per second of a recipe's agent in one mode; "auto": what its training would use."""
    recipe = smaller(recipe.here())
    with closing(recipe.make_env()) as env:
        agent, memory, actors = recipe.assemble(env)
        accelerate(agent, mode, precision, updates=memory.expected(recipe.steps))
        observe = written(agent, "observe")
        while not memory.due():
            for chunk in actors.poll():
                if observe is not None:
                    for step in chunk.steps():
                        observe(step)
                memory.add(chunk)
        batch = memory.sample()
        carry = agent.initial_carry(env.num_envs)
        begin = time.perf_counter()
        for _ in range(SETTLED):
            agent.update(batch)
        setup = time.perf_counter() - begin
        return {
            "device": agent.device.type,
            "threads": torch.get_num_threads(),
            "setup_seconds": round(setup, 2),
            "updates_per_second": per_second(lambda: agent.update(batch), window),
            "acts_per_second": per_second(lambda: agent.act(env.seen, carry, explore=True), window / 2),
            "updates_per_step": memory.rate.updates / memory.rate.every,
        }


def smaller(recipe: Experiment) -> Experiment:
    """The recipe with the least memory and the shortest wait that its batch allows; an update costs the same."""
    size = getattr(recipe, "batch_size", 1)
    short = {"capacity": 10 * size + 1_000, "warmup_steps": 2 * size, "rollout_steps": -(-size // recipe.num_envs)}
    known = {field.name for field in dataclasses.fields(recipe)}
    return dataclasses.replace(
        recipe, **{name: min(value, getattr(recipe, name)) for name, value in short.items() if name in known}
    )


def per_second(call: Callable[[], object], window: float) -> float:
    """Calls per second, over at least `window` seconds, after one that does not count."""
    wait: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    call()
    wait()
    count, begin = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - begin < window:
        call()
        count += 1
    wait()
    return count / (time.perf_counter() - begin)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the library reports nothing: what is built for a measurement is nobody's memory."""
    logger = logging.getLogger("protorl")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def kept_threads() -> Iterator[None]:
    """Building an agent sets torch's threads; afterwards they are as they were."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
