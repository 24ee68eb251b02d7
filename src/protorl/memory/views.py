"""Views: what an example is. One step, n steps, a rollout; sequences are in `sequences`.

A view also says where examples may start (`starts`), which of them can be sampled (`window`), how many later rows an example
waits for (`pending`) and how many it reads before its start (`starts.before`), whether it goes on through ends of episodes
(`flows`), and whether examples are used in one burst of updates only (`once`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from protorl.data import Array, Batch, Columns, ProtoRLError, Stream, TensorObs, tree_map
from protorl.memory.kept import Starts
from protorl.memory.kernels import nstep_window, stream_window
from protorl.memory.storage import EVERY_ROW, Storage
from protorl.memory.tables import Table
from protorl.memory.windows import Window


class View(Protocol):
    """What a memory asks of a view."""

    @property
    def pending(self) -> int: ...

    @property
    def once(self) -> bool: ...

    @property
    def starts(self) -> Starts: ...

    @property
    def flows(self) -> bool: ...

    @property
    def streams(self) -> tuple[Stream, ...]: ...

    def window(self, storage: Storage) -> Window: ...

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, TensorObs]: ...

    def batch(self, columns: Mapping[str, TensorObs]) -> Batch: ...


def check_rewards(gamma: float, clip_reward: float | None, streams: tuple[Stream, ...]) -> None:
    """Raises ProtoRLError for a gamma outside [0, 1], or a clip that is not positive."""
    for name, value in (("gamma", gamma), *((f"gamma of the stream {one.name!r}", one.gamma) for one in streams)):
        if not 0.0 <= value <= 1.0:
            raise ProtoRLError(f"{name} {value} is not a discount: use a value in [0, 1]")
    if clip_reward is not None and not clip_reward > 0:
        raise ProtoRLError(f"clip_reward {clip_reward} must be positive, or None for raw rewards")


def check_n_step(n: int, reward_scale: float) -> None:
    """Raises ProtoRLError for less than one step, or a scale that is not positive."""
    if n < 1:
        raise ProtoRLError(f"n_step {n} is not a number of steps: use 1 or more")
    if not 0 < reward_scale < np.inf:
        raise ProtoRLError(f"reward_scale {reward_scale} must be a positive number")


def check_streams(streams: tuple[Stream, ...], columns: Columns) -> None:
    """Raises ProtoRLError for a stream of reward, or a gamma, whose column is not declared as it must be."""
    paid = {stream.name: "a stream of reward" for stream in streams} | {"gamma": "each row's discount"}
    for name, what in paid.items():
        field = columns.extras.get(name)
        if field is None and name != "gamma":
            raise ProtoRLError(f"{what} reads the column {name!r}, which the agent did not declare: add it to Columns.extras")
        if field is not None and (field.dtype != np.float32 or field.starts or (name == "gamma" and field.shape)):
            shape = ", shape ()" if name == "gamma" else ""
            raise ProtoRLError(f"the column {name!r} is {what}: declare it as float32{shape}, for every row")


NO_GAMMA = np.zeros(0, np.float32)
"""No row has its own."""


def read(
    storage: Storage,
    view: NStep | Rollout,
    n: int,
    slots: Array,
    columns: Mapping[str, Array],
) -> dict[str, TensorObs]:
    """Columns of n-step transitions from `slots` [B] int64, and further `columns`: tensors on the storage's device."""
    size = slots.shape[0]
    discounts, successors = np.empty(size, np.float32), np.empty(size, np.int64)
    clip = np.inf if view.clip_reward is None else view.clip_reward
    paid: dict[str, Array] = {}
    if storage.pays_apart:
        own = storage.tables.get("gamma")
        gammas = NO_GAMMA if own is None else own.array
        if own is not None:
            paid["gamma"] = gammas[slots]
        pay = storage.tables["reward"]
        returns = stream(storage, slots, n, view.gamma, gammas, True, clip, view.reward_scale, pay, discounts, successors)
    else:
        returns = np.empty(size, np.float32)
        nstep_window(
            slots, storage.ring, n, view.gamma, clip, view.reward_scale, storage.book, returns, discounts, successors
        )  # fmt: skip
    paid |= {"reward": returns, "discount": discounts}
    beyond: Array | None = None
    for one in view.streams:
        discounts, after = np.empty(size, np.float32), np.empty(size, np.int64)
        paid[one.name] = stream(
            storage, slots, n, one.gamma, NO_GAMMA, one.episodic, np.inf, 1.0, storage.tables[one.name], discounts, after
        )
        paid[f"{one.name}_discount"] = discounts
        if one.episodic:  # the reward's window ends early where its own gamma is 0
            successors = after
        elif view.flows:
            beyond = after
    found = storage.examples(slots, successors, {**paid, **columns}, beyond)
    if beyond is not None:
        after_all = found.pop("beyond")
        found |= {f"{one.name}_next_obs": after_all for one in view.streams if not one.episodic}
    return found


