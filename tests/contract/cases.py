"""Every recipe, made small: what it needs to train within seconds."""

from __future__ import annotations

import dataclasses
from typing import Any

from protorl.recipes import RECIPES

SMALL: dict[str, Any] = {
    "num_envs": 1, "warmup_steps": 32, "batch_size": 16, "widths": (8, 8), "update_every": 4, "updates": 1, "target_every": 10,
    "capacity": 200, "chunk_steps": 5, "epsilon_steps": 200, "rollout_steps": 32, "epochs": 2, "eval_episodes": 2,
    "atoms": 11, "quantiles": 5, "samples": 4, "target_samples": 3, "act_samples": 2, "cosines": 8,
    "workers": 0, "core_size": 8, "sequence_length": 4, "burn_in": 2, "period": 3,
    "predictor_features": 8, "warmup_rollouts": 1, "mixing_size": 4,
}  # fmt: skip
ENVS = {
    **dict.fromkeys(("ddpg", "td3", "sac", "apex-ddpg"), "Pendulum-v1"),
    **dict.fromkeys(("mappo", "maddpg", "matd3"), "protorl/EarlyDeath-v0"),
    **dict.fromkeys(("vdn", "qmix"), "protorl/TwoStepGame-v0"),
}
OWN: dict[str, dict[str, Any]] = {"qmix": {"core": "gru"}}


def settings(name: str, **fields: Any) -> dict[str, Any]:
    """The small settings that a recipe knows, and `fields`."""
    known = {field.name for field in dataclasses.fields(RECIPES[name])}  # type: ignore[arg-type]
    few = {key: SMALL[key] for key in SMALL if key in known}
    return {"env": ENVS.get(name, "CartPole-v1"), **few, **OWN.get(name, {}), **fields}


def small(name: str, **fields: Any) -> Any:
    """A recipe by name with those settings."""
    return RECIPES[name](**settings(name, **fields))
