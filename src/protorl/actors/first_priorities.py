"""Rows that bring a first priority: what the actor's own weights say of the examples that begin with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from protorl.actors.actors import Actors, Acts
from protorl.data import Array, Batch, Chunk, Columns, Finished, NotFinite, ProtoRLError, State, Step, tree_map
from protorl.memory import Replay, View


class Judges(Acts, Protocol):
    """The part of an agent that knows how surprising an example is: `loss_and_priority(batch)`, as it learns."""

    @property
    def device(self) -> torch.device: ...

    def paid(self, batch: Batch) -> Batch: ...

    def drawn(self, batch: Batch) -> Batch: ...


class FirstPriorities:
    """Actors whose steps bring the column `priority`, the learner's own: that of the example that begins with each row, such as
    |δ|; 0 where none does.

    A window memory with the learner's view completes the examples, and `agent.loss_and_priority` judges them, as in learning.
    Steps are judged and handed over `together` at a time, once the last of their examples is complete, `view.pending` steps
    later: what is learned depends neither on how many steps are taken at once nor on the clock.

    actors: whose steps they are. agent: acts and judges. columns: what the learner's memory stores. view: what an example is.
    among: (first, all): judge as if these lanes stood from the first on among so many, since products round by their shape.
    Raises: ProtoRLError for an agent without `loss_and_priority`, or a view whose examples go on behind the episode or are used
    at once.
    Source: Horgan et al. 2018, arXiv 1803.00933, section 3. Differs from the paper: an example is valued when it is
    complete, where the paper's actors keep the values by which they acted.
    """

    def __init__(
        self,
        actors: Actors,
        agent: Judges,
        columns: Columns,
        view: View,
        together: int = 16,
        among: tuple[int, int] | None = None,
    ) -> None:
        if not hasattr(agent, "loss_and_priority"):
            raise ProtoRLError(
                f"{type(agent).__name__} has no loss_and_priority(batch), by which actors judge their steps: write it, or use "
                "first_priority=largest"
            )
        if view.flows or view.once:
            raise ProtoRLError("first priorities need examples that end with the episode at the latest, and are used again")
        if together < 1:
            raise ProtoRLError(f"chunk_steps {together} is not a number of steps: use 1 or more")
        self.actors, self.agent, self.view, self.together = actors, agent, view, together
        extras = {name: field for name, field in columns.extras.items() if name != "priority"}
        obs = tree_map(lambda spec: dataclasses.replace(spec, frame_stack=1), columns.obs)  # whole stacks: they are few
        n = columns.num_envs
        length = max(together, view.starts.every) + view.pending + view.starts.behind + 1
        self.window = Replay(dataclasses.replace(columns, obs=obs, extras=extras), n * length, batch_size=1, view=view)
        self.at_once = max(together // view.starts.every, 1)  # examples of a lane that are judged in one call
        self.first, self.all = (0, n) if among is None else among
        self.lanes = np.arange(n)
        self.names = self.lanes  # of the same lanes, for the learner
        self.held: list[Step] = []
        self.rows: list[Array] = []  # [n] each: serial * lanes + lane in the window, -1: not valid
        self.judged: list[Step] = []

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        """See `Actors.poll`; nothing at first."""
        n, enough = len(self.lanes), self.together + self.view.pending
        if not self.judged:
            for chunk in self.actors.poll((enough - len(self.held)) * n, timeout):
                self.hold(chunk)
            if len(self.held) < enough:
                return []
            self.judge()
        most = max(-(-room // n), 1)
        steps, self.judged = self.judged[:most], self.judged[most:]
        return [Chunk.stack(steps, self.names)]

    def hold(self, chunk: Chunk) -> None:
        """Steps come in."""
        self.names = chunk.lanes
        serials = self.window.storage.counts + np.cumsum(chunk.valid, 0) - 1  # of rows in their lanes
        self.rows += list(np.where(chunk.valid, serials * len(self.lanes) + self.lanes, -1))
        self.held += chunk.steps()
        self.window.add(chunk._replace(lanes=self.lanes))

    def judge(self) -> None:
        """The oldest steps, whose examples are complete, get their priorities."""
        steps, rows = self.held[: self.together], np.stack(self.rows[: self.together])
        del self.held[: self.together], self.rows[: self.together]
        starts = np.where(rows >= 0, self.window.window.starting(self.lanes, rows // len(self.lanes)), -1)  # [T, n]
        order = np.argsort(starts < 0, axis=0, kind="stable")  # of each lane, the times at which an example begins come first
        priority = np.zeros(rows.shape, np.float32)
        for done in range(0, int((starts >= 0).sum(0).max()), self.at_once):
            times = order[done : done + self.at_once]
            np.put_along_axis(priority, times, self.priorities(np.take_along_axis(starts, times, 0)), 0)
        self.judged = [step._replace(extras={**step.extras, "priority": one}) for step, one in zip(steps, priority)]

    @torch.no_grad()
    def priorities(self, starts: Array) -> Array:
        """Of the examples `starts` [k, n] (identities), some of each lane; 0 where there is none, -1."""
        there = starts >= 0
        every = np.full((len(starts), self.all), starts[there][0])  # one shape, however many there are
        mine = slice(self.first, self.first + starts.shape[1])
        every[:, mine][there] = starts[there]
        ones = np.ones(every.size, np.float32)
        columns: Any = self.view.examples(self.window.storage, self.window.window, every.reshape(-1), ones)
        device, agent = self.agent.device, self.agent
        batch = self.view.batch({name: tree_map(lambda leaf: leaf.to(device), column) for name, column in columns.items()})
        found = agent.loss_and_priority(agent.drawn(agent.paid(batch)))[1].float().cpu().numpy()  # type: ignore[attr-defined]
        found = np.where(there, found.reshape(every.shape)[:, mine], np.float32(0))
        if not np.isfinite(found).all():
            raise NotFinite("a first priority is not finite", batch)
        return found

    def publish(self, agent: Acts) -> None:
        self.actors.publish(agent)

    def episodes(self) -> Sequence[Finished]:
        return self.actors.episodes()

    def figures(self) -> dict[str, float]:
        return self.actors.figures()

    def rebuild(self, boundary: int) -> None:
        self.actors.rebuild(boundary)

    def restart(self, boundary: int) -> None:
        self.actors.restart(boundary)

    def close(self) -> None:
        self.actors.close()

    def state_dict(self) -> State:
        return {
            "actors": self.actors.state_dict(),
            "window": self.window.state_dict(),
            "stored": self.window.rows(self.window.oldest()),
            "held": [step.plain() for step in self.held],
            "rows": list(self.rows),
            "judged": [step.plain() for step in self.judged],
        }

    def load_state_dict(self, state: State) -> None:
        self.actors.load_state_dict(state["actors"])
        self.window.restore_rows(state["stored"])
        self.window.load_state_dict(state["window"])
        self.held, self.judged = ([Step(**step) for step in state[name]] for name in ("held", "judged"))
        self.rows = list(state["rows"])
