"""Evaluation: whole episodes without exploration, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from protorl.actors.actors import Acts, Environments
from protorl.actors.carry import carry_leaves, initial_carry, restarted
from protorl.data import ProtoRLError

E = TypeVar("E", bound=Environments)


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted raw returns and lengths (agent steps) of complete episodes."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))


def evaluate(agent: Acts, env: E, episodes: int, *, seed: int = 0, watch: Callable[[E], None] | None = None) -> Evaluation:
    """Play `episodes` whole episodes with `agent.act(explore=False)`, after `env.reset(seed)`; the agent is left as it was.

    Every environment plays the same number of episodes (give or take one), so that short ones are not preferred.
    watch: called with the environment before each step (to record a video).
    """
    if episodes < 1:
        raise ProtoRLError(f"episodes {episodes} is too few: evaluate at least 1")
    env.reset(seed)
    env.episodes()  # those of before are nobody's here
    quota = np.full(env.num_envs, episodes // env.num_envs) + (np.arange(env.num_envs) < episodes % env.num_envs)
    carry = initial_carry(agent, env.num_envs)
    carries = bool(carry_leaves(carry))
    returns: list[float] = []
    lengths: list[int] = []
    while len(returns) < episodes:
        if watch is not None:
            watch(env)
        seen = env.seen
        act = agent.act(seen, restarted(carry, agent, seen.first) if carries else carry, explore=False)
        carry = act.carry
        env.step(act.action)
        for episode in env.episodes():
            if quota[episode.env] > 0:
                quota[episode.env] -= 1
                returns.append(episode.ret)
                lengths.append(episode.length)
    return Evaluation(tuple(returns), tuple(lengths))
