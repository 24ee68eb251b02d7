"""The view of recurrent agents: stretches of an episode, with what leads up to them and what their returns bootstrap from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protorl.data import Array, Batch, ProtoRLError, Seen, Stream, TensorObs, tree_map
from protorl.memory.kept import Starts
from protorl.memory.kernels import unroll_returns, unroll_rows
from protorl.memory.storage import Storage
from protorl.memory.tables import stacks
from protorl.memory.views import check_n_step, check_rewards
from protorl.memory.windows import SequenceWindow, Window

NO_GAMMAS = np.zeros((0, 0), np.float32)
"""No row has its own."""


@dataclass(frozen=True)
class Sequence:
    """Stretches of `length` steps for recurrent agents, with what leads up to them and what follows: time first, T rows of B
    examples, T = burn_in + length + n_step.

    Examples start at the steps 0, period, 2 * period, ... of each episode and never leave it. One is there once its steps and
    the n_step after them are, or the episode has ended; what no other example trains at an episode's end is the last one's,
    which is as short as it is. The start is row `burn_in`. The rows before it are those before it in the episode; where there
    are fewer, the episode's first row is repeated in front, with `first` true (of stacks that are padded with zeros, as blank
    frames). Behind the episode's final observation, a row of its own, that row is repeated. The last of the T rows is an
    observation only.

    - `seen`: a `Seen` of tensors: obs [T, B, *O], first [T, B] bool, the previous action [T, B, *A] and reward [T, B] as the
      environment gave it, zeros at `first`.
    - `action` [T, B, *A], `reward`, `discount` [T, B] float32 and `successor` [T, B] int64: what was done in this row, and

          reward    = sum_{k<m} gamma^k r_{t+k},    discount = gamma^m * prod_{k<m} d_{t+k},    successor = t + m,
          m = min(n_step, steps to the end of the episode, rows to the last one)

      so row `successor` of this unroll is bootstrapped from: the final observation where the episode ended. A lost life (d = 0)
      ends the sum.
    - `mask` [T, B] float32: 1 where the row is to be trained: the steps among the rows burn_in .. burn_in + length - 1.
    - `ended` [T, B] bool: the episode ended with this step. `weight` [B], `index` [B].
    - columns declared with `starts=True` [B, ...]: what the actor gave in row 0 of the unroll, such as its carry; zeros where
      the episode is younger than the burn-in. All others [T, B, ...]; of those declared with `last=True` also `last_NAME`: what
      the step before gave, zeros at `first`.

    Rows that are no steps (in front, behind, the last) have reward and discount 0, themselves as successor, and the action and
    columns of the step nearest to them.

    Each further stream gives `NAME` and `NAME_discount` [T, B] by its own gamma. One that is not episodic takes any end for a
    truncation, a lost life for none: NAME_discount = gamma^m, bootstrapped from row `NAME_successor`, at the end of the episode
    from its final observation, in place of the next episode's first, which no example of this one can show.

    length, burn_in, period, n_step: agent steps. gamma: discount per step, in [0, 1]; a column `gamma` is used instead.
    clip_reward, reward_scale, streams: as `NStep`. Source: Kapturowski et al. 2019, "Recurrent experience replay in distributed
    reinforcement learning", section 2.3 and appendix. Differs from the paper: the last steps of an episode are a short example
    rather than an overlap with another, and n_step more rows follow the trained ones, so that these have full returns.
    """

    length: int = 80
    burn_in: int = 40
    period: int = 40
    n_step: int = 5
    gamma: float = 0.997
    clip_reward: float | None = None
    reward_scale: float = 1.0
    streams: tuple[Stream, ...] = ()
    once = False
    flows = False

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("burn_in", 0), ("period", 1)):
            if getattr(self, name) < least:
                raise ProtoRLError(f"{name} {getattr(self, name)} is not a number of steps: use {least} or more")
        if self.period > self.length:
            raise ProtoRLError(
                f"period {self.period} exceeds length {self.length}, so steps in between would never be learned from: use a "
                f"period of at most {self.length}"
            )
        check_n_step(self.n_step, self.reward_scale)
        check_rewards(self.gamma, self.clip_reward, self.streams)

    @property
    def pending(self) -> int:
        """How many rows must follow a start."""
        return self.length + self.n_step - 2

    @property
    def starts(self) -> Starts:
        """Where examples start."""
        return Starts(self.period, self.burn_in, listed=True)

    def window(self, storage: Storage) -> SequenceWindow:
        """Some rows of each episode start an example; the one before the burn-in must be there for its action and reward."""
        return SequenceWindow(storage, self.period, self.length, self.pending, self.starts.behind)

    def examples(self, storage: Storage, window: Window, rows: Array, weight: Array) -> dict[str, TensorObs]:
        """Columns for the examples `rows` [B] (identities), of `weight` [B]: tensors on the storage's device, as `batch` takes
        them."""
        slots = window.begins(window.slots(rows))
        shape = self.burn_in + self.length + self.n_step, len(slots)
        steps, before, shown = np.empty((3, *shape), np.int64)
        first, ended, real = np.empty((3, *shape), np.bool_)
        unroll_rows(slots, storage.ring, self.burn_in, storage.book, steps, before, shown, first, ended, real)
        trained = slice(self.burn_in, self.burn_in + self.length)
        mask = np.zeros(shape, np.float32)
        mask[trained] = real[trained]
        columns = self.paid(storage, steps, before, first, real)
        columns |= {"first": first, "ended": ended, "mask": mask, "weight": weight}
        return storage.unrolls(slots, self.burn_in, steps, before, shown, columns)

    def paid(self, storage: Storage, steps: Array, before: Array, first: Array, real: Array) -> dict[str, Array]:
        """Rewards, discounts and successors of the rows."""
        gammas = storage.tables["gamma"].array[steps] if "gamma" in storage.tables else NO_GAMMAS
        clip = np.inf if self.clip_reward is None else self.clip_reward
        pay = storage.tables["reward"].array if storage.pays_apart else storage.book["reward"]
        discount = storage.book["discount"][steps]
        found = self.stream("", pay[steps], discount, real, self.gamma, gammas, True, clip, self.reward_scale)
        found["previous"] = pay[before]
        found["previous"][first] = 0
        if gammas.size:
            found["gamma"] = gammas
        for one in self.streams:
            pay = storage.tables[one.name].array[steps]
            new = self.stream(f"{one.name}_", pay, discount, real, one.gamma, NO_GAMMAS, one.episodic, np.inf, 1.0)
            new[one.name] = new.pop(f"{one.name}_reward")
            if one.episodic:
                del new[f"{one.name}_successor"]  # as the reward's
            found |= new
        return found

    def stream(
        self,
        prefix: str,
        pay: Array,
        discount: Array,
        real: Array,
        gamma: float,
        own: Array,
        episodic: bool,
        clip: float,
        scale: float,
    ) -> dict[str, Array]:
        """n-step sums of rewards [T, B, ...]; see `unroll_returns`."""
        returns, discounts, successors = np.empty_like(pay), np.empty_like(discount), np.empty(real.shape, np.int64)
        flat = [array.reshape(*real.shape, -1) for array in (pay, returns)]
        unroll_returns(
            flat[0], discount, real, self.n_step, gamma, own, episodic, clip, scale, flat[1], discounts, successors
        )  # fmt: skip
        return {f"{prefix}reward": returns, f"{prefix}discount": discounts, f"{prefix}successor": successors}

    def batch(self, columns: Mapping[str, TensorObs]) -> Batch:
        """The examples as a learner gets them, once their columns are where it is: with `seen`, and stacks of frames."""
        found: dict[str, Any] = dict(columns)
        frames, first, before, previous = (found.pop(name) for name in ("frames", "first", "before", "previous"))

        def last(column: Any) -> Any:
            return column.masked_fill(first.view(*first.shape, *[1] * (column.ndim - 2)), 0)

        action, *others = (last(column) for column in before.values())
        found |= {f"last_{name}": column for name, column in zip(list(before)[1:], others)}

        def stacked(leaf: Any) -> Any:  # unless the storage has done it
            k = len(leaf) - len(first) + 1
            return leaf if k == 1 else stacks(leaf, k)

        seen: tuple[Any, ...] = (tree_map(stacked, frames), first, action, previous)
        return Batch({**found, "seen": Seen(*seen)})
