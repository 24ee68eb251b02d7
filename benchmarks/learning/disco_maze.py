"""Disco maze: which novelty leads through a maze whose walls change colour every step (Badia et al. 2020, section 4.1).

    python benchmarks/learning/disco_maze.py ngu random rnd oracle --seeds 1               # half an hour each
    python benchmarks/learning/disco_maze.py ngu --size 7 --steps 200000                   # six minutes
    python benchmarks/learning/disco_maze.py --report                              # only write the table and the plot anew

No reward: what counts is the share of the free cells that an episode sees. In turn, an agent is paid by the embedding that it
learns, by a random projection, by random network distillation alone, and by the agent's true place (an oracle); `walk` is
chance that avoids walls, `uniform` plain chance. Every started seed has a row in results/disco-maze.json: the mean share of 40
episodes without exploration after each tenth of the training, played by the policy that cares most for what is new.
results/disco-maze.md is the table, results/disco-maze.png the plot; results/disco-maze.gif has an episode of `ngu`, seed 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rows import keep, kept, key

import protorl as prl
from protorl.accelerate import accelerate
from protorl.agents.ngu import NGU, NGUCarry
from protorl.data import Array
from protorl.envs.tasks.disco_maze import AGENT, MOVES
from protorl.recipes import RECIPES
from protorl.recipes.fields import parse_settings
from protorl.recipes.presets import NGU_DISCO

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "disco-maze.json"
EPISODES = 40


class Oracle(NGU):
    """NGU whose embedding is where the agent is."""

    def embedded(self, obs: Any, carry: NGUCarry, rows: Array) -> Array:
        """Row and column of the agent, in the first two of the embedding's numbers [N, F]."""
        found = np.zeros((len(obs), self.inverse.features), np.float32)
        found[:, :2] = places(obs)[0]
        return found


ALIKE = {
    name: value for name, value in NGU_DISCO.items() if name in {field.name for field in dataclasses.fields(RECIPES["r2d2"])}
}
AGENTS: dict[str, tuple[str, dict[str, Any], type[NGU] | None]] = {
    "ngu": ("ngu", {}, None),
    "random": ("ngu", {"embedding": "random"}, None),
    "rnd": ("r2d2", {**ALIKE, "gamma": 0.99, "bonus": "rnd"}, None),
    "oracle": ("ngu", {}, Oracle),
}
"""By name: a recipe, what it has besides its preset (R2D2: NGU's), and another class of agent. Nothing is
compiled ahead of time, which takes as long as a good part of the training."""


