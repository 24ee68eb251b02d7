"""Where a replayed sequence begins: how far values are off by the state it starts from (Kapturowski et al. 2019, figure 1b).

    python benchmarks/learning/state_staleness.py                              # both tasks, 3 seeds: some minutes a seed
    python benchmarks/learning/state_staleness.py memory --seeds 1
    python benchmarks/learning/state_staleness.py --report

R2D2 trains with its preset. After every tenth of the training, for up to 128 stretches of episodes (of 10 steps and 10 before
them, in MinAtar of 20 and 20), drawn uniformly from all that is stored, none at an episode's beginning:

    ΔQ_i = ||q(ĥ_i; θ) - q(h_i; θ)||_2 / max_{a,j} |q(ĥ_j; θ)_a|

at the first and the last of the steps i. ĥ comes of unrolling the network of now from one of four starts: zeros, or the state
which the actor had, either at the first of the steps or at the beginning of the burn-in. h, the state to compare with:
the actor's own at step i ("acted", the paper's), and that of the network of now, unrolled from the start of the episode
("unrolled": what would be carried if nothing were stale). The number of a seed is its mean over the second half of the
training.

Differs from the paper: there each start trains an agent of its own; here one agent is looked at in four ways, so that weights
and data are the same. Writes results/state-staleness.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import protorl as prl
from protorl import rng
from protorl.data import Act, Array, Batch, Carry, Columns, Field, Seen, tree_map
from protorl.networks import unroll

RESULTS = Path(__file__).parent / "results"
SEQUENCES, POINTS = 128, 10
STARTS = ("zero", "burn-in only", "stored", "stored + burn-in")
REFERENCES, WHERE = ("acted", "unrolled"), ("first", "last")
TASKS: dict[str, dict[str, Any]] = {
    "memory": {"env": "protorl/MemoryLength-v0", "env_kwargs": {"length": 40}, "steps": 30_000},
    "minatar": {"env": "MinAtar/SpaceInvaders-v0", "steps": 30_000, "capacity": 20_000, "warmup_steps": 1_000},
}
LOOKED_AT = {"memory": (10, 10, 40), "minatar": (20, 20, 200)}
"""Steps, those of the burn-in, and how old an episode may be where the steps begin."""


class Recorded(prl.R2D2):
    """Every row of its memory keeps the carry before it, not only those where sequences start."""

    def columns(self, spec: prl.EnvSpec) -> Columns:
        columns, core = super().columns(spec), self.core.columns()
        acted = {f"acted_{name}": Field(field.shape, field.dtype) for name, field in core.items()}
        return replace(columns, extras={**columns.extras, **acted})

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        before = {f"acted_{name}": np.array(part) for name, part in self.core.stored(carry).items()}
        act = super().act(seen, carry, explore=explore)
        return act._replace(extras={**act.extras, **before})


class Both:
    """A memory to learn from, and one that is told the same."""

    def __init__(self, memory: prl.Replay, record: prl.Replay) -> None:
        self.memory, self.record = memory, record

    def add(self, chunk: prl.Chunk) -> None:
        self.memory.add(chunk)
        self.record.add(chunk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.memory, name)


@torch.no_grad()
def discrepancies(agent: Recorded, batch: Batch, length: int, burn_in: int, before: int) -> dict[str, list[float]]:
    """ΔQ at the first and at the last of `length` steps, means over the sequences: by start and what it is compared with. The
    steps are the rows from `before` on."""
    first = batch.seen.first
    fit = batch.mask[before : before + length].all(0) & first[: before - burn_in + 1].any(0)
    fit &= ~first[before - burn_in + 1 :].any(0)
    seen = tree_map(lambda column: column[:, fit], Seen(*batch.seen[:4]))
    kind: Any = type(agent.initial_carry(1))
    acted = [kind(*[getattr(batch, f"acted_{name}")[t, fit] for name in agent.core.names]) for t in range(before + length)]

    def values(start: int, carry: Carry) -> Tensor:
        """Q of the steps [length, B, A], unrolled from row `start` on."""
        rows = tree_map(lambda column: column[start : before + length], seen)
        return unroll(agent.network, rows, carry)[0].q[before - start :]

    nothing = tree_map(torch.zeros_like, acted[0])
    early = before - burn_in
    ways = [(before, nothing), (early, nothing), (before, acted[before]), (early, acted[early])]
    each = [values_at(agent, seen, acted, before + step) for step in (0, length - 1)]
    references = {"acted": torch.stack(each), "unrolled": values(0, nothing)[[0, -1]]}
    found = {}
    for name, (start, carry) in zip(STARTS, ways):
        q = values(start, carry)
        for reference, wanted in references.items():
            off = (q[[0, -1]] - wanted).norm(dim=-1) / q.abs().amax((0, 2))
            found[f"{name}, {reference}"] = [float(x) for x in off.mean(-1)]
    return found


def values_at(agent: Recorded, seen: Seen, acted: list[Any], row: int) -> Tensor:
    """Q of one row [B, A] from the state that the actor had then."""
    q: Tensor = unroll(agent.network, tree_map(lambda column: column[row], seen), acted[row])[0].q
    return q


def train(task: str, seed: int, points: int = POINTS, **fields: Any) -> list[dict[str, Any]]:
    """The curve of one training: step, return, and the discrepancies."""

    class Recipe(prl.recipes.R2D2):
        agent_class = Recorded

    recipe = Recipe(**{**TASKS[task], "seed": seed, "accelerate": "eager", "first_priority": "largest", **fields})
    torch.manual_seed(rng.integer(seed, "torch"))
    curve = []
    with closing(recipe.make_env()) as env:
        agent, memory, actors = recipe.assemble(env)
        length, _, before = LOOKED_AT[task]
        view = replace(memory.view, length=length, burn_in=before, period=length, n_step=1)
        record = prl.Replay(
            recipe.columns(agent, env.spec), recipe.capacity, batch_size=SEQUENCES, view=view, rate=prl.Rate(10**9), seed=seed
        )
        for _ in range(points):
            prl.train(agent, Both(memory, record), actors, steps=recipe.steps // points)
            returns = [episode.ret for episode in actors.episodes()]
            point = {"step": (len(curve) + 1) * recipe.steps // points, "return": float(np.mean(returns)) if returns else None}
            curve.append(point | discrepancies(agent, record.sample(), *LOOKED_AT[task]))
    return curve


def load() -> list[dict[str, Any]]:
    path = RESULTS / "state-staleness.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def run(task: str, seed: int) -> None:
    """Train one seed, unless it has its row."""
    if any((row["task"], row["seed"]) == (task, seed) for row in load()):
        return
    row: dict[str, Any] = {"task": task, "seed": seed}
    try:
        row["curve"] = train(task, seed)
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
    rows = sorted([*load(), row], key=lambda r: (list(TASKS).index(r["task"]), r["seed"]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "state-staleness.json").write_text(json.dumps({"rows": rows}, indent=1))
    print(task, seed, row.get("failed", "done"), flush=True)


def means(task: str) -> dict[tuple[str, str, str], Array]:
    """ΔQ of each seed [seeds], by start, what it is compared with, and where."""
    curves = [row["curve"] for row in load() if row["task"] == task and "failed" not in row]
    return {
        (start, reference, where): np.array(
            [np.mean([point[f"{start}, {reference}"][at] for point in curve[len(curve) // 2 :]]) for curve in curves]
        )
        for start in STARTS
        for reference in REFERENCES
        for at, where in enumerate(WHERE)
    }


def report() -> str:
    """A table and a figure: ΔQ by start, and whether the paper's order is there in every seed."""
    from matplotlib.figure import Figure

    lines = [
        "# Where a replayed sequence begins",
        "",
        "ΔQ at the first and the last step of replayed sequences, in percent of the largest value, means over the",
        "second half of each training; every seed in brackets. Compared with the state that the actor had at that step (acted:",
        "the paper's), and with the state of the network of now, unrolled from the episode's start (unrolled). What it is and",
        "how it differs from figure 1b of Kapturowski et al. 2019, is at the top of the script.",
        "",
    ]
    tasks = [task for task in TASKS if len(means(task)[STARTS[0], "acted", "last"])]
    figure = Figure(figsize=(4.5 * max(len(tasks), 1), 6), layout="constrained")
    panels = figure.subplots(len(REFERENCES), max(len(tasks), 1), squeeze=False)
    for column, task in enumerate(tasks):
        found, settings = means(task), TASKS[task]
        length, burn_in, _ = LOOKED_AT[task]
        lines += [
            f"**{settings['env']}**, {settings['steps']:,} agent steps, sequences of {length} with a burn-in of {burn_in}",
            "",
            "| start | acted: first | last | unrolled: first | last |",
            "|---|--:|--:|--:|--:|",
        ]
        for start in STARTS:
            cells = []
            for reference in REFERENCES:
                for where in WHERE:
                    seeds = 100 * found[start, reference, where]
                    cells.append(f"{seeds.mean():.2f} [{', '.join(f'{x:.2f}' for x in seeds)}]")
            lines.append(f"| {start} | {' | '.join(cells)} |")
        lines.append("")
        for row, reference in enumerate(REFERENCES):
            for at, where in enumerate(WHERE):
                of = [found[start, reference, where] for start in STARTS]
                order = " > ".join(sorted(STARTS, key=lambda start: -found[start, reference, where].mean()))
                papers = sum(bool(zero > burnt > stored) for zero, burnt, stored, _ in zip(*of))
                lines.append(
                    f"- {reference}, {where}: {order}; zero > burn-in only > stored in {papers} of {len(of[0])} seeds."
                )
                heights = [100 * seeds.mean() for seeds in of]
                panels[row, column].bar(np.arange(len(STARTS)) + 0.4 * at - 0.2, heights, 0.4, label=f"{where} step")
            names = [start.replace(" + ", "\n+ ").replace(" only", "\nonly") for start in STARTS]
            panels[row, column].set_xticks(range(len(STARTS)), names)
            panels[row, column].set_title(f"{settings['env']}, from {reference}", fontsize=10)
            panels[row, column].set_ylabel("ΔQ, % of the largest value")
            panels[row, column].legend()
        lines.append("")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "state-staleness.png", dpi=120)
    return "\n".join([*lines, "![ΔQ](state-staleness.png)", "", "`python benchmarks/learning/state_staleness.py`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=", ".join(TASKS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    for task in arguments.tasks:
        if task not in TASKS:
            parser.error(f"{task} is unknown: choose from {', '.join(TASKS)}")
    for seed in range(arguments.first, arguments.first + (0 if arguments.report else arguments.seeds)):
        for task in arguments.tasks or TASKS:
            run(task, seed)
    text = report()
    print(text)
    (RESULTS / "state-staleness.md").write_text(text)


if __name__ == "__main__":
    main()
