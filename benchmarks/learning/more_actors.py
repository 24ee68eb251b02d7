"""More actors at the same number of updates, and the same data several times (Horgan et al. 2018, section 5 and figure 5).

    python benchmarks/learning/more_actors.py                             # CartPole-v1, 5 seeds each: some five minutes
    python benchmarks/learning/more_actors.py --env MountainCar-v0        # where the goal is seldom found by chance
    python benchmarks/learning/more_actors.py --report

The paper's control: does Ape-X learn better with more actors because they explore in more ways, or because the memory is
exchanged faster? There, one actor's steps were added to the memory k times, which exchanges it as fast as k actors would, and
did not help as they did. Here 1, 2, 4 and 8 environments act in this process, in turns with the learner: a training repeats bit
for bit. Each keeps an epsilon of its own, from the ladder of eight, evenly spaced; copied k times: one environment, whose every
row comes in k lanes of the memory. All make as many updates, 16 whenever each environment has taken 32 steps: 4,000 on
CartPole, 16,000 on MountainCar. The memory has 10,000 rows, so that eight environments exchange it again and again; or so many
that nothing ever leaves it. After every tenth of the updates the greedy agent plays 10 episodes; the number of a seed is the
mean of the last five evaluations. Every started seed gets a row in results/more-actors.json; the table is
results/more-actors.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import protorl as prl
from protorl import rng
from protorl.accelerate import accelerate
from protorl.actors import Actors
from protorl.cli.plot import bootstrap_interval
from protorl.data import Array, Chunk, EnvSpec, tree_map
from protorl.policies import EpsilonGreedy
from protorl.policies.discrete import apex_epsilons

RESULTS = Path(__file__).parent / "results"
LADDER, WARM_UP, EPISODES = 8, 512, 10
"""Epsilons; steps of each environment before the first update; episodes of an evaluation."""
TASKS = {"CartPole-v1": (8_000, 10_000, 100_000), "MountainCar-v0": (32_000, 10_000, 300_000)}
"""Steps of each environment after those; rows of a memory that is exchanged, and of one that nothing leaves."""


class Group(NamedTuple):
    env: str
    capacity: int
    environments: int
    times: int
    """How often each row is added."""


def groups(env: str) -> list[Group]:
    _, small, large = TASKS[env]
    several = (1, 2, 4, 8)
    own = [*((small, n, 1) for n in several), *((small, 1, n) for n in several[1:]), *((large, n, 1) for n in several)]
    return [Group(env, *group) for group in own]


class MoreActors(prl.recipes.ApexDQN):
    """Ape-X DQN, whose few environments have epsilons from all of the ladder of many."""

    name = "more-actors"

    def policy(self, spec: EnvSpec) -> EpsilonGreedy:
        places = LADDER * (2 * np.arange(self.num_envs) + 1) // (2 * self.num_envs)
        return EpsilonGreedy(
            spec.action, apex_epsilons(LADDER, self.epsilon, self.epsilon_alpha)[places], self.seed, spec.lanes
        )


class Copied:
    """Actors whose every row comes `times` times, each time in another lane."""

    def __init__(self, actors: Actors, lanes: int, times: int) -> None:
        self.actors, self.times, self.lanes = actors, times, np.arange(lanes * times)

    def poll(self, room: int = 1, timeout: float | None = None) -> list[Chunk]:
        return [self.copied(chunk) for chunk in self.actors.poll(-(-room // self.times), timeout)]

    def copied(self, chunk: Chunk) -> Chunk:
        def tiled(array: Array) -> Array:
            return np.concatenate([array] * self.times, 1)

        *columns, _ = chunk
        arrays: list[Any] = [tree_map(tiled, column) for column in columns]
        return Chunk(*[*arrays, self.lanes])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.actors, name)


def train(group: Group, seed: int) -> list[dict[str, float]]:
    """The curve of one training: updates, and the mean return of the greedy agent."""
    rows = group.environments * group.times
    steps = TASKS[group.env][0]
    recipe = MoreActors(
        env=group.env, seed=seed, num_envs=group.environments, workers=0, device="cpu", threads=1, steps=steps * rows,
        capacity=group.capacity, warmup_steps=WARM_UP * rows, update_every=32 * rows, updates=16,
    )  # fmt: skip
    torch.manual_seed(rng.integer(seed, "torch"))
    curve = []
    with closing(recipe.make_env()) as env, closing(recipe.make_env(EPISODES, name="eval")) as judge:
        agent, _, actors = recipe.assemble(env)
        memory = recipe.memory(agent, dataclasses.replace(env.spec, num_envs=rows))
        accelerate(agent)
        for step in range(steps // 10, steps + WARM_UP + 1, steps // 10):
            prl.train(agent, memory, Copied(actors, group.environments, group.times), steps=steps // 10 * rows)
            found = prl.evaluate(agent, judge, EPISODES, seed=rng.integer(seed, "eval", step))
            curve.append({"updates": agent.updates, "return": found.mean})
    return curve


def load() -> list[dict[str, Any]]:
    path = RESULTS / "more-actors.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def group_of(row: dict[str, Any]) -> Group:
    return Group(*(row[name] for name in Group._fields))


def run(group: Group, seed: int) -> None:
    """Train one seed, unless it has its row."""
    key = {**group._asdict(), "seed": seed}
    if any(key.items() <= row.items() for row in load()):
        return
    row: dict[str, Any] = dict(key)
    try:
        curve = train(group, seed)
        row |= {"score": float(np.mean([point["return"] for point in curve[-5:]])), "curve": curve}
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
    every = [group for env in TASKS for group in groups(env)]
    rows = sorted([*load(), row], key=lambda r: (every.index(group_of(r)), r["seed"]))
    (RESULTS / "more-actors.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print({name: value for name, value in row.items() if name != "curve"}, flush=True)


def report() -> str:
    """Each group's scores, and seed by seed what so many environments have more than one, and than its rows so many times."""
    lines = [
        "# More actors at the same number of updates",
        "",
        "Ape-X DQN: mean return of the last five of ten evaluations. Differences: seed by seed, with 95 % bootstrap intervals.",
        "The paper, figure 5: more actors help, and one actor's data added several times, which exchanges the memory as fast,",
        "does not help as much.",
        "",
        "`python benchmarks/learning/more_actors.py --env ENV`",
    ]
    for env in TASKS:
        lines += table(env)
    return "\n".join([*lines, ""])


