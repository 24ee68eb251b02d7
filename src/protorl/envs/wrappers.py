"""Wrappers of one Gymnasium environment: canonical observations, stacked frames, numbers hidden, the time left in view."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium import wrappers as gym_wrappers
from numpy.typing import ArrayLike

from protorl.data import MASK, Array, Obs, ProtoRLError, State
from protorl.envs.answers import available
from protorl.envs.api import AnyEnv, AnyWrapper, Options, Reset, Result
from protorl.envs.snapshot import freeze, thaw
from protorl.envs.spec import canonical


class Canonical(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observations as agents see them: uint8 images [C, H, W], Discrete observations one-hot. See `spec.canonical`."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self.observation_space, self.convert = canonical(env.observation_space)

    def observation(self, observation: object) -> object:
        return observation if self.convert is None else self.convert(observation)

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to remember."""


class FrameStack(AnyWrapper):
    """The last `num_frames` observations joined along the first axis, oldest first: [C, H, W] becomes [k*C, H, W].

    padding: what stands for the frames before an episode's first one: "reset" repeats the first, "zero" puts zeros
    (as ALE's own vector environment does).

    Raises:
        ProtoRLError: the observation is not one array, or the padding has another name.
    """

    stacks_frames = True

    def __init__(self, env: AnyEnv, num_frames: int, padding: str = "reset") -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not space.shape:
            raise ProtoRLError(f"frames of {space} cannot be stacked: only those of a Box with at least one axis")
        if padding not in ("reset", "zero"):
            raise ProtoRLError(f'stack padding {padding!r} is unknown: use "reset" or "zero"')
        self.num_frames, self.padding = num_frames, padding
        low, high = (np.concatenate([bound] * num_frames) for bound in (space.low, space.high))
        if padding == "zero":
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)
        self.frames: deque[Array] = deque(maxlen=num_frames)

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        obs, info = self.env.reset(seed=seed, options=options)
        obs = np.array(obs)
        self.frames.extend([obs if self.padding == "reset" else np.zeros_like(obs)] * self.num_frames)
        self.frames.append(obs)
        return np.concatenate(self.frames), info

    def step(self, action: object) -> Result:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.frames.append(np.array(obs))
        return np.concatenate(self.frames), reward, terminated, truncated, info

    def state_dict(self) -> State:
        return {"frames": freeze(self.frames)}

    def load_state_dict(self, state: State) -> None:
        self.frames = thaw(state["frames"])


class MaskObs(gym_wrappers.TransformObservation[Any, Any, Any]):
    """Zeros in place of some numbers of the observation, so that what they said must be remembered or worked out.

    drop, keep: indices along the observation's last axis; give one of them: which are hidden, or which are left.

    Raises:
        ProtoRLError: the observation is no Box with an axis, an index is outside, or not exactly one of the two is given.

    Source: as in RL Baselines3 Zoo, `MaskVelocityWrapper`, for any indices.
    """

    def __init__(self, env: AnyEnv, *, drop: Sequence[int] | None = None, keep: Sequence[int] | None = None) -> None:
        space = env.observation_space
        if not isinstance(space, spaces.Box) or not space.shape:
            raise ProtoRLError(f"numbers of {space} cannot be masked: only those of a Box with at least one axis")
        named = drop if keep is None else keep
        if named is None or (drop is not None and keep is not None):
            raise ProtoRLError("MaskObs takes drop= or keep=, one of them: a list of indices of the observation")
        size = space.shape[-1]
        if outside := [index for index in named if not -size <= index < size]:
            raise ProtoRLError(f"index {outside[0]} is not in the observation, whose last axis has {size} numbers")
        hidden = np.full(size, keep is not None)
        hidden[list(named)] = keep is None
        low = np.where(hidden, np.minimum(space.low, 0), space.low)
        high = np.where(hidden, np.maximum(space.high, 0), space.high)
        masked = spaces.Box(low, high, dtype=space.dtype.type)
        super().__init__(env, lambda obs: np.where(hidden, np.zeros((), space.dtype), obs), masked)


class ActionMask(AnyWrapper):
    """Which discrete actions are available, told in `info["action_mask"]` or as an entry of a Dict observation, in view: the
    entry "action_mask" [n] of uint8 beside "obs", or beside the entries of a Dict. Agents then take none of the others.

    `make_vec_envs` puts it around environments that tell of masks. A mask that is missing, or of zeros, forbids nothing.
    Raises ProtoRLError for actions that are not discrete, Refused for a mask that does not fit them.
    """

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        space, action = env.observation_space, env.action_space
        if not isinstance(action, spaces.Discrete):
            raise ProtoRLError(f"the actions of {env} are {action}: only discrete ones can be masked")
        self.n = int(action.n)
        seen = dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}
        self.observation_space = spaces.Dict({**seen, MASK: spaces.Box(0, 1, (self.n,), np.uint8)})

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._show(obs, info), info

    def step(self, action: object) -> Result:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._show(obs, info), reward, terminated, truncated, info

    def _show(self, obs: Any, info: Any) -> Obs:
        seen = dict(obs) if isinstance(obs, dict) else {"obs": obs}
        mask = info.get(MASK) if isinstance(info, dict) and MASK in info else seen.get(MASK)
        return {**seen, MASK: available("info or observation", np.ones(self.n) if mask is None else mask, self.n, self.n)}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to remember."""


class TimeAware(AnyWrapper):
    """The share of the time limit that has passed, t / T in [0, 1], in view: one more number at the end of a vector, one
    more entry "time" of a Dict. (Pardo et al. 2018, "Time limits in reinforcement learning": where the limit is part
    of the task, the agent must see it.)

    Raises:
        ProtoRLError: there is no time limit to read or given, or the observation is neither a vector nor a Dict.
    """

    def __init__(self, env: AnyEnv, time_limit: int | None = None) -> None:
        super().__init__(env)
        if time_limit is None and env.spec is not None:
            time_limit = env.spec.max_episode_steps
        if time_limit is None:
            time_limit = getattr(env.unwrapped, "time_limit", None)
        if time_limit is None:
            raise ProtoRLError(f"{env} has no time limit to show: pass time_limit=")
        space = env.observation_space
        if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f":
            low, high = np.append(space.low, 0.0), np.append(space.high, 1.0)
            self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        elif isinstance(space, spaces.Dict):
            clock = spaces.Box(0.0, 1.0, (1,), np.float32)
            self.observation_space = spaces.Dict({**space.spaces, "time": clock})
        else:
            raise ProtoRLError(f"time cannot be shown beside {space}: only beside a vector of floats or a Dict")
        self.limit, self.elapsed = time_limit, 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        obs, info = self.env.reset(seed=seed, options=options)
        self.elapsed = 0
        return self._show(obs), info

    def step(self, action: object) -> Result:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.elapsed += 1
        return self._show(obs), reward, terminated, truncated, info

    def _show(self, obs: ArrayLike | dict[str, Array]) -> Obs:
        share = np.float32(self.elapsed / self.limit)
        if isinstance(obs, dict):
            return {**obs, "time": np.array([share], np.float32)}
        return np.append(np.asarray(obs, np.float32), share)

    def state_dict(self) -> State:
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state: State) -> None:
        self.elapsed = state["elapsed"]
