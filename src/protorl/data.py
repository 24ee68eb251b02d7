"""What travels between the parts: specifications, steps, batches, schedules, and the errors meant for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Obs: TypeAlias = "Array | dict[str, Array]"
TensorObs: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"
Carry: TypeAlias = "Array | torch.Tensor | Mapping[str, Carry] | Sequence[Carry]"
"""What an agent keeps between steps: any tree of arrays and tensors, row i of each belonging to environment row i."""
State: TypeAlias = dict[str, Any]


class ProtoRLError(Exception):
    """A mistake or a condition that one clear sentence explains; the command line prints it without a traceback."""


class NotFinite(ProtoRLError):  # noqa: N818 - it says what happened
    """A number without which nobody can learn is infinite or NaN: what came of it is not worth saving. batch: where it was."""

    def __init__(self, sentence: str, batch: Batch | None = None) -> None:
        super().__init__(sentence)
        self.batch = batch


@runtime_checkable
class Stateful(Protocol):
    """Whatever remembers: its `state_dict` is a tree of tensors, arrays, numbers, strings, lists and dicts."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@dataclass(frozen=True)
class ArraySpec:
    """One observation array of one environment: shape, dtype, bounds, and how its frames are stacked.

    `frame_stack` is the number k of consecutive frames along the first axis (1: not stacked). `stack_padding` says what
    fills a stack when an episode begins: "reset" repeats the first frame, "zero" puts zeros.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    low: Array | None = field(default=None, compare=False, repr=False)
    high: Array | None = field(default=None, compare=False, repr=False)
    frame_stack: int = 1
    stack_padding: str = "reset"

    @property
    def pixels(self) -> bool:
        """Whether these are image values in 0..255, channels first."""
        return self.dtype == np.uint8 and len(self.shape) == 3

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def row(self) -> ArraySpec:
        """Of the first row alone, along the first axis."""
        low, high = (None if bound is None else bound[0] for bound in (self.low, self.high))
        return replace(self, shape=self.shape[1:], low=low, high=high)


ObsSpec: TypeAlias = "ArraySpec | dict[str, ArraySpec]"


@dataclass(frozen=True)
class ActionSpec:
    """What one environment accepts.

    kind "discrete": integers 0..n-1, shape (); "multidiscrete": `nvec` integers, shape (len(nvec),); "box": floats in
    [-1, 1], shape as the environment's: the environment's own bounds `low`, `high` are applied once, at its edge. Numbers
    that are `unbounded` are not scaled there. Of a team, `agents` is how many there are, along the first axis of the shape.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    n: int = 0
    nvec: tuple[int, ...] = ()
    low: Array | None = field(default=None, compare=False, repr=False)
    high: Array | None = field(default=None, compare=False, repr=False)
    agents: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers an action has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def unbounded(self) -> Array:
        """[*A] bool: numbers without a range to speak of, because a bound is infinite or their distance overflows."""
        if self.low is None or self.high is None:
            return np.zeros(self.shape, np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):
            return ~np.isfinite(self.high - self.low)

    def uniform(self, u: Array, available: Array | None = None) -> Array:
        """Uniformly random actions [N, *A] from uniform numbers in [0, 1): [N, `numbers`]. available: [..., n], not 0 where a
        discrete action may be taken (None: everywhere)."""
        u = u.reshape(len(u), *self.shape)
        if available is not None:
            there = available != 0
            place = (u * there.sum(-1)).astype(np.int64)  # the how-manieth of those that are there
            chosen: Array = (there.cumsum(-1) > place[..., None]).argmax(-1)
            return chosen
        if self.kind == "discrete":
            u = u * self.n
        elif self.kind == "multidiscrete":
            u = u * np.array(self.nvec)
        else:
            u = 2 * u - 1
        return u.astype(self.dtype)


MASK = "action_mask"
"""The entry of an observation that tells which discrete actions are available: [..., n] uint8, 0 where one is not."""


@dataclass(frozen=True)
class TeamSpec:
    """Who plays together in one environment: M agents, in the order of every axis over them.

    `kinds` [M]: agents with the same number have the same observations and actions. `sizes` [M]: how many numbers of an
    observation vector are an agent's own; what follows is padding, and then, for teams of more than one, the agent's one-hot.
    `action`: of one agent, padded to what the largest takes. `lanes`: rows are agents, lane i * M + m being agent m of
    environment i; otherwise they are teams, with arrays [N, M, ...].
    """

    agents: tuple[str, ...]
    kinds: tuple[int, ...]
    sizes: tuple[int, ...]
    action: ActionSpec
    lanes: bool

    @property
    def size(self) -> int:
        """M."""
        return len(self.agents)


