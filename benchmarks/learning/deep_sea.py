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

import numpy as np
from rows import keep, kept, key

import protorl as prl
from protorl.accelerate import accelerate
from protorl.cli.plot import bootstrap_interval
from protorl.recipes import RECIPES
from protorl.recipes.fields import parse_settings

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "deep-sea.json"
EPISODES = 10_000
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", {"epsilon_end": 0.1, "epsilon_steps": 20_000}),
    "noisy": ("dqn", {"noisy": True, "epsilon_start": 0.0, "epsilon_end": 0.0}),
    "dqn-rnd": ("dqn", {"bonus": "rnd"}),
    "ppo": ("ppo", {}),
    "rnd": ("rnd", {}),
    "ngu": ("ngu", {}),
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
    accelerate(parts.agent, "aot")  # a thousand updates and more, in ever the same shapes
    monitor = Episodes(parts.actors)
    prl.train(*parts, steps=2 * recipe.steps, monitor=monitor)
    parts.actors.close()
    score = prl.evaluate(parts.agent, recipe.make_eval_env(1), 1, seed=0)
    return {
        "agent": agent, "size": size, "seed": seed, "found": monitor.found, "solved": monitor.solved, "greedy": score.mean,
        "episodes": monitor.count, "seconds": round(time.monotonic() - begin),
    }  # fmt: skip


def report() -> None:
    """results/deep-sea.md: episodes until solved, with 95 % bootstrap intervals."""
    lines = [
        "# Deep sea",
        "",
        "Episodes until solved (bsuite: a tenth of all episodes so far found the treasure), of at most 10,000: mean with a",
        "95 % percentile-bootstrap interval from three seeds on, a seed that did not solve it counting as 10,000. `return`: of",
        "one episode without exploration when the training stopped; 0.99 is the best there is. `2^N`: what chance needs.",
        "Command: `python benchmarks/learning/deep_sea.py AGENT --size N --seeds SEEDS`.",
        "",
        "| agent | N | 2^N | seeds | solved | episodes found first | episodes to solve | return |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = kept(ROWS)
    for agent in AGENTS:
        for size in sorted({row["size"] for row in rows if row["agent"] == agent}):
            mine = [row for row in rows if (row["agent"], row["size"]) == (agent, size)]
            solved = sum(row["solved"] is not None for row in mine)
            found = ", ".join("never" if row["found"] is None else f"{row['found']:,}" for row in mine)
            needed = np.array([row["solved"] or EPISODES for row in mine], np.float64)
            cell = ", ".join("—" if row["solved"] is None else f"{row['solved']:,}" for row in mine)
            if len(mine) >= 3 and solved:
                low, high = bootstrap_interval(needed)
                cell = f"{needed.mean():,.0f} [{float(low):,.0f}, {float(high):,.0f}]"
            best = np.mean([row["greedy"] for row in mine])
            lines.append(f"| {agent} | {size} | {2**size:,} | {len(mine)} | {solved} | {found} | {cell} | {best:.2f} |")
    (RESULTS / "deep-sea.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", help=", ".join(AGENTS))
    parser.add_argument("--size", type=int, nargs="*", default=[10, 14, 20, 30])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--again", action="store_true", help="run seeds again that have a row already")
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the recipe: a trial, whose rows are not kept")
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    for agent in () if arguments.report else arguments.agents or AGENTS:
        if agent not in AGENTS:
            parser.error(f"{agent} is unknown: choose from {', '.join(AGENTS)}")
        settings = parse_settings(RECIPES[AGENTS[agent][0]], arguments.set)
        for size in arguments.size:
            for seed in range(arguments.first, arguments.first + arguments.seeds):
                if not (arguments.again or settings) and (agent, size, seed) in map(key, kept(ROWS)):
                    continue
                row = run(agent, size, seed, settings)
                print(row, flush=True)
                if not settings:
                    keep(ROWS, row)
    report()


if __name__ == "__main__":
    main()
