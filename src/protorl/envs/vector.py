"""The noun Env: N environments behind one contract, with seeds by name, episode statistics and exact snapshots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from protorl import rng
from protorl.data import Array, EnvSpec, Obs, ProtoRLError, Seen, State, Step
from protorl.envs import snapshot
from protorl.envs.gate import failed
from protorl.processes import FAILURES


class Episode(NamedTuple):
    """A finished episode: its return (the environment's own rewards, summed in float64), its length in agent steps, and
    the number of its environment. members: the returns of a team's agents, by name."""

    ret: float
    length: int
    env: int
    members: Mapping[str, float] = {}


class VecEnv(ABC):
    """N environments stepped together; every array has one row per environment.

    `seen` is what to act on next, [N, ...], and `obs` the observations in it. `step` never hands out a reset observation as
    a successor; see `Step`. The first reset of row i is seeded by the stream (seed, name, lanes[i]), later resets continue
    that environment's own generator, so what a row lives through depends neither on the other rows nor on the process that
    hosts it.

    If `exact`, `state_dict` is a snapshot of the simulators themselves and `rebuild` does nothing. If not, resuming is
    exact at boundaries: `rebuild(boundary)` constructs the environments anew from seeds named after the boundary, in
    interrupted and uninterrupted runs alike, and `load_state_dict(state_dict())` right after it gives the same stream.
    `restart(boundary)` does so whatever they are, after a failure say.
    """

    spec: EnvSpec
    num_envs: int
    exact: bool

    @property
    def lanes(self) -> range:
        """The rows' numbers over all actors."""
        return self.spec.lanes

    @property
    @abstractmethod
    def seen(self) -> Seen:
        """What to act on next, its arrays shared with the last `Step` where they can be: do not write to them. Resets the
        environments if need be."""

    @property
    @abstractmethod
    def obs(self) -> Obs:
        """[N, *O] observations to act on next, an array or a dict of arrays; resets the environments if need be."""

    @property
    @abstractmethod
    def pending(self) -> Array:
        """[N] bool: rows that will spend the next step on their reset (`Step.valid` will be False)."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> Obs:
        """Begin new episodes everywhere and return their first observations [N, *O]; unfinished episodes are forgotten.

        With a seed, or for the first time, rows are seeded from their named streams; otherwise they continue theirs.
        """

    @abstractmethod
    def step(self, action: ArrayLike) -> Step:
        """Act with [N, *A] actions and tell what happened. The arrays are fresh: the caller may keep them.

        Raises:
            ProtoRLError: the actions do not fit the spec, or an environment failed.
        """

    @abstractmethod
    def episodes(self) -> list[Episode]:
        """The episodes finished since the last call."""

    def rebuild(self, boundary: int) -> None:
        """A checkpoint boundary: `restart` where the simulators have no snapshot."""
        if not self.exact:
            self.restart(boundary)

    @abstractmethod
    def restart(self, boundary: int) -> None:
        """Forget the simulators. When next needed they are constructed anew, seeded by the streams (seed, name, row,
        "boundary", boundary); unfinished episodes are forgotten, every row's next step is a first one."""

    @abstractmethod
    def render(self) -> Array:
        """[H, W, 3] uint8: environment 0 as a person would see it.

        Raises:
            ProtoRLError: the environments were made without `render_mode="rgb_array"`.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what the environments hold."""

    def retire(self) -> bool:
        """Close the environments between two uses. True where something is left that took long to start, where the next reset
        makes new ones; False where this was `close`."""
        self.close()
        return False

    @abstractmethod
    def state_dict(self) -> State: ...

    @abstractmethod
    def load_state_dict(self, state: State) -> None: ...


class HostedEnvs(VecEnv):
    """What the backends share: row seeds, the boundary rule, finished episodes, errors."""

    def __init__(self, spec: EnvSpec, *, seed: int, name: str, first_row: int, exact: bool) -> None:
        self.spec = spec
        self.num_envs = spec.num_envs
        self.exact = exact
        self.seed, self.name, self.first_row = seed, name, first_row
        self._boundary: int | None = None
        self._finished: list[Episode] = []
        self._obs: Any = None
        self._first: Array  # [N] bool: what is acted on next starts an episode
        self._pending: Array  # [N] bool: rows that spend the next step on their reset
        self._waits = False  # whether there are any
        self._action: Array  # [N, *A], the previous one, and
        self._reward: Array  # [N], what it brought; zeros at `first`
        self._begin()

    @property
    def seen(self) -> Seen:
        if self._obs is None:
            self.reset()
        return Seen(self._obs, self._first, self._action, self._reward, self._pending if self._waits else None)

    @property
    def obs(self) -> Obs:
        if self._obs is None:
            self.reset()
        return self._obs

    @property
    def pending(self) -> Array:
        return self._pending.copy()

    def reset(self, seed: int | None = None) -> Obs:
        if seed is not None:
            self.seed, self._boundary = seed, None
        if self._obs is None and self._boundary is not None:  # after `restart`
            self._construct()
            self._obs = self._reset(self.row_seeds("boundary", self._boundary))
        else:
            named = seed is not None or self._obs is None
            self._obs = self._reset(self.row_seeds() if named else None)
        self._begin()
        return self._obs

    def episodes(self) -> list[Episode]:
        finished, self._finished = self._finished, []
        return finished

    def restart(self, boundary: int) -> None:
        self._boundary, self._obs = boundary, None
        self._begin()

    def row_seeds(self, *name: str | int) -> list[int]:
        """One seed per row, from its named stream."""
        return [rng.integer(self.seed, self.name, self.first_row + i, *name) for i in range(self.num_envs)]

    def state_dict(self) -> State:
        state: State = {
            "seed": self.seed,
            "boundary": self._boundary,
            "finished": [[*episode[:3], dict(episode.members)] for episode in self._finished],
        }
        if self.exact and self._obs is not None:
            # In this order: reading `obs` first would begin episodes that nobody asked for.
            state["simulators"], state["host"] = self._save(), self._host
            state["obs"] = snapshot.freeze(self._obs)
            state["progress"] = {
                **self._progress(),
                "first": self._first.tolist(),
                "pending": self._pending.tolist(),
                "action": snapshot.freeze(self._action),
                "reward": snapshot.freeze(self._reward),
            }
        return state

    def load_state_dict(self, state: State) -> None:
        self.seed = state["seed"]
        self._boundary = state["boundary"]
        if "simulators" in state:
            self._check_host(state)
            self._reset(self.row_seeds())
            self._load(state["simulators"])
            self._obs = snapshot.thaw(state["obs"])
            self._begin()
            progress = state["progress"]
            self._first, self._pending = (np.array(progress[key], np.bool_) for key in ("first", "pending"))
            self._waits = bool(self._pending.any())
            self._action, self._reward = snapshot.thaw(progress["action"]), snapshot.thaw(progress["reward"])
            self._resume(progress)
        else:
            self._obs = None
            self._begin()
        self._finished = [  # checkpoints of before did not name members
            Episode(float(ret), int(length), int(env), *members) for ret, length, env, *members in state["finished"]
        ]

    @property
    def _host(self) -> str:
        """What steps the simulators: only the same kind can read their state."""
        return type(self).__name__

    def _check_host(self, state: State) -> None:
        saved = len(state["progress"]["first"])
        # Checkpoints of before did not name it.
        host = state.get("host", "SyncEnv" if isinstance(state["simulators"], list) else self._host)
        if saved != self.num_envs:
            raise ProtoRLError(f"the saved state has {saved} environments and this one {self.num_envs}: use as many")
        if host != self._host:
            raise ProtoRLError(f"the saved state is of {host} and these environments of {self._host}: use the same backend")

    def render(self) -> Array:
        try:
            frame = self._render()
        except FAILURES as error:
            raise failed(self.spec.id, "render", f"row {self.first_row}", error) from error
        if frame is None:
            raise ProtoRLError(f'{self.spec.id} renders nothing: make it with render_mode="rgb_array"')
        return np.asarray(frame)

    @abstractmethod
    def _construct(self) -> None:
        """Build the environments anew."""

    @abstractmethod
    def _reset(self, seeds: list[int] | None) -> Obs:
        """Reset every row, seeded or not, and return fresh observations."""

    def _begin(self) -> None:
        """Forget unfinished episodes: each row starts one."""
        n, action = self.num_envs, self.spec.action
        self._first, self._pending, self._waits = np.ones(n, np.bool_), np.zeros(n, np.bool_), False
        self._action = np.zeros((n, *action.shape), action.dtype)
        self._reward = np.zeros((n, *self.spec.reward_shape), np.float32)

    @abstractmethod
    def _render(self) -> object: ...

    @abstractmethod
    def _save(self) -> object:
        """The simulators' state as plain data."""

    @abstractmethod
    def _load(self, state: object) -> None: ...

    @abstractmethod
    def _progress(self) -> State:
        """The unfinished episodes."""

    @abstractmethod
    def _resume(self, progress: State) -> None: ...


class VecWrapper(VecEnv):
    """A `VecEnv` around another one: everything is handed through, for subclasses to change what they must. One that changes
    `Step.reward` overrides `seen` as well."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.spec, self.num_envs, self.exact = env.spec, env.num_envs, env.exact

    @property
    def seen(self) -> Seen:
        return self.env.seen._replace(obs=self.obs)

    @property
    def obs(self) -> Obs:
        return self.env.obs

    @property
    def pending(self) -> Array:
        return self.env.pending

    def reset(self, seed: int | None = None) -> Obs:
        return self.env.reset(seed)

    def step(self, action: ArrayLike) -> Step:
        return self.env.step(action)

    def episodes(self) -> list[Episode]:
        return self.env.episodes()

    def restart(self, boundary: int) -> None:
        self.env.restart(boundary)

    def render(self) -> Array:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def retire(self) -> bool:
        return self.env.retire()

    def state_dict(self) -> State:
        return {"env": self.env.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.env.load_state_dict(state["env"])
