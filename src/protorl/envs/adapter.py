"""Any Gymnasium vector environment, in any autoreset mode, behind the contract of `VecEnv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import ArrayLike

from protorl.data import Array, EnvSpec, Obs, ObsSpec, ProtoRLError, State, Step, tree_leaves, tree_map
from protorl.envs import snapshot
from protorl.envs.answers import flags, numbers, observation
from protorl.envs.api import AnyVectorEnv, Info
from protorl.envs.gate import close, failed
from protorl.envs.kernels import settle
from protorl.envs.spec import ActionEdge, canonical, obs_spec
from protorl.envs.vector import Episode, HostedEnvs
from protorl.processes import FAILURES


class AdaptedEnv(HostedEnvs):
    """A Gymnasium `VectorEnv` as a `VecEnv`.

    SAME_STEP: the true successor is taken from `final_obs`. DISABLED: finished rows are reset here, in the same step.
    NEXT_STEP: a row spends the step after its episode's end on the reset; that step is marked not valid.
    """

    def __init__(
        self,
        make: Callable[[], AnyVectorEnv],
        *,
        id: str | None = None,
        seed: int = 0,
        name: str = "env",
        first_row: int = 0,
        autoreset_mode: AutoresetMode | str | None = None,
        obs: ObsSpec | None = None,
        time_limit: int | None = None,
    ) -> None:
        self._make = make
        self._vector = vector = make()
        declared = vector.metadata.get("autoreset_mode") if autoreset_mode is None else autoreset_mode
        if declared is None:
            raise ProtoRLError(
                f"{type(vector).__name__} does not say how it resets: pass autoreset_mode= to from_vector, "
                "or set metadata['autoreset_mode'] in it"
            )
        self._mode = AutoresetMode(declared)
        if id is None:
            id = vector.spec.id if vector.spec is not None else type(vector).__name__
        if time_limit is None and vector.spec is not None:
            time_limit = vector.spec.max_episode_steps
        space, self._convert = canonical(vector.single_observation_space)
        self._leaves = obs_spec(space) if obs is None else obs
        self._rows = range(first_row, first_row + vector.num_envs)
        self._where = f"rows {first_row}..{self._rows[-1]}"
        # Of observations that need no second look; none do where they are dicts.
        one = None if isinstance(self._leaves, dict) else self._leaves
        self._dtype = None if one is None else one.dtype
        self._shape = None if one is None else (vector.num_envs, *one.shape)
        self._edge = ActionEdge(vector.single_action_space, vector.num_envs)
        self._as_it_is = self._edge.kind == "discrete" and not self._edge.start
        self._numbers, self._flags = np.zeros(vector.num_envs, np.float32), np.zeros(vector.num_envs, np.bool_)
        spec = EnvSpec(id, self._leaves, self._edge.spec, vector.num_envs, time_limit, first_lane=first_row)
        offers = hasattr(type(vector), "state_dict") and hasattr(type(vector), "load_state_dict")
        exact = offers and getattr(vector, "exact", True)
        super().__init__(spec, seed=seed, name=name, first_row=first_row, exact=exact)

    def step(self, action: ArrayLike) -> Step:
        obs = self.obs if self._obs is None else self._obs
        action, answers = self._edge(action)
        try:
            seen, gain, over, cut, info = self._vector.step(action.copy() if self._as_it_is else np.asarray(answers))
            next_obs = self._fresh(seen)
            if not (
                type(gain) is type(over) is type(cut) is np.ndarray
                and gain.shape == over.shape == cut.shape == self._flags.shape
                and gain.dtype.char in "fd"
                and over.dtype.char == cut.dtype.char == "?"
            ):  # hardly ever
                gain = numbers("reward", gain, self._rows)
                over, cut = flags("terminated", over, self._rows), flags("truncated", cut, self._rows)
        except FAILURES as error:
            raise self._vector_failed("step", error) from error
        # Copies of templates: cheaper than np.empty, and this is the hot path.
        reward, discount = self._numbers.copy(), self._numbers.copy()
        valid, terminated = self._flags.copy(), self._flags.copy()
        truncated, ended = self._flags.copy(), self._flags.copy()
        some = settle(
            np.asarray(gain, np.float64),
            over,
            cut,
            self._pending,
            self._returns,
            self._lengths,
            reward,
            discount,
            valid,
            terminated,
            truncated,
            ended,
        )
        if "discount" in info or "final_info" in info:
            np.copyto(discount, self._taken(self._announced, info, ended), where=valid & ~terminated)
        first, self._first = self._first, ended
        self._obs, self._action, self._reward = next_obs, action, reward
        fresh = some  # whether an episode starts in a row
        if self._mode is AutoresetMode.NEXT_STEP:
            self._first, self._pending = self._pending, ended
            fresh, self._waits = self._waits, some
        if fresh:
            self._action, self._reward = action.copy(), reward.copy()
            self._action[self._first], self._reward[self._first] = 0, 0.0
        if some:
            for i in np.flatnonzero(ended).tolist():
                self._finished.append(Episode(float(self._returns[i]), int(self._lengths[i]), i))
            self._returns[ended], self._lengths[ended] = 0.0, 0
            if self._mode is AutoresetMode.SAME_STEP:
                next_obs = self._taken(self._with_final, next_obs, info, ended)
            elif self._mode is AutoresetMode.DISABLED:
                self._obs = self._reset_vector(options={"reset_mask": ended.copy()})
        step: tuple[object, ...] = (obs, action, reward, discount, terminated, truncated, next_obs, first, valid, {})
        return tuple.__new__(Step, step)  # as `Step(*step)`, in half the time

    def close(self) -> None:
        close(self._vector.close, self.spec.id, self._where)

    def _fresh(self, seen: Any) -> Obs:
        """The rows' observations as their space says, in arrays of our own."""
        if self._convert is not None:
            seen = self._convert(seen)
        if type(seen) is np.ndarray and seen.dtype == self._dtype and seen.shape == self._shape:  # nearly always
            return seen.copy()
        seen = observation(self._leaves, seen, self.num_envs)
        return tree_map(lambda leaf, array: np.array(array, leaf.dtype), self._leaves, seen)

    def _taken(self, take: Callable[..., Any], *given: object) -> Any:
        """What is read of a step's info."""
        try:
            return take(*given)
        except FAILURES as error:
            raise self._vector_failed("step", error) from error

    def _with_final(self, current: Obs, info: Info, ended: Array) -> Obs:
        if "final_obs" not in info:
            raise ProtoRLError(f"{self.spec.id} resets in the same step but gives no info['final_obs'] where an episode ends")
        final = info["final_obs"]
        true_next = tree_map(np.copy, current)
        for i in np.flatnonzero(ended).tolist():
            # Gymnasium's layout is an object per row, None where no episode ended; that of C++ environments is dense, an array
            # which is only meaningful where an episode ended.
            row = final[i] if not isinstance(final, dict) else tree_map(lambda leaf, i=i: leaf[i], final)
            row = observation(self._leaves, row if self._convert is None else self._convert(row))
            for leaf, value in zip(tree_leaves(true_next), tree_leaves(row)):
                leaf[i] = value
        return true_next

    def _announced(self, info: Info, ended: Array) -> Array:
        """[N] float32: `info["discount"]` where a row announced one, else 1."""
        discount = _rows(info, "discount", self.num_envs)
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            # The info beside a same-step reset is the new episode's; the old one's last word is in final_info.
            last = _rows(info.get("final_info", {}), "discount", self.num_envs)
            discount = np.where(ended, last, discount)
        return discount

    def _reset_vector(self, **arguments: Any) -> Obs:
        try:
            seen, _ = self._vector.reset(**arguments)
            return self._fresh(seen)
        except FAILURES as error:
            raise self._vector_failed("reset", error) from error

    def _vector_failed(self, doing: str, error: BaseException) -> ProtoRLError:
        return failed(self.spec.id, doing, self._where, error)

    @property
    def _host(self) -> str:
        return type(self._vector.unwrapped).__name__

    def _construct(self) -> None:
        fresh = self._make()
        if fresh is not self._vector:
            self._vector.close()
            self._vector = fresh

    def _reset(self, seeds: list[int] | None) -> Obs:
        if seeds is None:
            return self._reset_vector()
        many = isinstance(self._vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv)) or getattr(
            self._vector.unwrapped, "seeds_rows", False
        )
        return self._reset_vector(seed=seeds if many else seeds[0])

    def _begin(self) -> None:
        super()._begin()
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def _render(self) -> object:
        if self._vector.render_mode is None:
            return None
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def _save(self) -> object:
        try:
            return self._vector.state_dict()  # type: ignore[attr-defined]
        except FAILURES as error:  # a worker that is gone, say
            raise self._vector_failed("state_dict", error) from error

    def _load(self, state: object) -> None:
        self._vector.load_state_dict(state)  # type: ignore[attr-defined]

    def _progress(self) -> State:
        return {
            "returns": snapshot.freeze(self._returns),
            "lengths": snapshot.freeze(self._lengths),
        }

    def _resume(self, progress: State) -> None:
        self._returns, self._lengths = snapshot.thaw(progress["returns"]), snapshot.thaw(progress["lengths"])


