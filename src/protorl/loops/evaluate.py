"""Evaluation: whole episodes without exploration, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    evaluation's limit: their returns are what they had brought until then. members: of a team, the returns of each agent by
    name, of which those of the team are the sums."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    cut: int = 0
    members: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

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
    team = env.spec.team
    tally = Tally(env.num_envs // env.spec.rows_each, episodes, limit, () if team is None else team.agents)
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
    members = {name: tuple(one[name] for one in tally.members) for name in tally.names}
    return Evaluation(tuple(tally.returns), tuple(tally.lengths), tally.cut, members)


class Tally:
    """The episodes of an evaluation as they end, and how many each environment still owes.

    An episode that reaches `limit` steps counts as it stands. Its environment goes on unheeded until it ends by itself, or
    until all that owe episodes are in its place: then new episodes begin everywhere. names: of a team's agents.
    """

    def __init__(self, num_envs: int, episodes: int, limit: int | None, names: Sequence[str] = ()) -> None:
        self.limit = np.inf if limit is None else limit
        self.owed = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.cut = 0
        self.names = tuple(names)
        self.members: list[Mapping[str, float]] = []
        self.begin()

    def begin(self) -> None:
        """Every environment starts an episode."""
        n = len(self.owed)
        self.gained, self.lasted = np.zeros((n, max(len(self.names), 1))), np.zeros(n, np.int64)

    def stuck(self) -> bool:
        """Whether all that owe episodes are in one that was cut."""
        return bool((self.lasted >= self.limit)[self.owed > 0].all())

    def add(self, step: Step, finished: Sequence[Finished]) -> None:
        """What a step revealed, and the episodes that ended in it."""
        for episode in finished:
            if episode.length <= self.limit:
                self.count(episode.env, episode.ret, episode.length, episode.members)
        n, over = len(self.owed), [episode.env for episode in finished]
        valid = step.valid.reshape(n, -1).any(1)  # of a team's lanes, those that live
        self.gained += step.reward.reshape(n, -1)
        self.lasted += valid
        self.gained[over] = self.lasted[over] = 0
        for row in np.flatnonzero(valid & (self.lasted == self.limit)).tolist():
            members = dict(zip(self.names, self.gained[row].tolist()))
            self.cut += self.count(row, float(self.gained[row].sum()), int(self.lasted[row]), members)

    def count(self, row: int, ret: float, length: int, members: Mapping[str, float]) -> bool:
        """An episode, if its environment owes one; whether it does."""
        owed = bool(self.owed[row] > 0)
        if owed:
            self.owed[row] -= 1
            self.returns.append(ret)
            self.lengths.append(length)
            self.members.append(members)
        return owed
