"""When a run logs, evaluates and saves."""

from __future__ import annotations

from protorl.data import State
from protorl.loops.monitor import NEVER


class Clock:
    """The events of a run, in agent steps: each comes at every multiple of its period, and all of them at the end.

    total: the run's length. every: the period of each event by name; 0: never.
    """

    def __init__(self, total: int, **every: int) -> None:
        self.total, self.every = total, every
        self.next = {name: period if period else NEVER for name, period in every.items()}
        self.wake = self.soonest()

    def soonest(self) -> int:
        """The agent step of the next event."""
        return min(*self.next.values(), self.total)

    def room(self, steps: int) -> int:
        """Agent steps that may pass until something is due; 0 when it is due now."""
        return max(self.wake - steps, 0)

    def due(self, steps: int) -> set[str]:
        """What is due by now, and from now on the next time of each; where the run ends, all that it does at all."""
        due = {name for name, at in self.next.items() if steps >= at}
        for name in due:
            self.next[name] = (steps // self.every[name] + 1) * self.every[name]
        self.wake = self.soonest()
        return due if steps < self.total else due | {name for name, period in self.every.items() if period}

    def state_dict(self) -> State:
        return dict(self.next)

    def load_state_dict(self, state: State, steps: int) -> None:
        """Go on at this agent step; an event whose period is another one now comes at the next multiple of that."""
        for name, period in self.every.items():
            at = state.get(name, NEVER)
            if period:
                self.next[name] = at if at % period == 0 and at <= steps + period else (steps // period + 1) * period
        self.wake = self.soonest()