def _rows(info: Info, key: str, num_envs: int) -> Array:
    if key not in info:
        return np.ones(num_envs, np.float32)
    value = np.array(info[key], np.float32)  # NaN for the None of rows that the mask leaves out
    return np.where(info["_" + key], value, np.float32(1)) if "_" + key in info else value


def from_vector(
    vector_env: AnyVectorEnv | Callable[[], AnyVectorEnv],
    *,
    id: str | None = None,
    seed: int = 0,
    name: str = "env",
    first_row: int = 0,
    autoreset_mode: AutoresetMode | str | None = None,
    time_limit: int | None = None,
) -> AdaptedEnv:
    """A user's own Gymnasium `VectorEnv`, or a callable that makes one, as a `VecEnv`.

    `rebuild` constructs anew only what came as a callable; a ready-made environment is reset from its named seed
    instead, which is as exact as its seeding. Gymnasium's Sync- and AsyncVectorEnv are seeded per row, another
    `VectorEnv` by the first row's seed, unless its attribute `seeds_rows` is true: then by a list. `autoreset_mode` is
    read from the environment's metadata unless given.

    Raises:
        ProtoRLError: the autoreset mode is unknown, or a space is not supported.
    """
    make: Callable[[], AnyVectorEnv] = vector_env if not isinstance(vector_env, VectorEnv) else _Given(vector_env)
    return AdaptedEnv(
        make,
        id=id,
        seed=seed,
        name=name,
        first_row=first_row,
        autoreset_mode=autoreset_mode,
        time_limit=time_limit,
    )


class _Given:
    """Makes the environment it was given, again and again."""

    def __init__(self, vector_env: AnyVectorEnv) -> None:
        self.vector_env = vector_env

    def __call__(self) -> AnyVectorEnv:
        return self.vector_env
