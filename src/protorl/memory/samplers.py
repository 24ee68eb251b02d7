"""Samplers: which examples. Each draws row identities and a weight per example, and may learn from feedback."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from protorl.data import Array, NotFinite, ProtoRLError, Schedule, State, as_schedule
from protorl.memory.sumtree import SumTree
from protorl.memory.windows import Window
from protorl.rng import generator, pack, unpack


class Sampler(Protocol):
    """What a memory asks of a sampler. `step` is the memory's clock in agent steps; without `wants_feedback`, priorities
    are not even fetched from the device; without `wants_turnover`, it is not told which slots leave and enter."""

    wants_feedback: bool
    wants_turnover: bool

    def bind(self, window: Window, batch_size: int, seed: int) -> None: ...

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None: ...

    def draw(self, step: int) -> tuple[Array, Array]: ...

    def feedback(self, rows: Array, priority: Array) -> None: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Uniform:
    """Every example is as likely as any other, drawn with replacement; weights are one, feedback is ignored."""

    wants_feedback = False
    wants_turnover = False

    def bind(self, window: Window, batch_size: int, seed: int) -> None:
        self.window, self.batch_size = window, batch_size
        self.generator = generator(seed, "sampler")
        self.weight = np.ones(batch_size, np.float32)

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None:
        """Nothing to keep."""

    def draw(self, step: int) -> tuple[Array, Array]:
        window = self.window
        if window.lanes == 1:
            return self.generator.integers(window.lows[0], window.highs[0], self.batch_size), self.weight
        ends = np.cumsum(window.highs - window.lows)
        place = self.generator.integers(0, ends[-1], self.batch_size)
        lane = np.searchsorted(ends, place, side="right")
        serial = window.highs[lane] - (ends[lane] - place)
        return serial * window.lanes + lane, self.weight

    def feedback(self, rows: Array, priority: Array) -> None:
        """Ignored."""

    def state_dict(self) -> State:
        return {"generator": pack(self.generator)}

    def load_state_dict(self, state: State) -> None:
        unpack(self.generator, state["generator"])


class Prioritized:
    """Proportional prioritization with stratified draws.

        P(i) = p_i^alpha / sum_k p_k^alpha,   p = |delta| + epsilon,   w_i = (N P(i))^-beta / max_j w_j

    One draw from each of B equal segments of the cumulative sum. A new example enters with the largest priority seen so far,
    or with the one its step carries as the extra `priority`. Feedback for rows that were overwritten meanwhile is dropped.

    alpha: exponent >= 0 (0: uniform). beta: importance exponent in [0, 1], a number or a schedule over agent steps.
    normalise: "batch" divides by the largest weight of the batch, "memory" by the largest any stored example could have.
    Source: Schaul et al. 2016, arXiv 1511.05952, section 3. Differs from the paper: the TD error is not clipped
    to [-1, 1] here (a Huber loss does that to the gradient); which maximum divides the weights the paper leaves open.
    """

    wants_feedback = True
    wants_turnover = True

    def __init__(
        self, alpha: float = 0.6, beta: float | Schedule = 0.4, *, epsilon: float = 1e-6, normalise: str = "batch"
    ) -> None:
        if alpha < 0:
            raise ProtoRLError(f"per_alpha {alpha} is negative: use 0 (uniform) to 1 (greedy)")
        if not callable(beta) and not 0 <= beta <= 1:
            raise ProtoRLError(f"per_beta {beta} is outside [0, 1]")
        if normalise not in ("batch", "memory"):
            raise ProtoRLError(f'normalise {normalise!r} is unknown: use "batch" or "memory"')
        self.alpha, self.beta, self.epsilon, self.normalise = alpha, as_schedule(beta), epsilon, normalise
        self.largest = 1.0
        self.newcomers = np.ones(8)

    def bytes(self, places: int) -> int:
        """What the priorities of so many rows take."""
        return SumTree.bytes(places, track_min=self.normalise == "memory")

    def bind(self, window: Window, batch_size: int, seed: int) -> None:
        self.window, self.batch_size = window, batch_size
        self.generator = generator(seed, "sampler")
        self.tree = SumTree(window.lanes * window.ring, track_min=self.normalise == "memory")
        self.strata = np.arange(batch_size) / batch_size

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None:
        if left.shape[0]:
            self.tree.set(left, np.zeros(left.shape[0]))
        if entered.shape[0]:
            if given is None:
                self.tree.set(entered, self.like_the_largest(entered.shape[0]))
            else:
                self.set(entered, given)

    def like_the_largest(self, count: int) -> Array:
        """The largest priority's leaf, `count` times."""
        leaf = self.largest**self.alpha
        if count > self.newcomers.shape[0] or self.newcomers[0] != leaf:
            self.newcomers = np.full(max(count, 8), leaf)
        return self.newcomers[:count]

    def set(self, slots: Array, priority: Array) -> None:
        p = np.abs(priority).astype(np.float64) + self.epsilon
        if not np.isfinite(p).all():
            raise NotFinite("a priority is not finite: the TD errors diverged; lower lr or check the rewards")
        self.largest = max(self.largest, float(p.max()))
        self.tree.set(slots, p**self.alpha)

    def draw(self, step: int) -> tuple[Array, Array]:
        total = self.tree.total
        target = (self.strata + self.generator.random(self.batch_size) / self.batch_size) * total
        slots = self.tree.find(np.minimum(target, np.nextafter(total, 0.0)))
        beta = self.beta(step)
        scale = self.window.size / total
        weight = (scale * self.tree.get(slots)) ** -beta
        largest = (scale * self.tree.smallest) ** -beta if self.normalise == "memory" else weight.max()
        return self.window.rows(slots), (weight / largest).astype(np.float32)

    def feedback(self, rows: Array, priority: Array) -> None:
        alive = self.window.alive(rows)
        if not alive.all():
            rows, priority = rows[alive], priority[alive]
        if rows.shape[0]:
            self.set(self.window.slots(rows), priority)

    def state_dict(self) -> State:
        return {
            "generator": pack(self.generator),
            "largest": self.largest,
            "leaves": self.tree.get(self.window.slots(self.window.all())) if self.window.size else np.zeros(0),
        }

    def load_state_dict(self, state: State) -> None:
        unpack(self.generator, state["generator"])
        self.largest = state["largest"]
        if len(state["leaves"]):
            self.tree.set(self.window.slots(self.window.all()), np.asarray(state["leaves"]))