class Share:
    """The share of the free cells that each episode of an evaluation sees: before each step it looks where the agent is."""

    def __init__(self, size: int) -> None:
        self.free, self.cells, self.shares = 2 * (size // 2) ** 2 - 1, list[set[int]](), list[float]()

    def __call__(self, env: Any) -> None:
        seen = env.seen
        self.cells = self.cells or [set() for _ in seen.first]
        for cells, first, place in zip(self.cells, seen.first, places(seen.obs)[1].tolist()):
            if first and cells:
                self.shares.append(len(cells) / self.free)
                cells.clear()
            cells.add(place)

    def mean(self) -> float:
        return float(np.mean([*self.shares, *(len(cells) / self.free for cells in self.cells)]))


def film(agent: Any, recipe: Any, path: Path, enlarged: int = 12) -> None:
    """The first 200 steps of an episode, as a picture that moves."""
    from PIL import Image

    frames: list[Any] = []

    def watch(env: Any) -> None:
        frame = env.seen.obs[0].transpose(1, 2, 0)
        frames.append(Image.fromarray(frame.repeat(enlarged, 0).repeat(enlarged, 1)))

    prl.evaluate(agent, recipe.make_eval_env(1), 1, seed=0, watch=watch)
    frames[0].save(path, save_all=True, append_images=frames[1:200], duration=80, loop=0)


def places(obs: Array) -> tuple[Array, Array]:
    """Row and column [N, 2] of the one white cell of each observation [N, 3, S, S], and both as one number [N]."""
    white = (obs == np.array(AGENT, np.uint8).reshape(3, 1, 1)).all(1).reshape(len(obs), -1).argmax(1)
    return np.stack(np.divmod(white, obs.shape[-1]), 1), white


class Evaluations(prl.Monitor):
    """A few episodes without exploration, of the policy that cares most for what is new, in each tenth of the training."""

    def __init__(self, recipe: Any, agent: Any, size: int) -> None:
        super().__init__()
        self.recipe, self.agent, self.size, self.shares = recipe, agent, size, list[float]()

    def room(self) -> int:
        return max(self.recipe.steps * (len(self.shares) + 1) // 10 - self.steps, 1)

    def tick(self) -> None:
        if self.steps < self.recipe.steps * (len(self.shares) + 1) // 10:
            return
        share = Share(self.size)
        prl.evaluate(self.agent, self.recipe.make_eval_env(8), EPISODES, seed=len(self.shares), watch=share)
        self.shares.append(round(share.mean(), 4))
        print(self.steps, self.shares[-1], flush=True)


@cache
def walk(size: int, avoids: bool, episodes: int = 200) -> float:
    """The mean share that chance sees."""
    env = prl.make_env("protorl/DiscoMaze-v0", size=size).unwrapped
    rng, shares = np.random.default_rng(0), []
    for episode in range(episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            ways = [a for a, (r, c) in enumerate(MOVES) if not (avoids and env.wall[env.place[0] + r, env.place[1] + c])]
            *_, terminated, truncated, info = env.step(int(rng.choice(ways)))
            over = terminated or truncated
        shares.append(info["visited"])
    return float(np.mean(shares))


def run(agent: str, size: int, steps: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One training; its row."""
    name, own, cls = AGENTS[agent]
    recipe_class: Any = RECIPES[name]
    if cls is not None:
        recipe_class = type(agent.title(), (recipe_class,), {"__module__": __name__, "agent_class": cls})
    fields = {"env": "protorl/DiscoMaze-v0", "env_kwargs": {"size": size}, "accelerate": "eager", **own, "steps": steps}
    recipe = recipe_class(seed=seed, **{**fields, **settings})
    begin = time.monotonic()
    parts = recipe.build()
    if hasattr(parts.agent, "exploits"):
        parts.agent.exploits = recipe.mixtures - 1
    accelerate(parts.agent, recipe.accelerate)
    monitor = Evaluations(recipe, parts.agent, size)
    prl.train(*parts, steps=recipe.steps, monitor=monitor)
    parts.actors.close()
    if agent == "ngu" and seed == 0 and not settings:
        film(parts.agent, recipe, RESULTS / "disco-maze.gif")
    return {
        "agent": agent, "size": size, "seed": seed, "steps": recipe.steps, "shares": monitor.shares,
        "seconds": round(time.monotonic() - begin),
    }  # fmt: skip


def report() -> None:
    """results/disco-maze.md and .png."""
    rows = kept(ROWS)
    lines = [
        "# Disco maze",
        "",
        "Share of the free cells of a new maze that an episode of at most 500 steps sees: mean of 40 episodes without",
        "exploration after each tenth of the training, of the policy that cares most for what is new; mean over seeds. No row",
        "is a selection: `end` is the last evaluation.",
        "Command: `python benchmarks/learning/disco_maze.py AGENT --size SIZE --steps STEPS`.",
        "",
        "| paid by | size | seeds | agent steps | share of cells, tenth by tenth | end |",
        "|---|---|---|---|---|---|",
    ]
    for size in sorted({row["size"] for row in rows}):
        for name in ("uniform", "walk"):
            lines.append(f"| {name} | {size} | | | | {walk(size, name == 'walk'):.3f} |")
        for agent in AGENTS:
            mine = [row for row in rows if (row["agent"], row["size"]) == (agent, size)]
            if mine:
                curve = np.mean([row["shares"] for row in mine], 0)
                shares = ", ".join(f"{share:.3f}" for share in curve)
                lines.append(f"| {agent} | {size} | {len(mine)} | {mine[0]['steps']:,} | {shares} | {curve[-1]:.3f} |")
    (RESULTS / "disco-maze.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    plot(rows)


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sizes = sorted({row["size"] for row in rows})
    figure, panels = pyplot.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), squeeze=False)
    for size, axes in zip(sizes, panels[0]):
        for agent in AGENTS:
            mine = [row for row in rows if (row["agent"], row["size"]) == (agent, size)]
            if mine:
                axes.plot(mine[0]["steps"] / 1e4 * np.arange(1, 11), np.mean([row["shares"] for row in mine], 0), label=agent)
        axes.axhline(walk(size, True), color="gray", linestyle="--", label="walk")
        axes.set(
            xlabel="agent steps, in thousands", ylabel="share of the cells", title=f"Disco maze {size}x{size}", ylim=(0, 1)
        )
        axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "disco-maze.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", help=", ".join(AGENTS))
    parser.add_argument("--size", type=int, default=11)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run seeds again that have a row already")
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the recipe: a trial, whose rows are not kept")
    parser.add_argument("--report", action="store_true", help="only write the table and the plot")
    arguments = parser.parse_args()
    for agent in () if arguments.report else arguments.agents or AGENTS:
        if agent not in AGENTS:
            parser.error(f"{agent} is unknown: choose from {', '.join(AGENTS)}")
        settings = parse_settings(RECIPES[AGENTS[agent][0]], arguments.set)
        for seed in range(arguments.seeds):
            if not (arguments.again or settings) and (agent, arguments.size, seed) in map(key, kept(ROWS)):
                continue
            row = run(agent, arguments.size, arguments.steps, seed, settings)
            print(row, flush=True)
            if not settings:
                keep(ROWS, row)
    if kept(ROWS):
        report()


if __name__ == "__main__":
    main()