@dataclass(frozen=True)
class EnvSpec:
    """Everything the other parts size themselves from. `time_limit` is in agent steps (None: no limit known), `frame_skip`
    in frames of an emulator per agent step (None: no emulator), `first_lane` the number of row 0 over all actors, `team` who
    plays together (None: each row is one agent's environment)."""

    id: str
    obs: ObsSpec
    action: ActionSpec
    num_envs: int
    time_limit: int | None = None
    frame_skip: int | None = None
    first_lane: int = 0
    team: TeamSpec | None = None

    @property
    def lanes(self) -> range:
        """The rows' numbers over all actors: what names their random streams."""
        return range(self.first_lane, self.first_lane + self.num_envs)

    @property
    def rows_each(self) -> int:
        """Rows that one environment takes: as many as a team has agents, where each of them is a lane."""
        return self.team.size if self.team is not None and self.team.lanes else 1

    @property
    def reward_shape(self) -> tuple[int, ...]:
        """Of one row's reward: a number, or one for each agent of a team."""
        return () if self.team is None or self.team.lanes else (self.team.size,)

    @property
    def member(self) -> EnvSpec:
        """As each agent of a team has it, a row of its own; where rows are no teams, this one."""
        if self.team is None or self.team.lanes:
            return self
        m, whole = self.team.size, cast("dict[str, ArraySpec]", self.obs)
        one = {name: whole[name].row for name in ("obs", MASK) if name in whole}
        obs: ObsSpec = one if MASK in one else one["obs"]
        team = replace(self.team, lanes=True)
        return replace(self, obs=obs, action=team.action, num_envs=self.num_envs * m, first_lane=self.first_lane * m, team=team)

    @property
    def pixels(self) -> bool:
        """Whether the observation is one image."""
        seen = visible(self.obs)
        return isinstance(seen, ArraySpec) and seen.pixels


class Step(NamedTuple):
    """What one vector step revealed; every array has one row per environment, N rows.

    `next_obs` is the true successor, never a reset observation. `discount` is 1 where the future counts and 0 where
    nothing is bootstrapped: at a termination, and at a lost life where the game goes on. `first` marks rows whose `obs`
    starts an episode. Rows with `valid` False revealed nothing (an environment spent the step on its reset): they are
    never stored, learned from, or counted.
    """

    obs: Obs  # [N, *O]
    action: Array  # [N, *A]
    reward: Array  # [N] float32, as the environment gave it; [N, M] for teams
    discount: Array  # [N] float32, 0 or 1
    terminated: Array  # [N] bool
    truncated: Array  # [N] bool
    next_obs: Obs  # [N, *O]
    first: Array  # [N] bool
    valid: Array  # [N] bool
    extras: Mapping[str, Array] = {}  # what the agent emitted: [N, ...] each

    @property
    def ended(self) -> Array:
        """[N] bool: the episode ended here, by termination or truncation."""
        return self.terminated | self.truncated

    def plain(self) -> State:
        """As a dict, for a checkpoint: `Step(**plain)` brings it back."""
        return {**self._asdict(), "extras": dict(self.extras)}


class Finished(Protocol):
    """An episode that ended: its undiscounted return, its length in agent steps, and the number of its environment among those
    stepped together. Of a team: the sum of its agents' returns, and `members` those by name, else empty."""

    @property
    def ret(self) -> float: ...

    @property
    def length(self) -> int: ...

    @property
    def env(self) -> int: ...

    @property
    def members(self) -> Mapping[str, float]: ...


class Seen(NamedTuple):
    """What an agent acts on; every array has one row per lane (environment row).

    `first` says where `obs` starts an episode; `action` and `reward` are the previous ones, zeros at `first`. Rows that are
    `pending` will spend the step on their reset: whatever they do is not done, and not counted.
    """

    obs: Obs  # [N, *O]
    first: Array  # [N] bool
    action: Array  # [N, *A]
    reward: Array  # [N] float32, or [N, M] for teams
    pending: Array | None = None  # [N] bool; None: no row

    @classmethod
    def start(cls, obs: Obs, action: ActionSpec) -> Seen:
        """Observations [N, *O] of which each starts an episode: for whoever has no environment of ours at hand."""
        n = len(tree_leaves(obs)[0])
        return cls(obs, np.ones(n, np.bool_), np.zeros((n, *action.shape), action.dtype), np.zeros(n, np.float32))


