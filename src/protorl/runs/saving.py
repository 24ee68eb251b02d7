"""Saving a run and bringing it back: everything that remembers, in checkpoints; and a rescue where an environment fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch

from protorl.checkpoint import Checkpoints, Loaded, Unusable
from protorl.data import ProtoRLError, State, Stateful
from protorl.runs.parts import Learner, Plays, Remembers


class Gone(ProtoRLError):  # noqa: N818 - it says what happened
    """The run folder was removed."""


class Saving:
    """The checkpoints of a run's agent, memory, actors and `counts` (what the run itself remembers).

    keep: checkpoints kept. notify: told where the disk refuses. about: plain data that goes with each checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        agent: Learner,
        memory: Remembers,
        actors: Plays,
        counts: Stateful,
        notify: Callable[[str], None],
        about: State,
    ) -> None:
        self.folder, self.agent, self.memory, self.actors, self.notify = folder, agent, memory, actors, notify
        self.parts: Mapping[str, Stateful] = {"run": counts, "agent": agent, "memory": memory, "actors": actors}
        self.checkpoints = Checkpoints(folder / "checkpoints", keep, notify=notify)
        self.about = about
        self.unsaved: str | None = None  # why the newest checkpoint is not on the disk

    def save(self, steps: int) -> None:
        """A checkpoint of everything. Where the disk refuses, or an environment does not tell its state, training goes on and
        the previous checkpoint stays."""
        self.actors.rebuild(steps)
        try:
            self.write(steps)
        except ProtoRLError as error:
            self.unsaved = str(error)
            self.notify(self.unsaved)

    def write(self, steps: int) -> None:
        """A checkpoint. Raises: ProtoRLError where it cannot be written."""
        self.checkpoints.save(steps, self.state_dict(), self.memory, self.about)
        self.unsaved = None

    def last(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        try:
            return self.checkpoints.latest()
        except ProtoRLError:
            return None

    def save_best(self, steps: int) -> None:
        """The agent's weights, as the best so far."""
        self.checkpoints.save_weights("best", {"step": steps, "agent": self.agent.state_dict()})

    def resume(self, refill: bool = False) -> Loaded | None:
        """Load the newest whole checkpoint; None where there is none yet. refill: where none is whole, the newest of which only
        rows of the memory are damaged; the memory begins as that of a new run. Raises: ProtoRLError where none can be used, or
        it is of another recipe."""
        if self.checkpoints.latest() is None:
            return None
        without: tuple[str, ...] = ()
        try:
            try:
                loaded = self.checkpoints.load(rows=self.memory)
            except Unusable as error:
                if error.but_rows is None:
                    raise
                if not refill:
                    raise ProtoRLError(
                        f"{error}, but at step {error.but_rows} nothing is missing except rows of the memory: "
                        f"`protorl resume {self.folder} --refill` goes on from there and fills the memory anew"
                    ) from error
                loaded, without = self.checkpoints.load(error.but_rows), ("memory",)
            self.load_state_dict(loaded.state, without)
        except ProtoRLError:
            raise
        except Exception as error:
            raise ProtoRLError(
                f"the checkpoint in {self.folder} does not fit what its config.json describes ({type(error).__name__}: {error})"
            ) from error
        return loaded

    def rescue(self, steps: int) -> str:
        """Something failed outside the algorithm (an environment, say): keep what was learned, with new episodes; a sentence
        that says what was kept."""
        try:
            self.actors.restart(steps)
            self.write(steps)
        except Exception as second:
            last = self.last()
            kept = "there is no checkpoint" if last is None else f"the last checkpoint is step {last} in {self.folder}"
            return f"saving failed too ({second}), {kept}"
        return f"saved at step {steps}: once it is mended, `protorl resume {self.folder}` goes on with new episodes"

    def state_dict(self) -> State:
        return {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.on_gpu() else [],
        }

    def load_state_dict(self, state: State, without: Collection[str] = ()) -> None:
        for name, part in self.parts.items():
            if name not in without:
                part.load_state_dict(state[name])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and self.on_gpu():
            torch.cuda.set_rng_state_all(state["cuda"])

    def on_gpu(self) -> bool:
        """Whether CUDA has random streams to save; asking it starts CUDA, which takes half a gigabyte."""
        return self.agent.device.type != "cpu"
