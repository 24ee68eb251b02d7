"""Rate: when to learn, from agent steps alone, so that it does not depend on the number of environments."""

from __future__ import annotations

from protorl.data import ProtoRLError, State


class Rate:
    """`updates` updates each time the clock passes a multiple of `every` agent steps, once `start` steps have been stored.

    start, every: agent steps. updates: updates per `every` steps.
    """

    def __init__(self, start: int = 1_000, every: int = 1, updates: int = 1) -> None:
        for name, value, least in (("warmup_steps", start, 0), ("update_every", every, 1), ("updates", updates, 1)):
            if value < least:
                raise ProtoRLError(f"{name} {value} is too small: use {least} or more")
        self.start, self.every, self.updates = start, every, updates
        self.steps = 0
        self.credit = 0

    def count(self, steps: int) -> None:
        """`steps` more agent steps were stored."""
        before, self.steps = max(self.steps, self.start), self.steps + steps
        if self.steps > before:
            self.credit += self.updates * (self.steps // self.every - before // self.every)

    def expected(self, steps: int) -> int:
        """How many updates a training of so many agent steps makes."""
        return self.updates * max(steps // self.every - self.start // self.every, 0)

    def take(self) -> int:
        """How many updates are due now; they count as made."""
        due, self.credit = self.credit, 0
        return due

    def state_dict(self) -> State:
        return {"steps": self.steps, "credit": self.credit}

    def load_state_dict(self, state: State) -> None:
        self.steps, self.credit = state["steps"], state["credit"]