class All:
    """Every stored example, oldest first, once a draw; for agents that learn from everything they have."""

    wants_feedback = False
    wants_turnover = False

    def bind(self, window: Window, batch_size: int, seed: int) -> None:
        self.window = window

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None:
        """Nothing to keep."""

    def draw(self, step: int) -> tuple[Array, Array]:
        rows = self.window.all()
        return rows, np.ones(rows.shape[0], np.float32)

    def feedback(self, rows: Array, priority: Array) -> None:
        """Ignored."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to restore."""


class Minibatches(All):
    """A partition of everything stored into `count` parts of nearly equal size, in a new random order each time all parts
    have been drawn.

    sequence: None: of rows, [B]. A number: of runs of so many rows of a lane, [sequence, B], time first. A lane whose rows are
    no multiple of it ends with a shorter run, whose last row is repeated with weight 0; the other weights then are larger than
    1, so that a mean over all is the mean over the rows that are there.
    """

    wants_turnover = True

    def __init__(self, count: int, sequence: int | None = None) -> None:
        if count < 1:
            raise ProtoRLError(f"{count} minibatches are not possible: use 1 or more")
        if sequence is not None and sequence < 1:
            raise ProtoRLError(f"sequences of {sequence} steps are not possible: use 1 or more")
        self.count, self.sequence = count, sequence
        self.order = np.zeros(0, np.int64)
        self.next = 0

    def bind(self, window: Window, batch_size: int, seed: int) -> None:
        super().bind(window, batch_size, seed)
        self.generator = generator(seed, "sampler")

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None:
        self.next = 0

    def draw(self, step: int) -> tuple[Array, Array]:
        if self.next == 0:
            self.order = self.generator.permutation(self.starts())
        part = np.array_split(self.order, self.count)[self.next]
        self.next = (self.next + 1) % self.count
        return self.runs(part)

    def starts(self) -> Array:
        """The rows that are drawn, or with which runs begin."""
        rows = self.window.all()
        if self.sequence is None:
            return rows
        lane, serial = rows % self.window.lanes, rows // self.window.lanes
        return rows[(serial - self.window.lows[lane]) % self.sequence == 0]

    def runs(self, starts: Array) -> tuple[Array, Array]:
        """Rows and their weights: these alone, or the runs that begin with them."""
        if self.sequence is None:
            return starts, np.ones(starts.shape[0], np.float32)
        lanes = self.window.lanes
        lane, begin = starts % lanes, starts // lanes
        serial = begin + np.arange(self.sequence)[:, None]  # [T, B]
        last = self.window.highs[lane] - 1
        there = serial <= last
        weight = there * np.float32(there.size / np.count_nonzero(there))
        return np.minimum(serial, last) * lanes + lane, weight

    def state_dict(self) -> State:
        return {"generator": pack(self.generator), "order": self.order, "next": self.next}

    def load_state_dict(self, state: State) -> None:
        unpack(self.generator, state["generator"])
        self.order, self.next = np.asarray(state["order"]), state["next"]
