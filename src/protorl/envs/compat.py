"""Environments that never heard of Gymnasium: the old Gym interface, brought to today's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from protorl.data import ProtoRLError
from protorl.envs.answers import checked_info, flag
from protorl.envs.api import AnyEnv, AnySpace, Options, Reset, Result


def convert_space(space: Any) -> AnySpace:
    """A Gymnasium space from an old Gym space, known by its attributes: `spaces`, `nvec`, `low`/`high`, or `n`.

    Raises:
        ProtoRLError: it has none of them.
    """
    if isinstance(space, spaces.Space):
        return space
    inner = getattr(space, "spaces", None)
    if inner is not None:
        if hasattr(inner, "items"):
            return spaces.Dict({key: convert_space(leaf) for key, leaf in inner.items()})
        return spaces.Tuple(tuple(convert_space(leaf) for leaf in inner))
    if hasattr(space, "nvec"):
        return spaces.MultiDiscrete(np.asarray(space.nvec))
    if hasattr(space, "low") and hasattr(space, "high"):
        shape = tuple(space.shape)
        low, high = (np.broadcast_to(bound, shape).astype(space.dtype) for bound in (space.low, space.high))
        return spaces.Box(low, high, shape, np.dtype(space.dtype).type)
    if hasattr(space, "n"):
        if type(space).__name__ == "MultiBinary":
            return spaces.MultiBinary(int(space.n))
        return spaces.Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    raise ProtoRLError(f"cannot read the space {space!r}: it has neither n, nvec, low and high, nor spaces")


class OldApi(AnyEnv):
    """One old environment behind Gymnasium's interface.

    Understands a `step` that returns four values (observation, reward, done, info) or five, a `reset` that returns the
    observation alone or with an info dict, seeding by `seed(seed)` or by `reset(seed=...)`, and the old marker of a time
    limit, `info["TimeLimit.truncated"]`, which becomes `truncated`.
    """

    def __init__(self, make: Callable[..., Any], render_mode: str | None = None, **kwargs: object) -> None:
        if render_mode is not None and _accepts(make, "render_mode"):
            kwargs["render_mode"] = render_mode
        self.old = make(**kwargs)
        self.observation_space = convert_space(self.old.observation_space)
        self.action_space = convert_space(self.old.action_space)
        self.metadata = dict(getattr(self.old, "metadata", {}))
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        super().reset(seed=seed)
        if seed is not None and hasattr(self.old, "seed"):
            self.old.seed(seed)
            answer = self.old.reset()
        elif seed is not None and _accepts(self.old.reset, "seed"):
            answer = self.old.reset(seed=seed)
        else:
            answer = self.old.reset()
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict):
            return answer
        return answer, {}

    def step(self, action: object) -> Result:
        answer = self.old.step(action)
        if len(answer) == 5:
            return answer
        obs, reward, done, info = answer
        done, info = flag("done", done), checked_info(info)
        truncated = done and flag("info['TimeLimit.truncated']", info.get("TimeLimit.truncated", False))
        return obs, reward, done and not truncated, truncated, info

    def render(self) -> Any:
        if _accepts(self.old.render, "mode"):
            return self.old.render(mode=self.render_mode)
        return self.old.render()

    def close(self) -> None:
        if hasattr(self.old, "close"):
            self.old.close()


def _accepts(function: Callable[..., object], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
