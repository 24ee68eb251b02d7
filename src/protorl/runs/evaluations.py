"""Evaluations during a run: the last one, the best, and the weights that were best."""

from __future__ import annotations

import math
from collections.abc import Callable

from protorl.data import ProtoRLError, State
from protorl.loops.evaluate import Evaluation


class Evaluations:
    """Plays when asked and remembers the last and the best mean return.

    play: whole episodes that touch nothing of training; None: there are no evaluations. keep: saves the weights that were just
    played, because none were better; notify: told where the disk refuses them.
    """

    def __init__(
        self, play: Callable[[], Evaluation] | None, keep: Callable[[], object], notify: Callable[[str], None]
    ) -> None:
        self.play, self.keep, self.notify = play, keep, notify
        self.last: float | None = None
        self.best = -math.inf

    def figures(self) -> dict[str, float]:
        """Play, and what a row of the log says of it."""
        if self.play is None:
            return {}
        result = self.play()
        self.last = result.mean
        if result.mean >= self.best:
            self.best = result.mean
            try:
                self.keep()
            except ProtoRLError as error:
                self.notify(str(error))
        return {"eval_return": result.mean, "eval_std": result.std}

    def state_dict(self) -> State:
        return {"best": self.best, "last_eval": self.last}

    def load_state_dict(self, state: State) -> None:
        self.best, self.last = state["best"], state["last_eval"]
