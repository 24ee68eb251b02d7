"""Evaluations during a run: the last one, the best, and the weights that were best."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from protorl.data import ProtoRLError, State
from protorl.digits import figure
from protorl.loops.evaluate import Evaluation, Stopped

Play = Callable[[Callable[[], bool]], Evaluation]
"""Plays whole episodes, which touch nothing of training; raises Stopped where its argument, asked before each step, says so."""


class Evaluations:
    """Plays when asked and remembers the last and the best mean return, and how far the returns behind them were spread.

    play: None: there are no evaluations. keep: saves the weights that were just played, because none were better; notify: told
    where the disk refuses them, or an episode was cut. stop: whether somebody asked the run to stop.
    """

    def __init__(
        self, play: Play | None, keep: Callable[[], object], notify: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        self.play, self.keep, self.notify, self.stop = play, keep, notify, stop
        self.last: float | None = None
        self.last_std: float | None = None
        self.best = -math.inf
        self.best_std: float | None = None
        self.owed = False
        """Whether one is due that was not played to its end, because somebody asked to stop."""
        self.remarked = False

    def figures(self) -> dict[str, float]:
        """Play, and what a row of the log says of it; nothing where it was stopped."""
        if self.play is None:
            return {}
        self.owed = True
        if self.stop():
            return {}
        try:
            result = self.play(self.stop)
        except Stopped:
            return {}
        self.owed = False
        if result.remark is not None and not self.remarked:  # once a run
            self.remarked = True
            self.notify(result.remark)
        self.last, self.last_std = result.mean, result.std
        if result.mean >= self.best:
            self.best, self.best_std = result.mean, result.std
            try:
                self.keep()
            except ProtoRLError as error:
                self.notify(str(error))
        members = {f"eval_return_{name}": float(np.mean(returns)) for name, returns in result.members.items()}
        cut = {"eval_cut": result.cut} if result.cut else {}
        return {"eval_return": result.mean, "eval_std": result.std, **members, **cut}

    def shown(self) -> str | None:
        """The last one, as the progress line has it."""
        return None if self.last is None else figure(self.last, self.last_std)

    def state_dict(self) -> State:
        return {
            "best": self.best,
            "best_std": self.best_std,
            "last_eval": self.last,
            "last_std": self.last_std,
            "evaluation_owed": self.owed,
        }

    def load_state_dict(self, state: State) -> None:
        self.best, self.last = state["best"], state["last_eval"]
        # Checkpoints of before did not keep these.
        self.best_std, self.last_std = state.get("best_std"), state.get("last_std")
        self.owed = state.get("evaluation_owed", False)
