"""Say at the end what was shown at the beginning: networks that remember do, with and without replay, and others cannot."""

from __future__ import annotations

from typing import Any

import pytest

import protorl as prl
from protorl.recipes import RECIPES

pytestmark = pytest.mark.slow
LENGTH = 10
FIELDS: dict[str, dict[str, Any]] = {
    "r2d2": {
        "steps": 4_500, "warmup_steps": 500, "update_every": 16, "batch_size": 32, "target_every": 20, "core_size": 32,
        "sequence_length": LENGTH + 1, "period": LENGTH + 1, "core_span": LENGTH, "lr": 3e-3, "optimizer_eps": 1e-5,
    },
    "ppo": {"steps": 12_000, "rollout_steps": 33, "num_envs": 8, "batch_size": 66, "core_span": LENGTH, "lr": 3e-3},
}  # fmt: skip


def right(name: str, **fields: Any) -> float:
    """Mean return of 100 episodes after a training: 1 where every answer is right, about 0 by chance."""
    recipe = RECIPES[name](env="protorl/MemoryLength-v0", env_kwargs={"length": LENGTH}, **{**FIELDS[name], **fields})
    parts = recipe.build()
    prl.train(*parts, steps=recipe.steps)
    return prl.evaluate(parts[0], recipe.make_env(10, name="eval"), 100).mean


@pytest.mark.parametrize("name", FIELDS)
def test_a_core_remembers(name: str) -> None:
    assert right(name) == 1.0


def test_without_a_core_there_is_nothing_but_chance() -> None:
    assert abs(right("r2d2", core="none")) < 0.4
