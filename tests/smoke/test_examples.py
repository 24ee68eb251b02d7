"""Recipes in files: they train, learn with numbers that are finite, and come back from their folder. What else every example
must keep is in test_check.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import protorl as prl
from protorl.recipes.find import find_recipe
from protorl.recipes.saved import load
from protorl.recipes.start import start
from protorl.runs.metrics import read_metrics

FOLDER = Path(__file__).parents[2] / "examples"
SMALL: dict[str, Any] = {
    "steps": 300, "warmup_steps": 64, "batch_size": 16, "widths": (8, 8), "capacity": 300, "log_every": 100, "eval_every": 150,
    "eval_episodes": 2, "checkpoint_every": 150, "update_every": 8, "target_every": 5, "updates": 2, "rollout_steps": 8,
}  # fmt: skip
EXAMPLES = (
    "my_paper.py:MyRecipe", "averaged_dqn.py:AveragedDQN", "pqn.py:PQN", "awr.py:AWR", "tqc.py:TQC", "redq.py:REDQ",
    "custom_environment.py:ParkingDQN", "count_bonus.py:CountDQN", "drqn.py:DRQN",
    "qatten.py:Qatten",
)  # fmt: skip


@pytest.mark.parametrize("name", ["my_paper.py:MyRecipe", "pqn.py:PQN"])
def test_an_example_trains_and_comes_back(name: str, tmp_path: Path) -> None:
    cls: Any = find_recipe(str(FOLDER / name))
    known = cls.__dataclass_fields__
    recipe = cls(**{key: value for key, value in SMALL.items() if key in known})
    start(recipe, tmp_path / "run", progress=False)
    metrics = read_metrics(tmp_path / "run" / "metrics.csv")
    assert metrics["updates"][-1] > 10
    assert math.isfinite(metrics["loss"][-1])
    trained = load(tmp_path / "run")
    assert type(trained.agent).__name__ == cls.agent_class.__name__
    assert len(prl.evaluate(trained.agent, trained.env, 1, seed=0).returns) == 1
    trained.env.close()


def test_every_recipe_among_the_examples_is_here() -> None:
    files = {file.name for file in FOLDER.glob("*.py")} - {"lego_dqn.py"}
    assert files == {name.partition(":")[0] for name in EXAMPLES}
