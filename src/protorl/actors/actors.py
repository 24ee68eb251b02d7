"""The noun Actors: who steps the environments, wherever they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from protorl.data import Act, Array, Carry, Chunk, EnvSpec, Finished, Obs, Seen, State, Step


class Environments(Protocol):
    """Vector environments, as actors and evaluations need them."""

    spec: EnvSpec
    num_envs: int
    exact: bool

    @property
    def lanes(self) -> range: ...

    @property
    def seen(self) -> Seen: ...

    def reset(self, seed: int | None = None) -> Obs: ...

    def step(self, action: Array) -> Step: ...

    def episodes(self) -> Sequence[Finished]: ...

    def rebuild(self, boundary: int) -> None: ...

    def restart(self, boundary: int) -> None: ...

    def close(self) -> None: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Acts(Protocol):
    """The part of an agent that actors need; `annotate(step, carry)` besides, where it is written."""

    def initial_carry(self, n: int) -> Carry: ...

    def act(self, seen: Seen, carry: Carry = ..., *, explore: bool) -> Act: ...


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

    def episodes(self) -> Sequence[Finished]:
        """The episodes that ended in the steps given since the last call, each with `ret`, `length` and `env`."""
        ...

    def figures(self) -> dict[str, float]:
        """What there is to say of them in a row of the log, of the time since the last call."""
        ...

    def plan(self) -> dict[str, object]:
        """Who steps what, for config.json: `workers`, and of theirs `environments` [each], `worker_threads`, `shared_bytes`."""
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
