"""Small games for several agents, whose true values are known. Each has an id, "protorl/<Class>-v0".

They speak PettingZoo's parallel interface, and need no package. What a team is paid together is shared equally among its
agents, so that the return of the team, which is their sum, is the pay-off that the paper has. All resume exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from protorl import rng
from protorl.data import Array, ProtoRLError, State
from protorl.envs.api import AnySpace, Info, Options
from protorl.envs.snapshot import freeze, thaw

Answers = tuple[dict[str, Any], ...]
"""What a step gives, by agent: observations, rewards, terminations, truncations, infos."""


class Game:
    """What the games share: agents "agent_0" ..., a step counter `t`, exact snapshots of `remembers`.

    A subclass writes `observe`, `pay` and `ends`.
    """

    remembers: tuple[str, ...] = ("t",)
    time_limit: int | None = None
    render_mode: str | None = None

    def __init__(self, agents: int = 2, obs_size: int = 1, actions: int = 2) -> None:
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.agents: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.obs_size, self.actions, self.t = obs_size, actions, 0
        self.np_random, _ = seeding.np_random(None)

    def observation_space(self, agent: str, /) -> AnySpace:
        return spaces.Box(-np.inf, np.inf, (self.obs_size,), np.float32)

    def action_space(self, agent: str, /) -> AnySpace:
        return spaces.Discrete(self.actions)

    def reset(self, seed: int | None = None, options: Options = None) -> tuple[dict[str, Any], dict[str, Info]]:
        if seed is not None:
            self.np_random, _ = seeding.np_random(seed)
        self.t, self.agents = 0, list(self.possible_agents)
        self.begin()
        return {agent: self.observe(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any], /) -> Answers:
        acted = list(self.agents)
        self.t += 1
        paid = self.pay({agent: self.taken(actions[agent]) for agent in acted})
        over = {agent: self.ends(agent) for agent in acted}
        late = self.t == self.time_limit
        cut = {agent: late and not over[agent] for agent in acted}
        self.agents = [agent for agent in acted if not (over[agent] or cut[agent])]
        seen = {agent: self.observe(agent) for agent in acted}
        return seen, {agent: paid[agent] for agent in acted}, over, cut, {agent: {} for agent in acted}

    def taken(self, action: Any) -> Any:
        """What an agent did: a choice."""
        return int(action)

    def begin(self) -> None:
        """An episode starts."""

    def observe(self, agent: str) -> Array:
        """What an agent sees, at t = 0 and after each step."""
        return np.zeros(self.obs_size, np.float32)

    def pay(self, actions: Mapping[str, Any]) -> Mapping[str, float]:
        """Rewards, after `t` was advanced."""
        raise NotImplementedError

    def ends(self, agent: str) -> bool:
        """Whether the agent dies here."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    def state_dict(self) -> State:
        kept = {name: freeze(getattr(self, name)) for name in self.remembers}
        return {**kept, "agents": list(self.agents), "np_random": rng.pack(self.np_random)}

    def load_state_dict(self, state: State) -> None:
        for name in self.remembers:
            setattr(self, name, thaw(state[name]))
        self.agents = list(state["agents"])
        rng.unpack(self.np_random, state["np_random"])


def shared(payoff: float, agents: Sequence[str]) -> dict[str, float]:
    """A pay-off of the team, in equal parts."""
    return {agent: payoff / len(agents) for agent in agents}


class TwoStepGame(Game):
    """Two steps, two agents, two actions. In the first, agent 0 chooses between state 2A, where every pair of actions pays 7,
    and 2B, where they pay [[0, 1], [1, 8]]; agent 1 does nothing then.

    The best return is 8. The additive fit of 2B under uniformly random play is [[-1.5, 2.5], [2.5, 6.5]], so that VDN chooses
    2A and gets 7. Everybody sees the state one-hot: 1, 2A, 2B, and the end as zeros.
    Source: Rashid et al. 2018 (QMIX), arXiv 1803.11485, section 5 and appendix A.
    """

    remembers = ("t", "at_b")
    at_b = False
    payoffs = ((0.0, 1.0), (1.0, 8.0))

    def __init__(self) -> None:
        super().__init__(agents=2, obs_size=3, actions=2)

    def begin(self) -> None:
        self.at_b = False

    def observe(self, agent: str) -> Array:
        seen = np.zeros(3, np.float32)
        if self.t < 2:
            seen[0 if self.t == 0 else 2 if self.at_b else 1] = 1.0
        return seen

    def state(self) -> Array:
        """The same for all, since everybody sees it."""
        return self.observe("")

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        first, second = actions.values()
        if self.t == 1:
            self.at_b = first == 1
            return shared(0.0, self.possible_agents)
        return shared(self.payoffs[first][second] if self.at_b else 7.0, self.possible_agents)

    def ends(self, agent: str) -> bool:
        return self.t == 2


