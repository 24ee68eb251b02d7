"""Deep sea: how many episodes until the treasure is found again and again (Osband et al. 2020, bsuite's `deep_sea`).

    python benchmarks/learning/deep_sea.py rnd dqn-rnd dqn --size 10 14 --seeds 3
    python benchmarks/learning/deep_sea.py --report                                  # only write the table anew

A grid of N x N: one action sequence in 2^N pays 1, and each of its steps costs 0.01 / N. "Solved" is bsuite's: the first
episode at which a tenth of all episodes so far were good ones. "Found" is the first good one. An agent has 10 000 episodes. At
the end it plays once without exploration. Every started seed has a row in results/deep-sea.json; results/deep-sea.md is the
table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import protorl as prl
from protorl.accelerate import accelerate
from protorl.recipes import RECIPES
from protorl.recipes.fields import parse_settings

RESULTS = Path(__file__).parent / "results"
EPISODES = 10_000
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", {"epsilon_end": 0.1, "epsilon_steps": 20_000}),
    "dqn-rnd": ("dqn", {"bonus": "rnd"}),
    "ppo": ("ppo", {}),
    "rnd": ("rnd", {}),
}
"""By name: a recipe, and what it has besides its preset."""


class Episodes(prl.Monitor):
    """Counts good and bad episodes, and stops once the task is solved or nobody believes in it any more."""

    def __init__(self, actors: Any) -> None:
        super().__init__()
        self.actors = actors
        self.count = self.good = 0
        self.found: int | None = None
        self.solved: int | None = None

    def room(self) -> int:
        """A few episodes."""
        return 100

    def tick(self) -> None:
        for episode in self.actors.episodes():
            self.count += 1
            if episode.ret > 0.5:
                self.good += 1
                self.found = self.found or self.count
                if self.solved is None and self.good >= 0.1 * self.count:
                    self.solved = self.count
        self.stop = self.solved is not None or self.count >= EPISODES


def run(agent: str, size: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One training; its row."""
    name, own = AGENTS[agent]
    fields = {"env": "protorl/DeepSea-v0", "env_kwargs": {"size": size}, "steps": EPISODES * size, **own, **settings}
    recipe = RECIPES[name](seed=seed, **fields)
    begin = time.monotonic()
    parts = recipe.build()
    accelerate(parts.agent)
    monitor = Episodes(parts.actors)
    prl.train(*parts, steps=2 * recipe.steps, monitor=monitor)
    parts.actors.close()
    score = prl.evaluate(parts.agent, recipe.make_eval_env(1), 1, seed=0)
    return {
        "agent": agent, "size": size, "seed": seed, "found": monitor.found, "solved": monitor.solved, "greedy": score.mean,
        "episodes": monitor.count, "seconds": round(time.monotonic() - begin),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", help=", ".join(AGENTS))
    parser.add_argument("--size", type=int, nargs="*", default=[10, 14, 20, 30])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the recipe: a trial, whose rows are not kept")
    arguments = parser.parse_args()
    for agent in arguments.agents or AGENTS:
        settings = parse_settings(RECIPES[AGENTS[agent][0]], arguments.set)
        for size in arguments.size:
            for seed in range(arguments.seeds):
                print(run(agent, size, seed, settings), flush=True)


if __name__ == "__main__":
    main()