class Chunk(NamedTuple):
    """T >= 1 steps of some lanes, time-major: as `Step`, every array [T, n, ...].

    `lanes` names the rows, numbered over all actors. What actors hand over to a memory.
    """

    obs: Obs  # [T, n, *O]
    action: Array  # [T, n, *A]
    reward: Array  # [T, n, ...]
    discount: Array  # [T, n]
    terminated: Array  # [T, n] bool
    truncated: Array  # [T, n] bool
    next_obs: Obs  # [T, n, *O]
    first: Array  # [T, n] bool
    valid: Array  # [T, n] bool
    extras: Mapping[str, Array]  # [T, n, ...] each
    lanes: Array  # [n] int64, each once

    @classmethod
    def of(cls, step: Step, lanes: Array | None = None) -> Chunk:
        """One step, as views of its arrays. lanes: [n] (None: 0 .. n - 1)."""
        row: Any = step
        obs, action, reward, discount, terminated, truncated, next_obs, first, valid, extras = row
        plain = type(obs) is not dict
        arrays = (
            obs[None] if plain else {key: array[None] for key, array in obs.items()},
            action[None],
            reward[None],
            discount[None],
            terminated[None],
            truncated[None],
            next_obs[None] if plain else {key: array[None] for key, array in next_obs.items()},
            first[None],
            valid[None],
            {name: array[None] for name, array in extras.items()} if extras else extras,
            every_lane(reward.shape[0]) if lanes is None else lanes,
        )
        return tuple.__new__(cls, arrays)  # as `cls(*arrays)`, in half the time

    @classmethod
    def stack(cls, steps: Sequence[Step], lanes: Array | None = None) -> Chunk:
        """Several steps of the same lanes, oldest first, copied. lanes: [n] (None: 0 .. n - 1)."""

        def stacked(*arrays: Array) -> Array:  # as np.stack, which takes three times as long over small arrays
            return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)

        def joined(parts: Any) -> Any:
            return tree_map(stacked, *parts) if type(parts[0]) is dict else stacked(*parts)

        *columns, extras = zip(*steps)
        named = {name: stacked(*[one[name] for one in extras]) for name in extras[0]}
        return cls(*[*map(joined, columns), named, every_lane(len(steps[0].reward)) if lanes is None else lanes])

    def part(self, times: int | slice) -> list[Any]:
        """All arrays but `lanes` at some times, as views."""
        return [tree_map(lambda array: array[times], column) for column in self[:-2]] + [
            {name: array[times] for name, array in self.extras.items()}
        ]

    def steps(self) -> Iterator[Step]:
        """Its steps one by one, oldest first, as views."""
        for t in range(self.reward.shape[0]):
            yield Step(*self.part(t))

    def pieces(self, most: int) -> Iterator[Chunk]:
        """Chunks of at most `most` of its steps, oldest first, as views."""
        for start in range(0, self.reward.shape[0], most):
            yield Chunk(*[*self.part(slice(start, start + most)), self.lanes])


@cache
def every_lane(n: int) -> Array:
    """Lanes 0 .. n - 1, for everyone to read."""
    return np.arange(n)


@dataclass(frozen=True)
class Stream:
    """A stream of reward that an agent is paid: `batch.NAME` and `batch.NAME_discount` under the same view as the reward.

    It reads the row's column of that name, a float32 declared in `Columns.extras`. gamma: discount per agent step, in [0, 1].
    A stream that is not `episodic` flows on through the ends of episodes.
    """

    name: str
    gamma: float = 0.99
    episodic: bool = True


class Act(NamedTuple):
    """What an agent answers to observations: actions [N, *A], the next carry, and columns of its own."""

    action: Array
    carry: Carry = ()
    extras: Mapping[str, Array] = {}


