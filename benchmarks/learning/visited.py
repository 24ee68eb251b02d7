"""Where they go: cells of one MiniGrid maze that PPO and RND stood on in training, as a picture.

    python benchmarks/learning/visited.py                       # MultiRoom-N4-S5, one maze, 200,000 steps each
    python benchmarks/learning/visited.py --steps 50000 --seed 1

The maze is the one of the experiments `ppo-multiroom` and `rnd-multiroom`, whose recipes these are. The answer is
results/visited.json, steps on each cell, and results/visited.png.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from typing import Any

import gymnasium
import matplotlib
import numpy as np
from run import EXPERIMENTS, RESULTS

import protorl as prl
from protorl.recipes import RECIPES
from protorl.recipes.fields import parse_settings

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm

SHOWN = ("ppo", "rnd")


class Visits(gymnasium.Wrapper):
    """Counts the steps on each cell, of all environments of this process together."""

    cells: Any = np.zeros((0, 0), np.int64)
    maze: Any = np.zeros((0, 0), np.bool_)

    def reset(self, **given: Any) -> Any:
        answer = super().reset(**given)
        grid: Any = self.unwrapped
        if not Visits.cells.size:
            Visits.cells = np.zeros((grid.width, grid.height), np.int64)
            Visits.maze = np.array([[wall(grid.grid.get(x, y)) for y in range(grid.height)] for x in range(grid.width)])
        return answer

    def step(self, action: Any) -> Any:
        answer = super().step(action)
        place: Any = self.unwrapped
        Visits.cells[tuple(place.agent_pos)] += 1
        return answer


def wall(thing: Any) -> bool:
    """Whether nobody can stand there."""
    return thing is not None and thing.type == "wall"


def visits(name: str, steps: int, seed: int) -> dict[str, Any]:
    """One training: steps on each cell, and the mean return of its last hundred episodes."""
    from visited import Visits as counted  # noqa: N813 - the one that the environments' wrapper is, too

    counted.cells = counted.maze = np.zeros((0, 0), np.int64)
    experiment = EXPERIMENTS[f"{name}-multiroom"]
    cls = RECIPES[experiment.recipe]
    given: dict[str, Any] = parse_settings(cls, [f"{key}={value}" for key, value in experiment.settings.items()])
    given |= {"wrappers": ("visited:Visits", *given["wrappers"]), "env": experiment.env, "steps": steps, "seed": seed}
    parts = cls(**{**given, "accelerate": "eager"}).build()
    with closing(parts.actors):
        prl.train(*parts, steps=steps)
        returns = [episode.ret for episode in parts.actors.episodes()]
    cells, walls = counted.cells.tolist(), counted.maze.tolist()
    return {
        "recipe": name,
        "seed": seed,
        "steps": steps,
        "return": float(np.mean(returns[-100:])),
        "cells": cells,
        "walls": walls,
    }


def draw(rows: list[dict[str, Any]]) -> None:
    """results/visited.png: how often each cell was stood on, one scale for all."""
    most = max(np.max(row["cells"]) for row in rows)
    figure, axes = plt.subplots(1, len(rows), figsize=(5 * len(rows), 4.2), squeeze=False, constrained_layout=True)
    for axis, row in zip(axes[0], rows):
        cells, walls = np.array(row["cells"], np.float64).T, np.array(row["walls"], bool).T
        axis.imshow(np.where(walls, 0.75, np.nan), cmap="gray", vmin=0, vmax=1)
        shown = axis.imshow(np.where(cells > 0, cells, np.nan), norm=LogNorm(1, most), cmap="viridis")
        axis.set(title=f"{row['recipe']}: return {row['return']:.2f}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label=f"steps on a cell, of {rows[0]['steps']:,}")
    figure.savefig(RESULTS / "visited.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = [visits(name, args.steps, args.seed) for name in SHOWN]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "visited.json").write_text(json.dumps(rows) + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
