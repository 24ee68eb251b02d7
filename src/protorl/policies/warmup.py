"""Uniformly random actions before the policy's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import numpy as np

from protorl.data import ActionSpec, Array, ProtoRLError, State
from protorl.policies.discrete import Policy
from protorl.policies.draws import Draws, as_numpy
from protorl.policies.outputs import Out


class UniformActions:
    """Uniformly random actions [N, *A] for N rows (environments), each from a stream of its own: integers for choices, numbers
    in [-1, 1] for box actions. Raises ProtoRLError for another kind of action, a changed number of rows."""

    def __init__(self, action: ActionSpec, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        if action.kind not in ("discrete", "multidiscrete", "box"):
            raise ProtoRLError(f"Warmup cannot draw {action.kind!r} actions: it knows discrete, multidiscrete and box")
        self.action = action
        self.draws = Draws(seed, "warm-up", rows, block=max(1024, action.numbers))

    def __call__(self, n: int, available: Array | None = None) -> Array:
        """available: [N, A] bool, of a choice; None: all."""
        return self.action.uniform(self.draws.take(n, self.action.numbers), available)

    def state_dict(self) -> State:
        return self.draws.state_dict()

    def load_state_dict(self, state: State) -> None:
        self.draws.load_state_dict(state)


class Warmup(Generic[Out]):
    """Uniformly random actions for the first `steps` agent steps, then `policy`; `mode` is always the policy's.

    The clock counts N per exploring call; the inner policy's own clock starts afterwards. Discrete and multidiscrete
    actions are integers, box actions lie in [-1, 1]. `rows` names the environments served (None: 0..N-1), each with a
    stream of its own. `pace`: agent steps that all actors together take for one of these rows.
    Raises ProtoRLError for negative `steps`, an unknown kind of action, a changed number of rows.
    """

    pace: float = 1

    def __init__(
        self, policy: Policy[Out], action: ActionSpec, steps: int, seed: int = 0, rows: Sequence[int] | None = None
    ) -> None:
        if steps < 0:
            raise ProtoRLError(f"a warm-up of {steps} steps is impossible: give 0 or more")
        self.policy, self.steps = policy, steps
        self.random = UniformActions(action, seed, rows)
        self.done: float = 0
        self.warming = steps > 0  # whether the last actions were random

    def __call__(self, out: Out) -> Array:
        self.warming = self.done < self.steps
        if not self.warming:
            return self.policy(out)
        outputs: Any = out  # a NamedTuple, of N rows
        n = len(outputs[0])
        self.done += n * self.pace
        numbers = getattr(out, "q", getattr(out, "logits", None)) if self.random.action.kind == "discrete" else None
        available = None if numbers is None else as_numpy(numbers) != -np.inf  # which is what is not available
        return self.random(n, available)

    def mode(self, out: Out) -> Array:
        return self.policy.mode(out)

    def restart(self, first: Array) -> None:
        """For policies whose noise begins anew with each episode (`NoisyDeterministic`)."""
        inner: Any = self.policy
        inner.restart(first)

    def idle(self, pending: Array) -> None:
        """These rows [N] bool of the last call spend the step on their reset: they do not count."""
        if self.warming:
            self.done -= int(np.count_nonzero(pending)) * self.pace
        elif hasattr(self.policy, "idle"):
            self.policy.idle(pending)

    def state_dict(self) -> State:
        return {"done": self.done, "draws": self.random.state_dict(), "policy": self.policy.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.done = state["done"]
        self.random.load_state_dict(state["draws"])
        self.policy.load_state_dict(state["policy"])
