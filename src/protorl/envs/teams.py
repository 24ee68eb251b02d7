"""N environments of several agents each, behind the contract of `VecEnv`, in two views.

As lanes, every agent is a row of its own: what a single-agent algorithm learns from then is independent learners, with nothing
new. As teams, a row is an environment, and arrays have an axis over its agents: for algorithms that learn of all at once.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from protorl import rng
from protorl.data import MASK, ActionSpec, Array, ArraySpec, EnvSpec, Obs, ObsSpec, ProtoRLError, State, Step
from protorl.envs import snapshot
from protorl.envs.api import Parallel
from protorl.envs.members import Board, Members, as_lanes, lanes_obs, team_obs
from protorl.envs.parallel import TeamGate, time_limit_of
from protorl.envs.vector import Episode, HostedEnvs
from protorl.processes import CLOSE_SECONDS


class Told(NamedTuple):
    """What a step of N teams brought each agent, [N, M] each: rewards (float64), who died, who was cut off."""

    reward: Array
    over: Array
    cut: Array


class Tables(Protocol):
    """Where N teams play."""

    members: Members
    time_limit: int | None
    exact: bool

    def step(self, action: Array, board: Board, after: Board, told: Told) -> None:
        """Everybody that lives on the board acts, [N, M, *A]; writes a board in which nobody lives yet, and what was told."""

    def reset(self, rows: list[int], seeds: list[int] | None, board: Board) -> None:
        """Episodes begin in these rows of the board."""

    def construct(self) -> None:
        """Build the simulators anew."""

    def render(self) -> object: ...

    def close(self) -> None: ...

    def save(self) -> object: ...

    def load(self, state: Any) -> None: ...


class ParallelTables:
    """Environments of PettingZoo's parallel interface, one after the other in this process. state: the common state is asked
    for, too."""

    def __init__(self, make: Callable[[], Parallel], num_envs: int, id: str, first_row: int, state: bool) -> None:
        self.make, self.asks = make, state
        self.gates = [TeamGate(make(), id, first_row + i, state) for i in range(num_envs)]
        self.members = self.gates[0].members
        self.time_limit = time_limit_of(self.gates[0].env)
        self.exact = all(gate.exact() for gate in self.gates)

    def step(self, action: Array, board: Board, after: Board, told: Told) -> None:
        acts = self.members.natives(action, board.alive)
        for i, gate in enumerate(self.gates):
            gate.step(acts[i], after, i, *told)

    def reset(self, rows: list[int], seeds: list[int] | None, board: Board) -> None:
        for i in rows:
            self.gates[i].reset(None if seeds is None else seeds[i], board, i)

    def construct(self) -> None:
        self.close()
        self.gates = [TeamGate(self.make(), gate.id, gate.row, self.asks) for gate in self.gates]

    def render(self) -> object:
        return self.gates[0].render()

    def close(self) -> None:
        late = time.monotonic() + CLOSE_SECONDS
        for gate in self.gates:
            gate.close(max(late - time.monotonic(), 0.1))

    def save(self) -> object:
        return [gate.state_dict() for gate in self.gates]

    def load(self, state: Any) -> None:
        for gate, one in zip(self.gates, state, strict=True):
            gate.load_state_dict(one)


class Teams(HostedEnvs):
    """What both views share: teams begin, play and end.

    An agent that dies is not alive from then on, and its last step is a true end; a team's episode is over where nobody lives,
    and the next one begins in the same step. time_limit: in steps, in place of the environment's own.
    """

    lanes_view: bool

    def __init__(
        self,
        tables: Tables,
        num_envs: int,
        *,
        id: str,
        seed: int = 0,
        name: str = "env",
        first_row: int = 0,
        time_limit: int | None = None,
    ) -> None:
        self._tables, self._teams, self._members = tables, num_envs, tables.members
        self._agents, self._limit = len(tables.members.names), time_limit
        self._empty = tables.members.board(num_envs)
        self._board: Board | None = None
        limit = tables.time_limit if time_limit is None else time_limit
        spec = self._spec(id, limit, first_row)
        super().__init__(spec, seed=seed, name=name, first_row=first_row, exact=tables.exact)

    def step(self, action: ArrayLike) -> Step:
        obs = self.obs
        before: Any = self._board
        taken, after = self._checked(action), self._empty.copy()
        shape = self._teams, self._agents
        told = Told(np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_))
        self._tables.step(taken.reshape(*shape, *self._members.action.shape), before, after, told)
        self._returns += told.reward
        self._lengths += 1
        if self._limit is not None:
            late = after.alive & (self._lengths >= self._limit)[:, None]
            told.cut[late], after.alive[late] = True, False
        over: Array = ~np.any(after.alive, 1)
        joined = after.alive & ~before.alive
        following = after
        if over.any():
            following = after.copy()
            rows = np.flatnonzero(over).tolist()
            for i in rows:
                members = dict(zip(self._members.names, self._returns[i].tolist()))
                self._finished.append(Episode(float(self._returns[i].sum()), int(self._lengths[i]), i, members))
            self._returns[over], self._lengths[over] = 0.0, 0
            self._tables.reset(rows, None, following)
            joined[over] = following.alive[over]
        self._board = following
        return self._told(obs, taken, before, after, following, told, joined, over)

    @abstractmethod
    def _spec(self, id: str, time_limit: int | None, first_row: int) -> EnvSpec: ...

    @abstractmethod
    def _seen(self, board: Board) -> Obs:
        """What is acted on."""

    @abstractmethod
    def _told(
        self, obs: Obs, taken: Array, before: Board, after: Board, following: Board, told: Told, joined: Array, over: Array
    ) -> Step:
        """The step in this view, and what is seen next. joined [N, M]: whose episode starts; over [N]: teams that ended."""

    def _checked(self, action: ArrayLike) -> Array:
        """The actions, a fresh array. Raises: ProtoRLError unless they are as the spec says."""
        given, spec = np.asarray(action), self.spec.action
        shape, kinds = (self.num_envs, *spec.shape), "f" if spec.kind == "box" else "iu"
        if given.shape != shape or given.dtype.kind not in kinds:
            numbers = "integers" if kinds == "iu" else "floats in [-1, 1]"
            raise ProtoRLError(
                f"actions must be {numbers} of shape {shape}, a row for each {'agent' if self.lanes_view else 'team'}; "
                f"got {given.dtype} of shape {given.shape}"
            )
        return given.astype(spec.dtype)

    def row_seeds(self, *name: str | int) -> list[int]:
        return [rng.integer(self.seed, self.name, self.first_row + i, *name) for i in range(self._teams)]

    def close(self) -> None:
        self._tables.close()

    def _construct(self) -> None:
        self._tables.construct()

    def _reset(self, seeds: list[int] | None) -> Obs:
        board = self._empty.copy()
        self._tables.reset(list(range(self._teams)), seeds, board)
        self._board = board
        return self._seen(board)

    def restart(self, boundary: int) -> None:
        self._board = None
        super().restart(boundary)

    def _begin(self) -> None:
        super()._begin()
        self._returns, self._lengths = np.zeros((self._teams, self._agents)), np.zeros(self._teams, np.int64)

    def _render(self) -> object:
        return self._tables.render()

    def _save(self) -> object:
        return self._tables.save()

    def _load(self, state: Any) -> None:
        self._tables.load(state)

    def _progress(self) -> State:
        board = snapshot.freeze(dict(vars(self._board)))
        return {"returns": snapshot.freeze(self._returns), "lengths": snapshot.freeze(self._lengths), "board": board}

    def _resume(self, progress: State) -> None:
        self._returns, self._lengths = snapshot.thaw(progress["returns"]), snapshot.thaw(progress["lengths"])
        self._board = Board(**snapshot.thaw(progress["board"]))


class Lanes(Teams):
    """Every agent is a row: lane i * M + m is agent m of environment i. One that has died is `pending`, and its rows are not
    valid, until its team begins again. Observations are [N * M, *O], or a dict of "obs" and "action_mask"."""

    lanes_view = True

    def _spec(self, id: str, time_limit: int | None, first_row: int) -> EnvSpec:
        m, members = self._agents, self._members
        obs: ObsSpec = {"obs": members.obs, MASK: flags_spec((members.action.n,))} if members.masked else members.obs
        team = members.spec(lanes=True)
        return EnvSpec(id, obs, members.action, self._teams * m, time_limit, first_lane=first_row * m, team=team)

    def _seen(self, board: Board) -> Obs:
        return lanes_obs(board)

    def _begin(self) -> None:
        super()._begin()
        if self._board is not None:
            self._first = as_lanes(self._board.alive).copy()
            self._pending = ~self._first
            self._waits = bool(self._pending.any())

    def _told(
        self, obs: Obs, taken: Array, before: Board, after: Board, following: Board, told: Told, joined: Array, over: Array
    ) -> Step:
        reward, terminated, truncated = (as_lanes(array) for array in told)
        reward = reward.astype(np.float32)
        first, valid = self._first, as_lanes(before.alive)
        discount = (~terminated).astype(np.float32)
        self._obs, self._action, self._reward = lanes_obs(following), taken, reward
        self._first, self._pending = as_lanes(joined), ~as_lanes(following.alive)
        self._waits = bool(self._pending.any())
        if over.any():
            self._action, self._reward = taken.copy(), reward.copy()
            self._action[self._first], self._reward[self._first] = 0, 0.0
        return Step(obs, taken, reward, discount, terminated, truncated, lanes_obs(after), first, valid)


class AsTeams(Teams):
    """Every environment is a row, with arrays [N, M, ...] over its agents.

    An observation is a dict: "obs" [N, M, *O]; "alive" [N, M], 1 where an agent acts, and at the end of a truncated episode
    where its future counts (that of one that died does not); "state" [N, *S], the environment's own, or else the
    joint observation; and "action_mask" [N, M, A] where there are masks. Actions are [N, M, *A]; what the dead do is not done.
    Rewards are [N, M], 0 for the dead. An episode ends for all: it is truncated where one that lived was cut off.
    """

    lanes_view = False

    def _spec(self, id: str, time_limit: int | None, first_row: int) -> EnvSpec:
        m, members = self._agents, self._members
        one = members.obs
        low, high = (None if bound is None else np.repeat(bound[None], m, 0) for bound in (one.low, one.high))
        self._joint = one.shape[0] - members.ids
        joint = ArraySpec((m * self._joint * int(np.prod(one.shape[1:], dtype=np.int64)),), one.dtype)
        obs = {
            "obs": ArraySpec((m, *one.shape), one.dtype, low, high),
            "alive": flags_spec((m,)),
            "state": joint if members.state is None else members.state,
        }
        if members.masked:
            obs[MASK] = flags_spec((m, members.action.n))
        each = members.action
        low, high = (None if bound is None else np.repeat(bound[None], m, 0) for bound in (each.low, each.high))
        action = ActionSpec(each.kind, (m, *each.shape), each.dtype, each.n, each.nvec, low, high, agents=m)
        team = members.spec(lanes=False)
        return EnvSpec(id, obs, action, self._teams, time_limit, first_lane=first_row, team=team)

    def _seen(self, board: Board) -> Obs:
        return team_obs(board, board.alive, self._joint)

    def _told(
        self, obs: Obs, taken: Array, before: Board, after: Board, following: Board, told: Told, joined: Array, over: Array
    ) -> Step:
        reward = told.reward.astype(np.float32)
        truncated = over & told.cut.any(1)
        terminated = over & ~truncated
        first, self._first = self._first, over
        self._obs, self._action, self._reward = self._seen(following), taken, reward
        if over.any():
            self._action, self._reward = taken.copy(), reward.copy()
            self._action[over], self._reward[over] = 0, 0.0
        next_obs = team_obs(after, after.alive | (told.cut & over[:, None]), self._joint)
        discount, valid = (~terminated).astype(np.float32), np.ones(self._teams, np.bool_)
        return Step(obs, taken, reward, discount, terminated, truncated, next_obs, first, valid)


def flags_spec(shape: tuple[int, ...]) -> ArraySpec:
    """Of 0 and 1."""
    return ArraySpec(shape, np.dtype(np.uint8), np.zeros(shape, np.uint8), np.ones(shape, np.uint8))