CLIMBING = ((11.0, -30.0, 0.0), (-30.0, 7.0, 6.0), (0.0, 0.0, 5.0))


class MatrixGame(Game):
    """One step, two agents; `payoff` [rows, columns]: what the team gets, agent 0 choosing the row and agent 1 the column.

    The default is the climbing game, whose best pay-off, 11, lies beside the worst. Both see a single 0.
    Raises ProtoRLError unless `payoff` is a table of numbers. Source: Claus and Boutilier 1998, "The dynamics of reinforcement
    learning in cooperative multiagent systems", AAAI.
    """

    def __init__(self, payoff: Sequence[Sequence[float]] = CLIMBING) -> None:
        super().__init__(agents=2)
        try:
            self.payoff = np.array(payoff, np.float64)
        except (ValueError, TypeError):
            self.payoff = np.zeros(0)
        if self.payoff.ndim != 2 or not self.payoff.size:
            raise ProtoRLError(f"payoff {payoff!r} is no table: give a row of numbers for each action of agent 0")

    def action_space(self, agent: str, /) -> AnySpace:
        return spaces.Discrete(self.payoff.shape[self.possible_agents.index(agent)])

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        return shared(float(self.payoff[tuple(actions.values())]), self.possible_agents)


class OpposedTargets(Game):
    """One step. All see the same; agent i is paid 1 for action i and -1 for any other. Q_i(a) = 1 where a = i, else -1: only an
    agent that knows which one it is can be right."""

    def __init__(self, agents: int = 2) -> None:
        super().__init__(agents, actions=agents)

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        return {agent: 1.0 if action == self.possible_agents.index(agent) else -1.0 for agent, action in actions.items()}


class OthersReward(Game):
    """One step. An agent is paid what the other one does, 0 or 1, and nothing for its own action. Against a partner that plays
    1 with probability p, Q(0) = Q(1) = p: each action is worth the same, and that is what the other one does."""

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        first, second = self.possible_agents
        return {first: float(actions[second]), second: float(actions[first])}


class EarlyDeath(Game):
    """Every step pays 1 to each that lives. Agent 1 dies after 2 steps, agent 0 after 4, and both see how many have passed.
    V_0(t) = (1 - gamma^(4 - t)) / (1 - gamma), V_1(t) = (1 - gamma^(2 - t)) / (1 - gamma): nothing of the steps after its death
    reaches an agent."""

    lives = (4, 2)

    def observe(self, agent: str) -> Array:
        return np.array([self.t], np.float32)

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        return dict.fromkeys(actions, 1.0)

    def ends(self, agent: str) -> bool:
        return self.t == self.lives[self.possible_agents.index(agent)]


class TeamTimeLimit(Game):
    """P6 for a team. One state, reward 1 for each for ever, truncated every 10 steps. Q = 1 / (1 - gamma) for each, 10 at
    gamma = 0.9; who takes the limit for an end finds 5.26."""

    time_limit = 10

    def pay(self, actions: Mapping[str, int]) -> Mapping[str, float]:
        return dict.fromkeys(actions, 1.0)

    def ends(self, agent: str) -> bool:
        return False


class Apart(Game):
    """One step, two agents, a number in [-1, 1] each. They should be 0.5 apart, agent 0 above: the team gets 1 - (a_0 - a_1 -
    0.5)², half for each, so that Q_i(a_0, a_1) is half of that. What an action is worth depends on the other one's: against one
    that is uniformly random, with mean 0 and variance 1/3, Q_0(a) = (1 - (a - 0.5)² - 1/3) / 2 and Q_1(a) = Q_0(-a)."""

    def action_space(self, agent: str, /) -> AnySpace:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def taken(self, action: Any) -> Any:
        return float(action[0])

    def pay(self, actions: Mapping[str, float]) -> Mapping[str, float]:
        above, below = actions.values()
        return shared(1 - (above - below - 0.5) ** 2, self.possible_agents)


GAMES: dict[str, type[Game]] = {
    f"protorl/{game.__name__}-v0": game
    for game in (TwoStepGame, MatrixGame, OpposedTargets, OthersReward, EarlyDeath, TeamTimeLimit, Apart)
}
