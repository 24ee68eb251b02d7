"""From Gymnasium spaces to what the agent sees: `EnvSpec`, and the conversions at the environment's edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Wrapper, spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import ArrayLike

from protorl.data import ActionSpec, Array, ArraySpec, Obs, ObsSpec, ProtoRLError, tree_map
from protorl.envs.answers import Refused, brief
from protorl.envs.api import AnyEnv, AnySpace

Leaf = Callable[[ArrayLike], Array]
SUPPORTED_OBS = "Box, Discrete, or a flat Dict of these"
SUPPORTED_ACTIONS = "Discrete, MultiDiscrete, or a Box of floats"


def canonical(space: AnySpace) -> tuple[AnySpace, Callable[[Any], Obs] | None]:
    """The space an agent sees, and the function that takes one observation, or a batch, there (None: nothing to do).

    Images in uint8, [H, W, C] or [H, W], become [C, H, W], and so do maps of bools [H, W, C], whose bytes are 0 and 1; a
    Discrete observation becomes its one-hot vector.

    Raises:
        ProtoRLError: the space is neither a Box, a Discrete, nor a flat Dict of these.
    """
    if not isinstance(space, spaces.Dict):
        seen, function = _canonical_leaf(space)
        return seen, None if function is None else Conversion(space, function)
    converted = {key: _canonical_leaf(leaf) for key, leaf in space.spaces.items()}
    functions = {key: function for key, (_, function) in converted.items()}
    if all(function is None for function in functions.values()):
        return space, None
    all_seen = spaces.Dict({key: leaf for key, (leaf, _) in converted.items()})
    return all_seen, Conversion(
        space, lambda obs: {key: obs[key] if f is None else f(obs[key]) for key, f in functions.items()}
    )


class Conversion:
    """The function that takes observations of a space to where an agent sees them. Raises Refused where they are not of it."""

    def __init__(self, space: AnySpace, function: Callable[[Any], Obs]) -> None:
        self.space, self.function = space, function

    def __call__(self, obs: object) -> Obs:
        try:
            return self.function(obs)
        except Exception as error:
            raise Refused(f"observation is {brief(obs)}, and must be of {self.space}") from error


def _canonical_leaf(space: AnySpace) -> tuple[AnySpace, Leaf | None]:
    if isinstance(space, spaces.Discrete):
        return spaces.Box(0.0, 1.0, (int(space.n),), np.float32), OneHot(int(space.n), int(space.start))
    if not isinstance(space, spaces.Box):
        flat = isinstance(space, (spaces.Tuple, spaces.MultiDiscrete, spaces.MultiBinary))
        wrapper = "gymnasium.wrappers:FlattenObservation" if flat else "minigrid.wrappers:ImgObsWrapper"
        raise ProtoRLError(
            f"observation space {space} is not supported: use {SUPPORTED_OBS}, or a Gymnasium observation wrapper "
            f"that makes one of it, such as --wrappers {wrapper} or wrappers=(...)"
        )
    if space.dtype == np.bool_ and len(space.shape) == 3:
        height, width, channels = space.shape
        seen = spaces.Box(0, 1, (channels, height, width), np.uint8)
        return seen, lambda obs: np.moveaxis(np.asarray(obs), -1, -3).astype(np.uint8)
    if space.dtype == np.uint8 and len(space.shape) == 2:
        return spaces.Box(space.low[None], space.high[None], dtype=np.uint8), lambda obs: np.asarray(obs)[..., None, :, :]
    if space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] in (1, 3, 4) and space.shape[0] > 4:
        low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.uint8), lambda obs: np.moveaxis(np.asarray(obs), -1, -3)
    return space, None


class OneHot:
    """A number of `start` .. `start` + n - 1, or a batch of them, as a vector with a single 1. Raises IndexError for others."""

    def __init__(self, n: int, start: int) -> None:
        self.vectors, self.start = np.eye(n, dtype=np.float32), start

    def __call__(self, number: ArrayLike) -> Array:
        index = np.asarray(number) - self.start
        below = index < 0
        if below.any() if below.ndim else below:  # it would count from the end
            raise IndexError(f"{number!r} is below {self.start}")
        return self.vectors[index]


def obs_spec(space: AnySpace, frame_stack: int = 1, stack_padding: str = "reset") -> ObsSpec:
    """The `ArraySpec` of a canonical space, or a dict of them: uint8 stays, every other number becomes float32."""
    if isinstance(space, spaces.Dict):
        return {key: _array_spec(leaf, 1, "reset") for key, leaf in space.spaces.items()}
    return _array_spec(space, frame_stack, stack_padding)


def _array_spec(space: AnySpace, frame_stack: int, stack_padding: str) -> ArraySpec:
    if not isinstance(space, spaces.Box):
        raise ProtoRLError(f"observation space {space} is not supported: use {SUPPORTED_OBS}")
    dtype = np.dtype(np.uint8 if space.dtype == np.uint8 else np.float32)
    return ArraySpec(space.shape, dtype, space.low.astype(dtype), space.high.astype(dtype), frame_stack, stack_padding)


def action_spec(space: AnySpace) -> ActionSpec:
    """The `ActionSpec` of an action space.

    Raises:
        ProtoRLError: the space is neither Discrete, MultiDiscrete with one axis, nor a Box of floats.
    """
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (), np.dtype(np.int64), n=int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return ActionSpec("multidiscrete", space.shape, np.dtype(np.int64), nvec=tuple(int(n) for n in space.nvec))
    if isinstance(space, spaces.Box) and np.issubdtype(np.dtype(space.dtype), np.floating):
        with np.errstate(over="ignore"):  # what float32 does not reach is as good as infinite
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return ActionSpec("box", space.shape, np.dtype(np.float32), low=low, high=high)
    raise ProtoRLError(f"action space {space} is not supported: use {SUPPORTED_ACTIONS}")


class ActionEdge:
    """Checks a batch of the agent's actions and takes it, once, to what the environments accept.

    Discrete actions get the space's start added. Box actions in [-1, 1] go to [low, high] by a straight line and are
    clipped there (an unsquashed Gaussian may leave [-1, 1]). A number that is `unbounded` is not scaled: 0 goes to 0, or, where
    one bound is there and not far enough, to the number that is 1 away from it.
    """

    def __init__(self, space: AnySpace, num_envs: int) -> None:
        self.spec = action_spec(space)
        self.shape = (num_envs, *self.spec.shape)
        self.start = getattr(space, "start", 0)
        self.kind = self.spec.kind
        self.n = self.spec.n
        if isinstance(space, spaces.Box):
            self.dtype = np.dtype(space.dtype)
            self.low, self.high = space.low, space.high
            free = self.spec.unbounded
            low, high = np.where(free, 0, self.low), np.where(free, 0, self.high)
            # Halves first: the sum and the width of large bounds overflow.
            self.middle = np.where(free, np.clip(0, self.low + 1, self.high - 1), low / 2 + high / 2).astype(self.dtype)
            self.half = np.where(free, 1, high / 2 - low / 2).astype(self.dtype)

    def __call__(self, action: ArrayLike) -> tuple[Array, Any]:
        """The action as it is stored (a fresh array [N, *A]), and as the N environments take it.

        Raises:
            ProtoRLError: wrong shape, wrong kind of number, out of range, or not finite.
        """
        if self.kind == "discrete":
            kept = self._copy(action, "iu")
            rows = kept.tolist()
            if min(rows) < 0 or max(rows) >= self.n:
                raise ProtoRLError(f"actions {rows} are not all in 0..{self.n - 1}")
            return kept, [row + int(self.start) for row in rows] if self.start else rows
        if self.kind == "multidiscrete":
            kept = self._copy(action, "iu")
            if (kept < 0).any() or (kept >= self.spec.nvec).any():
                raise ProtoRLError(f"actions {kept.tolist()} are not all in 0..n-1 for n = {list(self.spec.nvec)}")
            return kept, kept + self.start
        kept = self._copy(action, "f")
        if not np.isfinite(kept).all():
            raise ProtoRLError(f"actions {kept.tolist()} are not all finite: the policy's outputs have diverged")
        return kept, np.minimum(np.maximum(self.middle + self.half * kept, self.low), self.high)

    def _copy(self, action: ArrayLike, kinds: str) -> Array:
        given = np.asarray(action)
        if given.shape != self.shape or given.dtype.kind not in kinds:
            numbers = "integers" if kinds == "iu" else "floats in [-1, 1]"
            raise ProtoRLError(
                f"actions must be {numbers} of shape {self.shape}, one row per environment; "
                f"got {given.dtype} of shape {given.shape}"
            )
        return given.astype(self.spec.dtype)


def empty(spec: ObsSpec, num_envs: int) -> Obs:
    """Uninitialised observations of N environments: an array [N, *O] or a dict of them."""
    return tree_map(lambda leaf: np.empty((num_envs, *leaf.shape), leaf.dtype), spec)


def single_spec(env: AnyEnv) -> tuple[ObsSpec, int | None]:
    """The observation spec and the time limit (agent steps) of one environment as `make_env` builds it."""
    layer = env
    stack, padding = 1, "reset"
    limits = [getattr(env.unwrapped, "time_limit", None)]
    if env.spec is not None:
        limits.append(env.spec.max_episode_steps)
    while isinstance(layer, Wrapper):
        frames: Any = layer
        if getattr(type(frames), "stacks_frames", False) and frames.observation_space == env.observation_space:
            stack, padding = frames.num_frames, frames.padding
        if isinstance(layer, TimeLimit):
            limits.append(layer._max_episode_steps)
        layer = layer.env
    limit = min((given for given in limits if given is not None), default=None)
    return obs_spec(env.observation_space, stack, padding), None if limit is None else int(limit)
