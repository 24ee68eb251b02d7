"""Rate: when to learn, from agent steps alone, so that it does not depend on the number of environments."""

from __future__ import annotations

from protorl.data import ProtoRLError, State


class Rate:
    """`updates` updates each time the clock passes a multiple of `every` agent steps, once `start` steps have been stored.
    Nothing is owed for steps that came while there was too little to sample: no burst follows them.

    So many examples are drawn for each step that is stored, however fast either side is: without credit no update is due, and a
    loop makes those that are due before it takes more steps in. Actors that work beside the learner may have taken some steps
    that are not stored yet, and wait then (`WorkerActors`: two chunks of each worker).

    start, every: agent steps. updates: updates per `every` steps.
    """

    def __init__(self, start: int = 1_000, every: int = 1, updates: int = 1) -> None:
        for name, value, least in (
            ("warmup_steps", start, 0),
            ("update_every", every, 1),
            ("updates", updates, 1),
        ):
            if value < least:
                raise ProtoRLError(f"{name} {value} is too small: use {least} or more")
        self.start, self.every, self.updates = start, every, updates
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

    def state_dict(self) -> State:
        return {"steps": self.steps, "credit": self.credit}

    def load_state_dict(self, state: State) -> None:
        self.steps, self.credit = state["steps"], state["credit"]
