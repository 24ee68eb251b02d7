"""One environment of several agents, of PettingZoo's parallel interface, behind a gate: its answers are in order, or refused by
environment, row, agent and field."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from protorl.data import MASK, Array, ProtoRLError, State
from protorl.envs.answers import Refused, as_array, flag, number, refuse
from protorl.envs.api import AnyEnv, AnySpace, Info, Options, Parallel
from protorl.envs.gate import close, failed
from protorl.envs.members import Board, Members
from protorl.processes import CLOSE_SECONDS, FAILURES


class IsTeam(ProtoRLError):  # noqa: N818 - it says what was found
    """What was made has several agents."""

    def __init__(self, made: object) -> None:
        super().__init__(
            f"{made} has several agents: make_vec_envs makes such environments, and steps them in this process (backend sync); "
            "make_env makes none"
        )
        self.made = made


def has_several(made: object) -> bool:
    """Whether this is an environment of several agents, of any interface that is understood here."""
    if hasattr(made, "possible_agents") and hasattr(made, "step"):
        return True
    space = getattr(made, "action_space", None)
    return isinstance(made, gymnasium.Env) and isinstance(space, spaces.Tuple)


def parallel(made: Any) -> Parallel:
    """It as agents that act at the same time. Those that take turns go through PettingZoo's own conversions.

    Raises: ProtoRLError where it cannot be.
    """
    if isinstance(made, gymnasium.Env):
        return TupleTeam(made)
    if not hasattr(made, "agent_iter"):
        checked: Parallel = made
        return checked
    from pettingzoo.utils import conversions  # whoever has such an environment has the package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about attributes that not every environment has
        if made.metadata.get("is_parallelizable", False):
            found: Parallel = conversions.aec_to_parallel(made)
        else:
            found = conversions.turn_based_aec_to_parallel(made)
    return found


class TupleTeam:
    """A Gymnasium environment whose spaces are Tuples with an entry per agent, and whose rewards are a list, as that of
    Level-Based Foraging. All live until the episode ends."""

    def __init__(self, env: AnyEnv) -> None:
        observation, action = env.observation_space, env.action_space
        if not isinstance(observation, spaces.Tuple) or not isinstance(action, spaces.Tuple):
            raise ProtoRLError(f"{env} has actions for several agents, but one observation: give each its own, in a Tuple")
        self.env, self.metadata, self.render_mode = env, env.metadata, env.render_mode
        self.possible_agents = [f"agent_{i}" for i in range(len(action.spaces))]
        self.agents: list[str] = []
        self.seen, self.done = (dict(zip(self.possible_agents, space.spaces)) for space in (observation, action))

    def observation_space(self, agent: str, /) -> AnySpace:
        return self.seen[agent]

    def action_space(self, agent: str, /) -> AnySpace:
        return self.done[agent]

    def reset(self, seed: int | None = None, options: Options = None) -> tuple[dict[str, Any], dict[str, Info]]:
        seen, _ = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self.each(seen), self.each([{}] * len(self.agents))

    def step(self, actions: dict[str, Any], /) -> tuple[dict[str, Any], ...]:
        given = tuple(actions[agent] for agent in self.possible_agents)
        seen, rewards, terminated, truncated, _ = self.env.step(given)
        over, cut = bool(np.all(terminated)), bool(np.all(truncated))
        if over or cut:
            self.agents = []
        n = len(self.possible_agents)
        return self.each(seen), self.each(rewards), self.each([over] * n), self.each([cut] * n), self.each([{}] * n)

    def each(self, values: Any) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


class TeamGate:
    """One parallel environment: row `row` of `id`. state: the common state is asked for, too.

    Raises: ProtoRLError where it failed, or answered what PettingZoo's interface does not know.
    """

    def __init__(self, env: Parallel, id: str, row: int, state: bool) -> None:
        self.env: Any = env
        self.id, self.row, self.asks = id, row, state
        self.keys = list(env.possible_agents)
        self.places = {key: i for i, key in enumerate(self.keys)}
        if not self.keys:
            raise ProtoRLError(f"{id} has no possible_agents: a team has at least one")
        observation = [env.observation_space(key) for key in self.keys]
        masks = any(isinstance(space, spaces.Dict) and MASK in space.spaces for space in observation)
        example: Array | None = None
        try:  # what no space tells is seen in an episode that nobody plays
            _, infos = env.reset(seed=0)
            masks = masks or any(MASK in info for info in infos.values())
            example = self.common()
        except FAILURES as error:
            raise failed(id, "reset", f"row {row}", error) from error
        action = [env.action_space(key) for key in self.keys]
        self.members = Members(tuple(map(str, self.keys)), observation, action, masks, example)

    def common(self) -> Array | None:
        """The common state, as float32; None where there is none."""
        if not self.asks or not hasattr(self.env, "state"):
            return None
        try:
            given = self.env.state()
        except (NotImplementedError, AttributeError, TypeError):  # PettingZoo's ways to say that there is none
            return None
        state = as_array(given)
        if state is None or state.dtype.kind not in "biuf":
            refuse("state", given, "numbers")
        return np.asarray(state, np.float32)

    def reset(self, seed: int | None, board: Board, i: int) -> None:
        """An episode begins; what is seen goes to row i of the board."""
        members = self.members
        try:
            answer: Any = self.env.reset(seed=seed)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise Refused("it returns one thing where observations and infos, two dicts by agent, belong")
            seen, infos = answer
            board.obs[i], board.alive[i] = members.blank, False
            if board.mask is not None:
                board.mask[i] = members.may
            for key in self.env.agents:
                member = self.places[key]
                board.alive[i, member] = True
                members.write(board, i, member, entry(seen, key, "observation"), infos.get(key, {}))
            if board.state is not None:
                board.state[i] = self.common()
        except FAILURES as error:
            raise failed(self.id, "reset", f"row {self.row}", error) from error

    def step(self, actions: list[Any], board: Board, i: int, reward: Array, over: Array, cut: Array) -> None:
        """One step with an action for each that lives (None: who does not). Writes row i of a board in which nobody is, and of
        [N, M] rewards and ends. Raises: ProtoRLError."""
        members, env = self.members, self.env
        try:
            acts = {key: action for key, action in zip(self.keys, actions) if action is not None}
            answer: Any = env.step(acts)
            if not isinstance(answer, tuple) or len(answer) != 5:
                raise Refused("it returns other things than observations, rewards, terminations, truncations, infos, by agent")
            seen, rewards, terminations, truncations, infos = answer
            living = set(env.agents)
            for key in acts:
                member = self.places[key]
                reward[i, member] = number(f"reward of {key}", entry(rewards, key, "reward"))
                dies = flag(f"termination of {key}", entry(terminations, key, "termination"))
                ends = flag(f"truncation of {key}", entry(truncations, key, "truncation"))
                if key not in living and not (dies or ends):
                    raise Refused(f"{key} is no longer among the agents, and was neither terminated nor truncated")
                over[i, member], cut[i, member] = dies, ends and not dies  # who dies at the time limit is dead
                if not dies or key in seen:
                    members.write(board, i, member, entry(seen, key, "observation"), infos.get(key, {}))
            for key in env.agents:
                member = self.places[key]
                board.alive[i, member] = not (over[i, member] or cut[i, member])
                if key not in acts:  # it joins
                    members.write(board, i, member, entry(seen, key, "observation"), infos.get(key, {}))
            if board.state is not None:
                board.state[i] = self.common()
        except FAILURES as error:
            raise failed(self.id, "step", f"row {self.row}", error) from error

    def exact(self) -> bool:
        """Whether it offers a snapshot of its own."""
        kind = type(self.env)
        return hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")

    def guarded(self, doing: str, function: Callable[..., Any], *given: Any) -> Any:
        """What a function of the environment gives. Raises: ProtoRLError where it fails."""
        try:
            return function(*given)
        except FAILURES as error:
            raise failed(self.id, doing, f"row {self.row}", error) from error

    def state_dict(self) -> State:
        """Its snapshot."""
        state: State = self.guarded("state_dict", lambda: self.env.state_dict())
        return state

    def load_state_dict(self, state: State) -> None:
        """Go on where `state_dict` was."""
        self.guarded("load_state_dict", lambda: self.env.load_state_dict(state))

    def render(self) -> object:
        """A picture; None where it was made without `render_mode`."""
        if getattr(self.env, "render_mode", None) is None:
            return None
        return self.guarded("render", lambda: self.env.render())

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Release what the environment holds."""
        close(self.env.close, self.id, f"row {self.row}", seconds)


def entry(answers: Mapping[Any, Any], key: Any, field: str) -> Any:
    """An agent's own of what is told of all. Raises: Refused where there is none."""
    if key not in answers:
        raise Refused(f"there is no {field} of {key}")
    return answers[key]


def time_limit_of(env: Any) -> int | None:
    """The limit that an environment tells of, in its own ways."""
    inner = getattr(env, "unwrapped", env)
    for holder in (env, inner, getattr(getattr(env, "env", None), "unwrapped", None)):
        for name in ("time_limit", "max_cycles", "_max_episode_steps"):
            limit = getattr(holder, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return None
