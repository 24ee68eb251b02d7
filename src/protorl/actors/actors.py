"""The noun Actors: who steps the environments, wherever they are."""

from __future__ import annotations

from typing import Any, Protocol

from protorl.data import Act, Chunk, Seen, State


class Acts(Protocol):
    """The part of an agent that actors need; `annotate(step, carry)` besides, where it is written."""

    def initial_carry(self, n: int) -> Any: ...

    def act(self, seen: Seen, carry: Any = ..., *, explore: bool) -> Act: ...


class Actors(Protocol):
    """Environments, and whoever acts in them: in this process, beside it, or elsewhere."""

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        """What was revealed since the last call: at most as many vector steps as it takes for `room` more agent steps, so that
        whatever is due then (an update, a checkpoint) is on time. Actors that step elsewhere wait up to `timeout` seconds for
        the first of them (None: for as long as it takes); there may be none."""
        ...

    def publish(self, agent: Acts) -> None:
        """The agent may have learned: act with what it knows now."""
        ...

    def episodes(self) -> list[Any]:
        """The episodes that ended in the steps given since the last call, each with `ret`, `length` and `env`."""
        ...

    def rebuild(self, boundary: int) -> None:
        """A checkpoint boundary: environments without a snapshot start afresh from a named seed."""
        ...

    def restart(self, boundary: int) -> None:
        """New episodes everywhere, after an environment failed."""
        ...

    def close(self) -> None:
        """Release what the environments hold."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...