def table(env: str) -> list[str]:
    """The lines of one environment."""
    rows = [row for row in load() if "failed" not in row]
    scores = {group: {r["seed"]: r["score"] for r in rows if group_of(r) == group} for group in groups(env)}
    one = Group(env, TASKS[env][1], 1, 1)

    def more(group: Group, other: Group) -> str:
        if group == other or other not in scores:
            return ""
        both = scores[group].keys() & scores[other].keys()
        gained = np.array([scores[group][seed] - scores[other][seed] for seed in sorted(both)])
        if len(gained) < 2:
            return f"{gained.mean():+.0f}"
        low, high = bootstrap_interval(gained)
        return f"{gained.mean():+.0f} [{low:+.0f}, {high:+.0f}]"

    lines = [
        "",
        f"## {env}, {TASKS[env][0] // 2:,} updates",
        "",
        "| memory | environments | rows added | seeds | each score | mean | more than one has | than its rows so often |",
        "|--:|--:|--:|--:|---|--:|---|---|",
    ]
    for group, found in scores.items():
        if found:
            each = ", ".join(f"{found[seed]:.0f}" for seed in sorted(found))
            how = "once" if group.times == 1 else f"{group.times} times"
            copied = one._replace(times=group.environments, capacity=group.capacity)
            beside = more(group, one._replace(capacity=group.capacity)), more(group, copied) if group.times == 1 else ""
            mean = f"{np.mean(list(found.values())):.0f}"
            cells = f"{group.capacity:,}", group.environments, how, len(found), each, mean, *beside
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines if any(scores.values()) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=TASKS, default="CartPole-v1")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    for seed in range(arguments.first, arguments.first + (0 if arguments.report else arguments.seeds)):
        for group in groups(arguments.env):
            run(group, seed)
    text = report()
    (RESULTS / "more-actors.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
