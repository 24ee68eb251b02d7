"""A training run with a folder: what watches the loop and calls, when they are due, the log, evaluations and checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protorl.checkpoint import Loaded
from protorl.data import Batch, NotFinite, ProtoRLError, State, Update
from protorl.loops.monitor import Monitor
from protorl.parts import first_not_finite
from protorl.runs.clock import Clock
from protorl.runs.divergence import Diverged, diverged
from protorl.runs.evaluations import Evaluations, Play
from protorl.runs.log import Log
from protorl.runs.parts import Learner, Plays, Remembers
from protorl.runs.progress import Progress
from protorl.runs.saving import Gone, Saving
from protorl.runs.signals import Interrupted, Signals

WAITS = ("learner_waits", "actors_wait")
"""Shares of time among the figures of actors, which the progress line shows."""


class Run(Monitor):
    """Watches a training loop, writes its folder, and brings it back from there.

    folder: holds metrics.csv, TensorBoard events and checkpoints/. log_every, eval_every, checkpoint_every: agent steps
    (0: never). evaluation: plays the evaluation episodes, unless it is told to stop, and touches nothing of training. keep:
    checkpoints kept.
    frame_skip: an emulator's frames per agent step, to log them too. about: plain data that goes with each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        agent: Learner,
        memory: Remembers,
        actors: Plays,
        *,
        steps: int,
        log_every: int = 1_000,
        eval_every: int = 0,
        checkpoint_every: int = 0,
        keep: int = 2,
        evaluation: Play | None = None,
        frame_skip: int | None = None,
        about: State | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.agent, self.actors = Path(folder), agent, actors
        self.clock = Clock(steps, log=log_every, eval=eval_every if evaluation else 0, checkpoint=checkpoint_every)
        self.log = Log(self.folder, frame_skip, notify=self.say)
        about = {} if about is None else about
        self.saving = Saving(self.folder, keep, agent, memory, actors, self, notify=self.say, about=about)
        self.signals = Signals()
        self.evaluations = Evaluations(
            evaluation,
            lambda: self.saving.save_best(self.steps),
            notify=self.say,
            stop=lambda: self.signals.received is not None,
        )
        self.progress: Progress | None = None
        self.waits: dict[str, str] = {}  # as the last row of the log has it
        self.looks_at_once = agent.device.type == "cpu"

    # What the loop calls

    def room(self) -> int:
        """Agent steps that may pass until something is due: so many may be taken at once."""
        return self.clock.room(self.steps)

    def updated(self, batch: Batch, update: Update) -> None:
        super().updated(batch, update)
        self.log.add(update.metrics)
        # On the CPU a look at the loss waits for nothing; on a GPU it would, so there it happens when metrics are written.
        if self.looks_at_once and "loss" in update.metrics and not math.isfinite(update.metrics["loss"].item()):
            raise self.diverged("the loss is not finite", batch)

    def tick(self) -> None:
        if self.steps >= self.clock.wake or self.signals.received is not None:
            self.events()
        if self.progress is not None and time.monotonic() >= self.progress.due:
            self.show()

    # What is due

    def events(self) -> None:
        """Everything that is due now; all but an evaluation where somebody asked to stop."""
        if not self.folder.is_dir():
            raise Gone(f"{self.folder} was removed while it was trained in: stopped at step {self.steps}, and nothing is saved")
        due = self.clock.due(self.steps)  # first, so that a checkpoint knows what comes next
        self.write(evaluate="eval" in due)
        stop = self.signals.received is not None
        if "checkpoint" in due or stop:
            self.save()
        self.stop = stop

    def write(self, evaluate: bool) -> None:
        """A row of the log, with an evaluation or without."""
        self.log.episodes(self.actors.episodes())
        means = self.log.means.pop()
        for name, value in means.items():
            if not math.isfinite(value):
                raise self.diverged(f"{name} is {value}")
        row = self.log.row(means, self.steps, self.updates)
        figures = self.actors.figures()
        self.waits = {name: f"{100 * figures[name]:.0f} %" for name in WAITS if name in figures}
        row |= figures
        self.log.write(self.steps, row | (self.evaluations.figures() if evaluate else {}))

    def catch_up(self) -> None:
        """The evaluation that was due when the run was asked to stop, before it goes on."""
        if self.evaluations.owed:
            self.log.write(self.steps, self.evaluations.figures())
            self.stop = self.evaluations.owed  # asked to stop once more
            if not self.stop:
                self.save()

    def save(self) -> None:
        """A checkpoint, unless the agent has diverged."""
        bad = first_not_finite(self.agent, "agent")
        if bad:
            raise self.diverged(f"{bad} is not finite")
        self.saving.save(self.steps)

    def resume(self, refill: bool = False) -> Loaded | None:
        """Load the newest whole checkpoint (`refill`: or one with a damaged memory, which begins anew); None where the run has
        none yet and starts from the beginning."""
        return self.saving.resume(refill)

    def state_dict(self) -> State:
        """What the run itself remembers."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            **self.evaluations.state_dict(),
            "recent": list(self.log.recent),
            "next": self.clock.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.steps, self.updates = state["steps"], state["updates"]
        self.evaluations.load_state_dict(state)
        self.log.recent.extend(state["recent"])
        self.clock.load_state_dict(state["next"], self.steps)

    # Words

    def say(self, text: str) -> None:
        """One sentence to the person watching, if they still are."""
        with suppress(OSError):  # a terminal that is gone: a reason to stop (SIGHUP), none to lose what was learned
            if self.progress is not None:
                self.progress.print(text)
            else:
                print(text, flush=True)

    def show(self) -> None:
        """How far the run is, on the progress line."""
        self.log.episodes(self.actors.episodes())
        if self.progress is None:
            return
        with suppress(OSError):  # as above
            scores = {"return": self.log.recent_return(), "eval": self.evaluations.shown()}
            self.progress.update(self.steps, self.updates, **self.waits, **scores)

    def diverged(self, what: str, batch: Batch | None = None) -> Diverged:
        """The end of a run in which something is not finite."""
        at, last = f"step {self.steps}, update {self.updates}", self.saving.last()
        return diverged(what, at, batch, self.agent, last, self.folder)

    # Beginning and end

    @contextmanager
    def watch(self, progress: bool = True) -> Iterator[Run]:
        """Around `train(..., monitor=run)`: opens the logs, catches Ctrl-C, SIGTERM and SIGHUP, closes everything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.opened(self.steps, self.updates), self.showing(progress), self.signals.caught():
            try:
                self.catch_up()
                yield self
            except (Diverged, Gone):
                raise
            except NotFinite as error:
                raise self.diverged(str(error), error.batch) from error
            except SystemExit as error:
                if not isinstance(error.__context__, BrokenPipeError):  # what rich makes of it
                    raise
                self.progress = None
                raise Interrupted(f"nobody reads what is said: {self.saving.rescue(self.steps)}", 141) from error
            except ProtoRLError as error:
                if first_not_finite(self.agent, "agent"):
                    raise self.diverged(str(error)) from error
                raise ProtoRLError(f"{error}; {self.saving.rescue(self.steps)}") from error
            if self.signals.received is not None:
                raise self.interrupted(self.signals.received)
            if self.saving.unsaved is not None:
                raise ProtoRLError(f"the training ended at step {self.steps} and is not saved: {self.saving.unsaved}")

    @contextmanager
    def showing(self, progress: bool) -> Iterator[None]:
        """The progress line, if there is to be one."""
        if not progress:
            yield
            return
        logger, self.progress = logging.getLogger("protorl"), Progress(self.clock.total, self.steps, updates=self.updates)
        hears = self.progress.hears
        logger.addHandler(hears)
        try:
            yield
        finally:
            logger.removeHandler(hears)
            if self.progress is not None:
                self.show()
                with suppress(OSError):
                    self.progress.close()
                self.progress = None

    def interrupted(self, number: int) -> ProtoRLError:
        """The end of a run that was asked to stop by this signal."""
        if self.saving.unsaved is not None:
            return ProtoRLError(f"stopped at step {self.steps} and not saved: {self.saving.unsaved}")
        last = self.saving.last()
        saved = "and saved" if last == self.steps else f"(the last checkpoint: {'none' if last is None else last})"
        return Interrupted(f"stopped at step {self.steps} {saved}: continue with `protorl resume {self.folder}`", 128 + number)
