"""Actors in this process whose environments step while the learner learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from protorl.actors.actors import Acts, Environments
from protorl.actors.local import LocalActors
from protorl.data import Array, Chunk, Finished, State, Step, written


class OverlappedActors(LocalActors):
    """Environments step in a thread of their own while the learner uses what they revealed before.

    Each `poll` takes the step that is under way, chooses the next actions with the newest weights, and sends the environments
    off with them: the learner is always exactly one step behind, however fast either side is, so a run repeats bit for bit.
    It pays where a step of the environments and an update both take long and let go of Python's lock, as C++ simulators,
    compiled updates and GPUs do.
    """

    def __init__(self, agent: Acts, env: Environments) -> None:
        super().__init__(agent, env)
        self.thread = ThreadPoolExecutor(1, "environments")
        self.flying: tuple[Future[Step], Mapping[str, Array]] | None = None
        self.landed: Step | None = None
        self.finished: list[Finished] = []

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        """What the step before this one revealed; nothing at first. It is one step, whatever the room: each is chosen with the
        newest weights."""
        self.land()
        step, self.landed = self.landed, None
        self.finished += self.env.episodes()
        act = self.act()
        self.flying = self.thread.submit(self.env.step, act.action), act.extras
        return [] if step is None else [Chunk.of(step, self.lanes)]

    def land(self) -> None:
        """Wait for the step that is under way, if there is one."""
        if self.flying is not None:
            (future, extras), self.flying = self.flying, None
            step = future.result()
            if extras:
                step = step._replace(extras=extras)
            self.landed = step if written(self.agent, "annotate") is None else self.annotated(step)

    def episodes(self) -> Sequence[Finished]:
        finished, self.finished = self.finished, []
        return finished

    def rebuild(self, boundary: int) -> None:
        self.land()
        super().rebuild(boundary)

    def restart(self, boundary: int) -> None:
        if self.flying is not None:
            self.flying[0].exception()  # waits: the environments are still stepping
        self.flying = self.landed = None
        super().restart(boundary)

    def close(self) -> None:
        self.thread.shutdown(wait=True)
        super().close()

    def state_dict(self) -> State:
        """Waits for the step under way and keeps it. Episodes not yet asked for are not kept: ask first."""
        self.land()
        landed = None if self.landed is None else self.landed.plain()
        return {**super().state_dict(), "landed": landed}

    def load_state_dict(self, state: State) -> None:
        self.land()
        super().load_state_dict(state)
        self.landed = None if state["landed"] is None else Step(**state["landed"])
