"""Gymnasium's interface as types. Its type parameters (observation, action) say nothing where any environment may come."""

from __future__ import annotations

from typing import Any

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