def stream(
    storage: Storage,
    slots: Array,
    n: int,
    gamma: float,
    own: Array,
    episodic: bool,
    clip: float,
    scale: float,
    pay: Table,
    discounts: Array,
    successors: Array,
) -> Array:
    """Returns [B, ...] of the rewards in the table `pay`; see `stream_window`."""
    returns = np.empty((slots.shape[0], *pay.field.shape), np.float32)
    flat = [array.reshape(array.shape[0], pay.numbers) for array in (pay.array, returns)]
    stream_window(
        slots, storage.ring, n, gamma, own, episodic, clip, scale, flat[0], storage.book, flat[1], discounts, successors
    )  # fmt: skip
    return returns


@dataclass(frozen=True)
class NStep:
    """n-step transitions, cut at the episode's end.

        reward   = sum_{k<m} gamma^k r_{t+k}
        discount = gamma^m * prod_{k<m} d_{t+k},     m = min(n, steps to the end of the episode)
        next_obs = o_{t+m}, the true final observation where the episode ended

    so a tail is as long as it is, a truncation bootstraps and a termination does not. A lost life (d = 0) ends the sum.

    Rewards with trailing axes [B, ...] share one discount [B]. Where rows have a column `gamma` it is used instead, and gamma^k
    is the product of theirs.

    Each stream gives `NAME` and `NAME_discount`, by its own gamma, over the same rows. One that is not episodic sums over n
    rows of its lane whatever ended there, with NAME_discount = gamma^n, and bootstraps from `NAME_next_obs`: the observation n
    rows later in time, which is a later episode's where one began meanwhile. Examples wait until it is known.

    n: steps. gamma: discount per step, in [0, 1]. clip_reward: rewards are clipped to [-c, c] each, before they are summed
    (None: raw). reward_scale: multiplies them, after the clip (neither touches further streams). streams: further streams of
    reward. Source: Sutton 1988; for replay, Hessel et al. 2018, arXiv
    1710.02298. Differs from the papers: tails at truncations are kept, and bootstrap from the final observation.
    """

    n: int = 1
    gamma: float = 0.99
    clip_reward: float | None = None
    reward_scale: float = 1.0
    streams: tuple[Stream, ...] = ()
    starts = EVERY_ROW

    def __post_init__(self) -> None:
        check_n_step(self.n, self.reward_scale)
        check_rewards(self.gamma, self.clip_reward, self.streams)

    @property
    def pending(self) -> int:
        """How many rows at the head of an unfinished episode have no complete example yet."""
        return self.n - 1

    @property
    def once(self) -> bool:
        """Examples are used again and again."""
        return False

    @property
    def flows(self) -> bool:
        """Whether examples go on through ends of episodes."""
        return any(not stream.episodic for stream in self.streams)

    def window(self, storage: Storage) -> Window:
        """Every row starts an example."""
        return Window(storage, self.pending, self.flows)

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, TensorObs]:
        """Columns for the examples that start at `rows` [B] (row identities), of `weight` [B]: tensors on the storage's
        device."""
        return read(storage, self, self.n, window.slots(rows), {"weight": weight})

    def batch(self, columns: Mapping[str, TensorObs]) -> Batch:
        """The examples as a learner gets them, once their columns are where it is."""
        return Batch(columns)


def OneStep(gamma: float = 0.99, clip_reward: float | None = None) -> NStep:  # noqa: N802 - it names a view
    """One-step transitions: `NStep(1)`."""
    return NStep(1, gamma, clip_reward)


