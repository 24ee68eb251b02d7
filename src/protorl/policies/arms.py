"""Which of several policies plays the next episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from protorl.data import Array, ProtoRLError, State
from protorl.policies.discrete import EpsilonGreedy
from protorl.policies.draws import Draws
from protorl.policies.outputs import ActionValues


class Arms(Protocol):
    """`arms(first)` says of every row [N] which of `n` arms it plays, int64, where an episode starts: `first` [N] bool."""

    n: int

    def __call__(self, first: Array) -> Array: ...

    def ended(self, rows: Array, arm: Array, ret: Array) -> None:
        """Of `rows` [N] bool the episodes are over: which arm [N] played, and its undiscounted return [N]."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class UniformArms:
    """Each of `n` arms is as likely as any other. rows: the environments served, each with random numbers of its own.

    Raises ProtoRLError for no arm, or a changed number of rows.
    """

    def __init__(self, n: int, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        if n < 1:
            raise ProtoRLError(f"{n} arms are too few: use 1 or more")
        self.n = n
        self.draws = Draws(seed, "arms", rows)

    def __call__(self, first: Array) -> Array:
        drawn: Array = (self.draws.take(len(first), 1)[:, 0] * self.n).astype(np.int64)
        return drawn

    def ended(self, rows: Array, arm: Array, ret: Array) -> None:
        pass

    def state_dict(self) -> State:
        return {"draws": self.draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.draws.load_state_dict(state["draws"])


class BanditArms(UniformArms):
    """An upper confidence bound for each row, over the last `window` episodes of its own:

        argmax_a mean(a) + bonus sqrt(log(min(k, window)) / count(a)),     with probability epsilon any arm

    Arms that are not in the window go first, so that each is played once at the beginning, in their order. rows: see above.

    Raises ProtoRLError for a window below 1.
    Source: Badia et al. 2020 (Agent57), arXiv 2003.13350, section 3 and appendix D (window 160, epsilon 0.5, bonus 1).
    """

    def __init__(
        self, n: int, rows: Sequence[int], seed: int = 0, window: int = 160, epsilon: float = 0.5, bonus: float = 1.0
    ) -> None:
        super().__init__(n, seed, rows)
        if window < 1:
            raise ProtoRLError(f"bandit_window {window} is too small: use 1 or more")
        self.epsilon, self.bonus = epsilon, bonus
        self.arm, self.ret = np.zeros((len(rows), window), np.int64), np.zeros((len(rows), window))
        self.played = np.zeros(len(rows), np.int64)

    def __call__(self, first: Array) -> Array:
        drawn = self.draws.take(len(first), 2)
        chosen = (drawn[:, 1] * self.n).astype(np.int64)
        for row in np.flatnonzero(first).tolist():
            if self.played[row] < self.n:
                chosen[row] = self.played[row]
            elif drawn[row, 0] >= self.epsilon:
                chosen[row] = self.bounds(row).argmax()
        return chosen

    def counts(self, row: int) -> Array:
        """How often each arm [n] is in the window of a row."""
        return np.bincount(self.arm[row, : self.played[row]], minlength=self.n)

    def bounds(self, row: int) -> Array:
        """The upper bounds [n] of a row; inf where an arm is not in the window."""
        known = min(int(self.played[row]), self.arm.shape[1])
        count = self.counts(row)
        total = np.bincount(self.arm[row, :known], self.ret[row, :known], minlength=self.n)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = total / count + self.bonus * np.sqrt(np.log(known) / count)
        return np.where(count > 0, bound, np.inf)

    def ended(self, rows: Array, arm: Array, ret: Array) -> None:
        which = np.flatnonzero(rows)
        place = self.played[which] % self.arm.shape[1]
        self.arm[which, place], self.ret[which, place] = arm[which], ret[which]
        self.played[which] += 1

    def state_dict(self) -> State:
        window = {name: getattr(self, name).copy() for name in ("arm", "ret", "played")}
        return {**super().state_dict(), **window}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        for name in ("arm", "ret", "played"):
            getattr(self, name)[...] = state[name]


class Mixture:
    """ε-greedy policies, one for each of several arms, of which every episode is played by one. The values that it is given are
    those of the arm."""

    def __init__(self, policy: EpsilonGreedy, arms: Arms) -> None:
        self.policy, self.arms = policy, arms

    def __call__(self, out: ActionValues) -> Array:
        return self.policy(out)

    def mode(self, out: ActionValues) -> Array:
        return self.policy.mode(out)

    def probabilities(self, out: ActionValues) -> Array:
        """As `EpsilonGreedy.probabilities`."""
        return self.policy.probabilities(out)

    def idle(self, pending: Array) -> None:
        self.policy.idle(pending)

    def state_dict(self) -> State:
        return {"policy": self.policy.state_dict(), "arms": self.arms.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.policy.load_state_dict(state["policy"])
        self.arms.load_state_dict(state["arms"])