class Update(NamedTuple):
    """What learning from a batch gives back: a priority per example [B] and metrics, all tensors on the device."""

    priority: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Field:
    """A memory column: the shape and dtype of one row. `starts`: only rows with which examples begin keep theirs."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    starts: bool = False


EVERY_BATCH_HAS = (
    "obs", "action", "next_obs", "reward", "discount", "weight", "index", "first", "ended",
    "last_action", "last_reward", "raw_reward", "seen", "mask", "successor",
)  # fmt: skip
"""Columns of batches of any view, so that no extra may be called as one of them."""


@dataclass(frozen=True)
class Columns:
    """The rows an agent wants remembered: observation and action as specified, plus generic `extras`, per environment.

    An extra named `gamma` is the row's own discount, used instead of the view's. `reward_shape`: trailing axes of the reward,
    such as one number per member of a team.
    Raises: ProtoRLError for an extra with the name of something that every batch has.
    """

    obs: ObsSpec
    action: ActionSpec
    num_envs: int
    extras: Mapping[str, Field] = field(default_factory=dict)
    reward_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if taken := sorted(set(self.extras) & {*EVERY_BATCH_HAS, *dir(Batch)}):
            raise ProtoRLError(f"a column cannot be called {taken[0]!r}, as every batch has one: give the extra another name")


class Batch:
    """An example set: an attribute view over named tensors. Asking for an unknown column names the known ones."""

    __slots__ = ("columns",)

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = columns

    def __getattr__(self, name: str) -> Any:
        if name == "columns" or name.startswith("__"):  # asked for while a copy is not filled yet
            raise AttributeError(name)
        try:
            return self.columns[name]
        except KeyError:
            known = ", ".join(sorted(self.columns))
            raise AttributeError(f"no column {name!r} in this batch; it has: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return int(self.columns["weight"].numel())

    def replace(self, **columns: TensorObs) -> Batch:
        """The same batch with some columns exchanged or added."""
        return Batch({**self.columns, **columns})

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{k}={tuple(v.shape) if hasattr(v, 'shape') else type(v).__name__}" for k, v in self.columns.items()
        )
        return f"Batch({inside})"


@dataclass(frozen=True)
class Linear:
    """A schedule: from `start` to `end` in a straight line over `steps`, from step `begin` on; constant before and after."""

    start: float
    end: float
    steps: int
    begin: int = 0

    def __call__(self, step: int) -> float:
        step -= self.begin
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * max(step, 0) / self.steps


@dataclass(frozen=True)
class Constant:
    """A schedule that never changes."""

    value: float

    def __call__(self, step: int) -> float:
        return self.value


Schedule: TypeAlias = Callable[[int], float]


def as_schedule(value: float | Schedule) -> Schedule:
    """A number becomes a constant schedule; a schedule stays itself."""
    return value if callable(value) else Constant(float(value))


T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[..., object])


def optional(method: Hook) -> Hook:
    """Marks a method that does nothing until a subclass writes it; see `written`."""
    method.optional = True  # type: ignore[attr-defined]
    return method


def written(owner: object, name: str) -> Callable[..., Any] | None:
    """A method that somebody wrote; None where there is none, or the one that does nothing: it need not be called."""
    method = getattr(owner, name, None)
    return None if getattr(method, "optional", False) else method


def visible(obs: Any) -> Any:
    """What networks look at of an observation, or of its specification: all but a mask of actions; the one entry that is left,
    or the dict of several."""
    if not isinstance(obs, dict) or MASK not in obs:
        return obs
    rest = {key: value for key, value in obs.items() if key != MASK}
    return next(iter(rest.values())) if len(rest) == 1 else rest


def tree_map(function: Callable[..., T], first: object, *rest: Any) -> T | dict[str, T]:
    """Apply `function` to an array, or to each of a dict or a NamedTuple of them, such as a `Seen`; None stays None, and so
    does (), a carry of nothing."""
    if isinstance(first, dict):
        return {key: tree_map(function, value, *(other[key] for other in rest)) for key, value in first.items()}  # type: ignore[misc]
    if first is None:
        return None  # type: ignore[return-value]
    if isinstance(first, tuple) and (hasattr(first, "_fields") or not first):
        named: Any = type(first)
        return named(*[tree_map(function, *parts) for parts in zip(first, *rest)])  # type: ignore[no-any-return]
    return function(first, *rest)


def tree_leaves(tree: T | dict[str, T]) -> list[T]:
    """The arrays of an observation or of a column of a batch: one, or those of a dict or a NamedTuple in its order."""
    if not isinstance(tree, dict | tuple):
        return [tree]
    leaves: list[T] = []
    tree_map(leaves.append, tree)
    return leaves