class Rollout:
    """The steps since the last burst of updates, for algorithms that learn from what they just did.

    At the first sample of a burst the whole rollout is laid out time first, [T, N], with the columns obs, action, reward,
    discount, next_obs, first, ended, weight and the agent's own, and given to `prepare`; besides `last_action` and
    `last_reward`, as in a `Seen`, and `raw_reward`, the reward before it was clipped. What that returns (columns [T, N, ...])
    is flattened: examples are its rows, drawn by `Minibatches` or `All`, [B, ...], or runs of them, [L, B, ...], of whose
    columns that are declared for starts the first row's are given, [B, ...]. Once the burst is over, no row is offered again.

    Where an environment has fewer steps than the others (it spent some on resets), its column begins with rows of weight 0,
    which are never drawn.

    Each stream gives `NAME` and `NAME_discount`, by its own gamma. One that is not episodic has NAME_discount = gamma in every
    row, and its successor is the next row of the lane, a later episode's where one ended: within the rollout its value is the
    next row's, and nothing cuts the sums of `gae` (`ended` false everywhere). After the last row that is `next_obs` [-1]: where
    an episode ended just there, its final observation, since the next one is not known yet.

    prepare: what the agent makes of a rollout before it learns from it: its advantages (`agent.prepare`); of a method, what its
    owner has under this name by then, so that a faster one is used. gamma: discount per step, in [0, 1]. clip_reward: rewards
    are clipped to [-c, c] (None: raw). streams: further streams of reward.
    """

    pending = 0
    once = True
    starts = EVERY_ROW
    flows = False  # the last row is used before the one after it is known
    reward_scale = 1.0

    def __init__(
        self,
        prepare: Callable[[Batch], Batch],
        gamma: float = 0.99,
        clip_reward: float | None = None,
        streams: tuple[Stream, ...] = (),
    ) -> None:
        check_rewards(gamma, clip_reward, streams)
        self.prepare, self.gamma, self.clip_reward, self.streams = prepare, gamma, clip_reward, streams
        self.version = -1
        self.length = 0
        self.columns: dict[str, TensorObs] = {}

    def window(self, storage: Storage) -> Window:
        """Every row is an example."""
        return Window(storage, self.pending)

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, TensorObs]:
        """Columns for `rows` (row identities) [B] or [L, B], of `weight` alike, from the rollout as `prepare` returned it."""
        if self.version != window.version:
            self.lay_out(storage, window)
            self.version = window.version
        lane, serial = rows % window.lanes, rows // window.lanes
        time = serial - (window.highs - self.length)[lane]
        index, weights = map(torch.as_tensor, storage.place(time * window.lanes + lane, weight))
        if index.dim() == 1:
            read = {name: tree_map(lambda column: column.index_select(0, index), value) for name, value in self.columns.items()}
            return read | {"weight": weights}
        flat, declared = index.reshape(-1), storage.columns.extras

        def chosen(name: str, column: torch.Tensor) -> torch.Tensor:
            if name in declared and declared[name].starts:
                return column.index_select(0, index[0])
            return column.index_select(0, flat).reshape(*index.shape, *column.shape[1:])

        read = {name: tree_map(partial(chosen, name), value) for name, value in self.columns.items()}
        return read | {"weight": weights}

    def batch(self, columns: Mapping[str, TensorObs]) -> Batch:
        """The examples as a learner gets them, once their columns are where it is."""
        return Batch(columns)

    def lay_out(self, storage: Storage, window: Window) -> None:
        """Time-major columns of all rows in the window, prepared, then flattened."""
        lanes = window.lanes
        self.length = int((window.highs - window.lows).max())
        serial = window.highs - self.length + np.arange(self.length)[:, None]  # [T, N]
        absent = (serial < window.lows).reshape(-1)
        rows = (serial * lanes + np.arange(lanes)).reshape(-1)
        rows[absent] = rows[~absent][0]  # any row that is there: never drawn, and nothing flows forward in time
        slots, before = window.slots(rows), window.slots(rows - lanes)
        first = storage.book["age"][slots] == 0
        paid = storage.tables["reward"].array if storage.pays_apart else storage.book["reward"]
        last_reward = paid[before]
        last_reward[first] = 0
        more = {
            "first": first,
            "ended": storage.book["side"][slots] >= 0,
            "weight": (~absent).astype(np.float32),
            "last_reward": last_reward,
            "raw_reward": paid[slots],
        }
        flat: dict[str, Any] = read(storage, self, 1, slots, more)
        flat["last_action"] = storage.tables["action"].read(before)
        flat["last_action"][flat["first"]] = 0
        for name in ("reward", *(stream.name for stream in self.streams)):
            flat[name] *= flat["weight"].view(-1, *[1] * (flat[name].ndim - 1))

        def grid(column: TensorObs) -> TensorObs:
            return tree_map(lambda leaf: leaf.unflatten(0, (self.length, lanes)), column)

        owner = getattr(self.prepare, "__self__", None)
        prepare = self.prepare if owner is None else getattr(owner, self.prepare.__name__, self.prepare)
        prepared = prepare(Batch({name: grid(column) for name, column in flat.items()}))
        self.columns = {name: tree_map(lambda leaf: leaf.flatten(0, 1), prepared.columns[name]) for name in prepared}
