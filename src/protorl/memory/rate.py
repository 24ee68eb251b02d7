"""Rate: when to learn, from agent steps alone, so that it does not depend on the number of environments."""

from __future__ import annotations

from protorl.data import ProtoRLError, State


class Rate:
    """`updates` updates each time the clock passes a multiple of `every` agent steps, once `start` steps have been stored.
    Nothing is owed for steps that came while there was too little to sample: no burst follows them.

    Neither side runs ahead: without credit no update is due, and actors that work beside the learner wait while they are more
    than `tolerance` agent steps past the next update (`ahead`).

    start, every, tolerance: agent steps. updates: updates per `every` steps.
    """

    def __init__(self, start: int = 1_000, every: int = 1, updates: int = 1, tolerance: int = 0) -> None:
        for name, value, least in (
            ("warmup_steps", start, 0),
            ("update_every", every, 1),
            ("updates", updates, 1),
            ("tolerance", tolerance, 0),
        ):
            if value < least:
                raise ProtoRLError(f"{name} {value} is too small: use {least} or more")
        self.start, self.every, self.updates, self.tolerance = start, every, updates, tolerance
        self.steps = 0
        self.credit = 0

    def count(self, steps: int, idle: int = 0) -> None:
        """`steps` more agent steps were stored, the first `idle` of them while nothing could be sampled."""
        before, self.steps = max(self.steps + idle, self.start), self.steps + steps
        if self.steps > before:
            self.credit += self.updates * (self.steps // self.every - before // self.every)

    def expected(self, steps: int, idle: int = 0) -> int:
        """How many updates a training of so many agent steps makes, nothing of which could be sampled in the first `idle`."""
        return self.updates * max(steps // self.every - max(self.start, idle) // self.every, 0)

    def take(self) -> int:
        """How many updates are due now; they count as made."""
        due, self.credit = self.credit, 0
        return due

    @property
    def next(self) -> int:
        """The clock, in agent steps, at which the first update that is not made yet is due."""
        unmade = -(-self.credit // self.updates)
        return (max(self.steps, self.start) // self.every - unmade + 1) * self.every

    def ahead(self, taken: int = 0) -> bool:
        """Whether actors must wait that have taken `taken` agent steps more than are stored."""
        return self.steps + taken > self.next + self.tolerance

    def state_dict(self) -> State:
        return {"steps": self.steps, "credit": self.credit}

    def load_state_dict(self, state: State) -> None:
        self.steps, self.credit = state["steps"], state["credit"]
