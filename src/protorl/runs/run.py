"""A training run with a folder: metrics, progress, evaluation, checkpoints, and a clean end whatever happens."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from protorl.checkpoint import Checkpoints
from protorl.runs.log import MetricsFile, Progress, RunningMeans, TensorBoardLog
from protorl.loops.evaluate import Evaluation
from protorl.loops.monitor import NEVER, Monitor
from protorl.data import Batch, ProtoRLError, State, Update


class Interrupted(ProtoRLError):  # noqa: N818 - it is not a mistake
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved itself. `code` is the exit status."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Diverged(ProtoRLError):  # noqa: N818 - it says what happened
    """A loss, a parameter or a metric is not finite: there is nothing worth saving since the last checkpoint."""


class Run(Monitor):
    """Watches a training loop, writes its folder, and brings it back from there.

    folder: holds metrics.csv, TensorBoard events and checkpoints/. log_every, eval_every, checkpoint_every: agent steps
    (0: never). evaluation: plays the evaluation episodes and touches nothing of training. keep: checkpoints kept.
    frame_skip: an emulator's frames per agent step, to log them too.
    """

    def __init__(
        self,
        folder: Path,
        agent: Any,
        memory: Any,
        actors: Any,
        *,
        steps: int,
        log_every: int = 1_000,
        eval_every: int = 0,
        checkpoint_every: int = 0,
        keep: int = 2,
        evaluation: Callable[[], Evaluation] | None = None,
        frame_skip: int | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.total = Path(folder), steps
        self.agent, self.memory, self.actors = agent, memory, actors
        self.every = {"log": log_every, "eval": eval_every if evaluation else 0, "checkpoint": checkpoint_every}
        self.next = {name: every if every else NEVER for name, every in self.every.items()}
        self.evaluation = evaluation
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep, notify=self.say)
        self.means = RunningMeans()
        self.recent: deque[float] = deque(maxlen=100)
        self.finished: list[Any] = []
        self.best = -math.inf
        self.last_eval: float | None = None
        self.interrupt: int | None = None
        self.progress: Progress | None = None
        self.logged = (0, 0.0)
        self.show_at = 0.0
        self.wake = 0
        self.on_cpu = agent.device.type == "cpu"
        self.frame_skip = frame_skip

    # What the loop calls

    def room(self) -> int:
        return self.wake - self.steps

    def updated(self, batch: Batch, update: Update) -> None:
        super().updated(batch, update)
        self.means.add(update.metrics)
        # On the CPU a look at the loss waits for nothing; on a GPU it would, so there it happens when metrics are written.
        if self.on_cpu and "loss" in update.metrics and not math.isfinite(update.metrics["loss"].item()):
            self.diverged(batch)

    def tick(self) -> None:
        if self.steps >= self.wake or self.interrupt is not None:
            self.events()
        if self.progress is not None and time.monotonic() > self.show_at:
            self.show()

    def events(self) -> None:
        due = {name for name, at in self.next.items() if self.steps >= at}
        over = self.steps >= self.total
        for name in due:  # first, so that a checkpoint knows what comes next
            self.next[name] = (self.steps // self.every[name] + 1) * self.every[name]
        if due or over or self.interrupt is not None:
            self.log(evaluate="eval" in due or (over and self.every["eval"] > 0))
        if "checkpoint" in due or (over and self.every["checkpoint"]) or self.interrupt is not None:
            self.save()
        self.schedule()
        self.stop = self.interrupt is not None

    def schedule(self) -> None:
        self.wake = min(*self.next.values(), self.total)

    # Metrics

    def log(self, evaluate: bool) -> None:
        self.collect()
        metrics = self.means.pop()
        for name, value in metrics.items():
            if not math.isfinite(value):
                self.diverged(None, f"{name} is {value}")
        if self.finished:
            metrics["return"] = float(np.mean([episode.ret for episode in self.finished]))
            metrics["length"] = float(np.mean([episode.length for episode in self.finished]))
            metrics["episodes"] = len(self.finished)
            self.finished = []
        metrics["updates"] = self.updates
        if self.frame_skip is not None:  # an emulator's frames; everything else here counts agent steps
            metrics["frames"] = self.steps * self.frame_skip
        now = time.monotonic()
        metrics["steps_per_second"] = (self.steps - self.logged[0]) / max(now - self.logged[1], 1e-9)
        if evaluate and self.evaluation is not None:
            result = self.evaluation()
            self.last_eval = metrics["eval_return"] = result.mean
            metrics["eval_std"] = result.std
            if result.mean >= self.best:
                self.best = result.mean
                try:
                    self.checkpoints.save_weights("best", {"step": self.steps, "agent": self.agent.state_dict()})
                except ProtoRLError as error:
                    self.say(str(error))
            now = time.monotonic()
        self.metrics.write(self.steps, metrics)
        self.board.write(self.steps, metrics)
        self.logged = (self.steps, now)

    def collect(self) -> None:
        episodes = self.actors.episodes()
        self.finished += episodes
        self.recent.extend(episode.ret for episode in episodes)

    def show(self) -> None:
        self.collect()
        self.show_at = time.monotonic() + 0.25
        if self.progress is not None:
            mean = float(np.mean(self.recent)) if self.recent else None
            self.progress.update(self.steps, **{"return": mean, "eval": self.last_eval})

    def say(self, text: str) -> None:
        """One sentence to the person watching."""
        if self.progress is not None:
            self.progress.print(text)
        else:
            print(text, flush=True)

    # Saving and coming back

    def save(self) -> None:
        """A checkpoint of everything. Where the disk refuses, or an environment does not tell its state, training goes on and
        the previous checkpoint stays."""
        bad = first_not_finite(self.agent.state_dict(), "agent")
        if bad:
            self.diverged(None, f"{bad} is not finite")
        self.actors.rebuild(self.steps)
        try:
            self.checkpoints.save(self.steps, self.state_dict(), self.memory)
        except ProtoRLError as error:
            self.say(str(error))

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False where the run has none yet and starts from the beginning."""
        if self.checkpoints.latest() is None:
            return False
        _, state = self.checkpoints.load(rows=self.memory)
        self.load_state_dict(state)
        return True

    def state_dict(self) -> State:
        return {
            "run": {
                "steps": self.steps,
                "updates": self.updates,
                "best": self.best,
                "last_eval": self.last_eval,
                "recent": list(self.recent),
                "next": dict(self.next),
            },
            "agent": self.agent.state_dict(),
            "memory": self.memory.state_dict(),
            "actors": self.actors.state_dict(),
            "torch": torch.get_rng_state(),
            "cuda": [] if self.on_cpu else torch.cuda.get_rng_state_all(),  # asking starts CUDA, which takes half a gigabyte
        }

    def load_state_dict(self, state: State) -> None:
        run = state["run"]
        self.steps, self.updates = run["steps"], run["updates"]
        self.best, self.last_eval = run["best"], run["last_eval"]
        self.recent.extend(run["recent"])
        self.next.update({name: at for name, at in run["next"].items() if self.every[name]})
        for name in ("agent", "memory", "actors"):
            getattr(self, name).load_state_dict(state[name])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and not self.on_cpu:
            torch.cuda.set_rng_state_all(state["cuda"])

    # Ends

    def diverged(self, batch: Batch | None, what: str = "the loss is not finite") -> None:
        columns = {name: value for name, value in batch.columns.items() if name != "index"} if batch is not None else {}
        culprit = first_not_finite(columns, "batch") or first_not_finite(self.agent.state_dict(), "agent")
        last = self.checkpoints.latest()
        good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
        where = f"the first bad tensor is {culprit}" if culprit else "parameters and inputs are finite, so the loss overflowed"
        raise Diverged(
            f"training diverged at step {self.steps}, update {self.updates}: {what}; {where}; {good} in {self.folder}. "
            "Try a lower lr, max_grad_norm, or look at the rewards."
        )

    @contextmanager
    def watch(self, progress: bool = True) -> Iterator[Run]:
        """Around `train(..., monitor=run)`: opens the logs, catches Ctrl-C and SIGTERM, closes everything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics = MetricsFile(self.folder / "metrics.csv", notify=self.say)
        self.metrics.truncate(self.steps)
        before = any(self.folder.glob("events.out.tfevents.*"))
        self.board = TensorBoardLog(self.folder, resumed_at=self.steps if before else None, notify=self.say)
        self.logged = (self.steps, time.monotonic())
        self.schedule()
        handlers = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers[number] = signal.signal(number, self.on_signal)
        except ValueError:  # not in the main thread: signals are somebody else's
            pass
        try:
            if progress:
                self.progress = Progress(self.total, self.steps)
            yield self
            if self.interrupt is not None:
                latest = self.checkpoints.latest()
                saved = (
                    "and saved" if latest == self.steps else f"(the last checkpoint: {'none' if latest is None else latest})"
                )
                raise Interrupted(
                    f"stopped at step {self.steps} {saved}: continue with `protorl resume {self.folder}`", 128 + self.interrupt
                )
        except (Interrupted, Diverged):
            raise
        except ProtoRLError as error:
            if first_not_finite(self.agent.state_dict(), "agent"):
                self.diverged(None, str(error))
            raise ProtoRLError(f"{error}; {self.rescue()}") from error
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self.progress is not None:
                self.show()
                self.progress.close()
                self.progress = None
            self.board.close()

    def rescue(self) -> str:
        """Something failed outside the algorithm (an environment, say): keep what was learned, with new episodes."""
        try:
            self.actors.restart(self.steps)
            self.checkpoints.save(self.steps, self.state_dict(), self.memory)
        except Exception as second:
            last = self.checkpoints.latest()
            kept = "there is no checkpoint" if last is None else f"the last checkpoint is step {last} in {self.folder}"
            return f"saving failed too ({second}), {kept}"
        return f"saved at step {self.steps}: once it is mended, `protorl resume {self.folder}` goes on with new episodes"

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupt is not None:  # a second Ctrl-C does not wait for the checkpoint
            raise KeyboardInterrupt
        self.interrupt = number


def first_not_finite(tree: Any, name: str) -> str | None:
    """The name of the first tensor with a NaN or infinity in a tree of dicts and lists; None if all are finite."""
    if isinstance(tree, dict):
        children: Any = ((f"{name}.{key}", value) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        children = ((f"{name}[{i}]", value) for i, value in enumerate(tree))
    elif isinstance(tree, torch.Tensor):
        return name if tree.is_floating_point() and not bool(torch.isfinite(tree).all()) else None
    else:
        return None
    for child, value in children:
        bad = first_not_finite(value, child)
        if bad:
            return bad
    return None
