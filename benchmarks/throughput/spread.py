"""What learners of teams are measured with: simple_spread alone, mpe2's and VMAS's, and turns of several contenders in one
process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

CYCLES = 25
"""Steps of an episode."""
Turn = Callable[[int], object]
"""Takes so many steps of the team."""


def simulator(state: bool = False) -> Turn:
    """Random play. state: the common state is asked for, too, as by who learns from it."""
    from mpe2 import simple_spread_v3

    env, rng = simple_spread_v3.parallel_env(max_cycles=CYCLES), np.random.default_rng(0)
    env.reset(seed=0)

    def turn(steps: int) -> None:
        for _ in range(steps):
            env.step({agent: int(rng.integers(5)) for agent in env.agents})
            if state:
                env.state()
            if not env.agents:
                env.reset()

    return turn


def vectorised(envs: int) -> Turn:
    """Random play in so many environments of VMAS's simple_spread at once."""
    import torch
    import vmas

    env = vmas.make_env("simple_spread", envs, continuous_actions=False, max_steps=CYCLES, seed=0, terminated_truncated=True)
    env.reset()

    def turn(steps: int) -> None:
        for _ in range(steps // envs):
            *_, truncated, _ = env.step([torch.randint(5, (envs, 1)) for _ in env.agents])
            if truncated.all():
                env.reset()

    return turn


def measured(contenders: Mapping[str, Turn], first: int, steps: int, turns: int) -> dict[str, Any]:
    """Each takes its turn of `steps`, again and again, after one of `first` in which everything is made ready. Medians over
    turns, and the processor time of each."""
    for turn in contenders.values():
        turn(first)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, turn in contenders.items():
            begin, used = time.perf_counter(), time.process_time()
            turn(steps)
            seconds[name].append((time.perf_counter() - begin) / steps)
            cpu[name].append((time.process_time() - used) / steps)
    return {
        name: {
            "steps_per_second": round(1 / float(np.median(seconds[name]))),
            "cpu_us_per_step": round(1e6 * float(np.median(cpu[name])), 1),
            "each_us_per_step": [round(1e6 * value, 1) for value in cpu[name]],
        }
        for name in contenders
    }
