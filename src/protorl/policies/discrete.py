"""Policies over a finite set of actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from protorl.data import ActionSpec, Array, Constant, Linear, ProtoRLError, Schedule, State, as_schedule
from protorl.functional import pick
from protorl.policies.draws import Draws, as_numpy, discrete
from protorl.policies.kernels import draw, toss
from protorl.policies.outputs import ActionValues, Logits, Out


class Policy(Protocol[Out]):
    """`policy(out)` explores, `policy.mode(out)` does not; `out` is a head's output, the answer actions [N, *A] in numpy.

    One with a clock has `idle(pending)`, too, by which it is told of rows [N] bool that spent the step on their reset.
    """

    def __call__(self, out: Out) -> Array: ...

    def mode(self, out: Out) -> Array: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Restarting(Policy[Out], Protocol[Out]):
    """A policy whose noise begins anew with each episode: told before it acts in which rows [N] bool one starts."""

    def restart(self, first: Array) -> None: ...


class Stochastic(Policy[Out], Protocol[Out]):
    """A policy with a density. `sample(out)` acts, in numpy; `log_prob` and `entropy` are for learning, differentiable."""

    def sample(self, out: Out) -> tuple[Array, Array]: ...

    def log_prob(self, out: Out, action: Tensor) -> Tensor: ...

    def entropy(self, out: Out) -> Tensor: ...


class Greedy:
    """The action of the largest value, the first of several: `out.q` [..., A] -> [...]. It never explores.

    Raises ProtoRLError unless the actions are discrete.
    """

    def __init__(self, action: ActionSpec) -> None:
        discrete(action, "Greedy")

    def __call__(self, out: ActionValues) -> Array:
        return self.mode(out)

    def mode(self, out: ActionValues) -> Array:
        best: Array = as_numpy(out.q).argmax(-1)
        return best

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


class EpsilonGreedy:
    """With probability ε a uniformly random action, else the greedy one; each row tosses a coin of its own.

    `out.q` [N, A] -> [N]; an action of the value -inf is not available, and not taken. Of teams [N, M, A] -> [N, M]: each agent
    tosses a coin of its own, from its row's stream.
    `epsilon` is a number, a schedule over this policy's clock, or one number per row [N]
    (`apex_epsilons`). The clock counts agent steps: N per exploring call, less rows that were `idle`, so that a schedule means
    the same for any number of environments. `rows` names the environments served (row i draws from stream i, whoever hosts
    it); None: 0..N-1.
    `pace`: agent steps that all actors together take for one of these rows.
    Raises ProtoRLError for an epsilon outside [0, 1], actions that are not discrete, or a changed number of rows.
    Source: Mnih et al. 2015, Algorithm 1.
    """

    pace: float = 1

    def __init__(
        self, action: ActionSpec, epsilon: float | Schedule | Array, seed: int = 0, rows: Sequence[int] | None = None
    ) -> None:
        discrete(action, "EpsilonGreedy")
        if isinstance(epsilon, np.ndarray):
            rows = range(len(epsilon)) if rows is None else rows
            if epsilon.shape != (len(rows),):
                raise ProtoRLError(f"epsilon has shape {epsilon.shape} but there are {len(rows)} rows: give one for each")
            values: Any = epsilon
            self.schedule: Schedule = Constant(values)
        else:
            self.schedule = as_schedule(epsilon)
            values = [epsilon.start, epsilon.end] if isinstance(epsilon, Linear) else [self.schedule(0)]
        if not all(0 <= value <= 1 for value in values):
            raise ProtoRLError(f"epsilon {[float(v) for v in values]} is not a probability: keep it in [0, 1]")
        self.draws, self.each = Draws(seed, "epsilon-greedy", rows), action.numbers
        self.steps: float = 0

    def __call__(self, out: ActionValues) -> Array:
        action, q, epsilon = self.mode(out), as_numpy(out.q), self.schedule(int(self.steps))
        coins = self.draws.take(len(action), 2 * self.each).reshape(-1, 2)
        if self.each > 1 and isinstance(epsilon, np.ndarray):
            epsilon = epsilon.repeat(self.each)
        toss(action.reshape(-1), coins, epsilon, q.reshape(-1, q.shape[-1]))
        self.steps += len(action) * self.pace
        return action

    def idle(self, pending: Array) -> None:
        """These rows [N] bool of the last call spend the step on their reset: they do not count."""
        self.steps -= int(np.count_nonzero(pending)) * self.pace

    def mode(self, out: ActionValues) -> Array:
        best: Array = as_numpy(out.q).argmax(-1)
        return best

    def state_dict(self) -> State:
        return {"steps": self.steps, "draws": self.draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.steps = state["steps"]
        self.draws.load_state_dict(state["draws"])


def apex_epsilons(n: int, base: float = 0.4, alpha: float = 7.0) -> Array:
    """One fixed ε per actor: `ε_i = base^(1 + alpha i / (n - 1))`, i = 0..n-1, and `base` for a single one: [n] float64.

    Raises ProtoRLError for n below 1. Source: Horgan et al. 2018 (Ape-X), section 4.1.
    """
    if n < 1:
        raise ProtoRLError(f"{n} actors cannot explore: ask for at least 1")
    return np.float64(base) ** (1 + alpha * np.arange(n) / max(n - 1, 1))


class Categorical:
    """Samples an action from `softmax(logits)`; each row draws from a stream of its own: `out.logits` [N, n] -> [N].

    With multidiscrete actions, A choices at once, each for itself: `out.logits` [N, A, n] -> [N, A]; log-probabilities and
    entropies add up. Of teams, [N, M, n] -> [N, M] (or [N, M, A]), each agent has its own. `mode` is the likeliest action.
    `rows` names the environments served, as in `EpsilonGreedy`. A logit of -inf forbids an action: it is never drawn. Raises
    ProtoRLError for other actions or a changed number of rows.
    """

    def __init__(self, action: ActionSpec, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        if action.kind != "multidiscrete":
            discrete(action, "Categorical")
        self.several, self.numbers = bool(action.nvec), action.numbers
        self.draws = Draws(seed, "categorical", rows)

    def __call__(self, out: Logits) -> Array:
        return self.sample(out)[0]

    def sample(self, out: Logits) -> tuple[Array, Array]:
        """Actions, and their log-probabilities [N]."""
        logits = as_numpy(out.logits)
        z = logits.reshape(-1, logits.shape[-1])  # [N * choices of a row, n]
        z = z - z.max(-1, keepdims=True)
        u = self.draws.take(len(logits), self.numbers)
        action, chosen, total = draw(z, np.exp(z, dtype=np.float64), u.reshape(-1))
        shape = logits.shape[:-1]
        action, log_prob = action.reshape(shape), (chosen - np.log(total)).astype(np.float32).reshape(shape)
        return action, log_prob.sum(-1) if self.several else log_prob

    def mode(self, out: Logits) -> Array:
        best: Array = as_numpy(out.logits).argmax(-1)
        return best

    def restart(self, first: Array) -> None:
        """Episodes start in these rows [N] bool: nothing begins anew."""

    def log_prob(self, out: Logits, action: Tensor) -> Tensor:
        """`log π(action)`: `out.logits` [..., n], integer `action` [...] -> [...], differentiable."""
        log_p = pick(torch.log_softmax(out.logits, -1), action)
        return log_p.sum(-1) if self.several else log_p

    def entropy(self, out: Logits) -> Tensor:
        """`-Σ_a π(a) log π(a)` in nats: `out.logits` [..., n] -> [...], differentiable; forbidden actions add 0."""
        log_p = torch.log_softmax(out.logits, -1)
        log_p = log_p.clamp(min=torch.finfo(log_p.dtype).min)  # 0 · -inf would be NaN
        entropy = -(log_p.exp() * log_p).sum(-1)
        return entropy.sum(-1) if self.several else entropy

    def state_dict(self) -> State:
        return {"draws": self.draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.draws.load_state_dict(state["draws"])
