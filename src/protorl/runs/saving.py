"""Saving a run and bringing it back: everything that remembers, in checkpoints; and a rescue where an environment fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from protorl.checkpoint import Checkpoints
from protorl.data import ProtoRLError, State, Stateful
from protorl.runs.parts import Learner, Plays, Remembers


class Saving:
    """The checkpoints of a run's agent, memory, actors and `counts` (what the run itself remembers).

    keep: checkpoints kept. notify: told where the disk refuses.
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
    ) -> None:
        self.folder, self.agent, self.memory, self.actors, self.notify = folder, agent, memory, actors, notify
        self.parts: Mapping[str, Stateful] = {"run": counts, "agent": agent, "memory": memory, "actors": actors}
        self.checkpoints = Checkpoints(folder / "checkpoints", keep, notify=notify)

    def save(self, steps: int) -> None:
        """A checkpoint of everything. Where the disk refuses, or an environment does not tell its state, training goes on and
        the previous checkpoint stays."""
        self.actors.rebuild(steps)
        try:
            self.checkpoints.save(steps, self.state_dict(), self.memory)
        except ProtoRLError as error:
            self.notify(str(error))

    def save_best(self, steps: int) -> None:
        """The agent's weights, as the best so far."""
        self.checkpoints.save_weights("best", {"step": steps, "agent": self.agent.state_dict()})

    def resume(self) -> bool:
        """Load the newest whole checkpoint; False where there is none yet."""
        if self.checkpoints.latest() is None:
            return False
        _, state = self.checkpoints.load(rows=self.memory)
        self.load_state_dict(state)
        return True

    def rescue(self, steps: int) -> str:
        """Something failed outside the algorithm (an environment, say): keep what was learned, with new episodes; a sentence
        that says what was kept."""
        try:
            self.actors.restart(steps)
            self.checkpoints.save(steps, self.state_dict(), self.memory)
        except Exception as second:
            last = self.checkpoints.latest()
            kept = "there is no checkpoint" if last is None else f"the last checkpoint is step {last} in {self.folder}"
            return f"saving failed too ({second}), {kept}"
        return f"saved at step {steps}: once it is mended, `protorl resume {self.folder}` goes on with new episodes"

    def state_dict(self) -> State:
        return {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.on_gpu() else [],
        }

    def load_state_dict(self, state: State) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and self.on_gpu():
            torch.cuda.set_rng_state_all(state["cuda"])

    def on_gpu(self) -> bool:
        """Whether CUDA has random streams to save; asking it starts CUDA, which takes half a gigabyte."""
        return self.agent.device.type != "cpu"
