"""Evaluation: whole episodes without exploration, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from protorl.actors.actors import Acts, Environments
from protorl.actors.carry import carry_leaves, initial_carry, restarted
from protorl.data import Finished, ProtoRLError, Step

E = TypeVar("E", bound=Environments)


class Stopped(ProtoRLError):  # noqa: N818 - it is not a mistake
    """Somebody asked the evaluation to stop before it was over."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted raw returns and lengths (agent steps) of complete episodes, but for `cut` of them, which were ended by the
    evaluation's limit: their returns are what they had brought until then."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    cut: int = 0

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    @property
    def remark(self) -> str | None:
        """A sentence about the episodes that were cut, if any were."""
        if not self.cut:
            return None
        return (
            f"{self.cut} of {len(self.returns)} evaluation episodes had not ended after {max(self.lengths):,} steps and were "
            "cut: their returns are of these steps (eval_max_steps changes the limit)"
        )


def evaluate(
    agent: Acts,
    env: E,
    episodes: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    watch: Callable[[E], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Evaluation:
    """Play `episodes` whole episodes with `agent.act(explore=False)`, after `env.reset(seed)`; the agent is left as it was.

    Every environment plays the same number of episodes (give or take one), so that short ones are not preferred. The result is
    a function of weights and seed where `env` is fresh: many a simulator remembers more than a reset puts back.
    limit: agent steps after which an episode is cut; None: never. watch: called with the environment before each step (to
    record a video). stop: asked before each step; Stopped is raised where it says True.
    """
    if episodes < 1:
        raise ProtoRLError(f"episodes {episodes} is too few: evaluate at least 1")
    env.reset(seed)
    env.episodes()  # those of before are nobody's here
    tally = Tally(env.num_envs, episodes, limit)
    carry = initial_carry(agent, env.num_envs)
    carries = bool(carry_leaves(carry))
    while tally.owed.any():
        if stop is not None and stop():
            raise Stopped("the evaluation was stopped")
        if tally.stuck():
            env.reset()
            tally.begin()
        if watch is not None:
            watch(env)
        seen = env.seen
        act = agent.act(seen, restarted(carry, agent, seen.first) if carries else carry, explore=False)
        carry = act.carry
        tally.add(env.step(act.action), env.episodes())
    return Evaluation(tuple(tally.returns), tuple(tally.lengths), tally.cut)


class Tally:
    """The episodes of an evaluation as they end, and how many each environment still owes.

    An episode that reaches `limit` steps counts as it stands. Its environment goes on unheeded until it ends by itself, or
    until all that owe episodes are in its place: then new episodes begin everywhere.
    """

    def __init__(self, num_envs: int, episodes: int, limit: int | None) -> None:
        self.limit = np.inf if limit is None else limit
        self.owed = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.cut = 0
        self.begin()

    def begin(self) -> None:
        """Every environment starts an episode."""
        self.gained, self.lasted = np.zeros(len(self.owed)), np.zeros(len(self.owed), np.int64)

    def stuck(self) -> bool:
        """Whether all that owe episodes are in one that was cut."""
        return bool((self.lasted >= self.limit)[self.owed > 0].all())

    def add(self, step: Step, finished: Sequence[Finished]) -> None:
        """What a step revealed, and the episodes that ended in it."""
        for episode in finished:
            if episode.length <= self.limit:
                self.count(episode.env, episode.ret, episode.length)
        self.gained += step.reward
        self.lasted += step.valid
        self.gained[step.ended] = self.lasted[step.ended] = 0
        for row in np.flatnonzero(step.valid & (self.lasted == self.limit)).tolist():
            self.cut += self.count(row, float(self.gained[row]), int(self.lasted[row]))

    def count(self, row: int, ret: float, length: int) -> bool:
        """An episode, if its environment owes one; whether it does."""
        owed = bool(self.owed[row] > 0)
        if owed:
            self.owed[row] -= 1
            self.returns.append(ret)
            self.lengths.append(length)
        return owed
