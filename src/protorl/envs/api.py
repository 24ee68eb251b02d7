"""Gymnasium's interface as types. Its type parameters (observation, action) say nothing where any environment may come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
from gymnasium import spaces
from gymnasium.vector import VectorEnv

AnyEnv = gymnasium.Env[Any, Any]
AnyWrapper = gymnasium.Wrapper[Any, Any, Any, Any]
AnyVectorEnv = VectorEnv[Any, Any, Any]
AnySpace = spaces.Space[Any]
Info = dict[str, Any]
Options = Info | None
"""What `reset` takes besides a seed."""
Reset = tuple[Any, Info]
"""What `reset` returns: observation and info."""
Result = tuple[Any, Any, bool, bool, Info]
"""What `step` returns: observation, reward, terminated, truncated, info."""
Results = tuple[Any, Any, Any, Any, Info]
"""The same for many rows."""


class Parallel(Protocol):
    """PettingZoo's interface of agents that act at the same time: everything is a dict by agent, `agents` are the living."""

    @property
    def possible_agents(self) -> Sequence[str]: ...

    @property
    def agents(self) -> Sequence[str]: ...

    def observation_space(self, agent: str, /) -> AnySpace: ...

    def action_space(self, agent: str, /) -> AnySpace: ...

    def reset(self, seed: int | None = None, options: Options = None) -> tuple[Mapping[str, Any], Mapping[str, Info]]: ...

    def step(self, actions: dict[str, Any], /) -> tuple[Mapping[str, Any], ...]: ...

    def close(self) -> None: ...
