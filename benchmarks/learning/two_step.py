"""What VDN and QMIX can say of a team's pay-offs: the two-step game of QMIX's paper, the climbing game and the penalty game.

    python benchmarks/learning/two_step.py                  # 10 seeds of each: some ten minutes on one core
    python benchmarks/learning/two_step.py --seeds 1 --games two-step

Recipes with their presets: actions are uniformly random all along (epsilon 1), everything is seen, the mixer sees the state.
Q_tot of every joint action in every state is read off the networks at the end, beside the true values, and, for VDN, beside the
additive table that is nearest to them under uniformly random play (least squares): what a sum can be at best.

    two-step (Rashid et al. 2018): agent 1 chooses 2A, where all pay-offs are 7, or 2B, where they are [[0, 1], [1, 8]]
    climbing (Claus and Boutilier 1998): [[11, -30, 0], [-30, 7, 6], [0, 0, 5]]
    penalty (the same, k = -10): [[10, 0, k], [0, 2, 0], [k, 0, 10]]

Writes results/two-step.json, where a seed that has its row is not run again, and results/two-step.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.data import Array
from protorl.envs.games import CLIMBING, TwoStepGame
from protorl.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
PENALTY = ((10.0, 0.0, -10.0), (0.0, 2.0, 0.0), (-10.0, 0.0, 10.0))
GAMMA = 0.99
GAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "two-step": ("protorl/TwoStepGame-v0", {}),
    "climbing": ("protorl/MatrixGame-v0", {"payoff": [list(row) for row in CLIMBING]}),
    "penalty": ("protorl/MatrixGame-v0", {"payoff": [list(row) for row in PENALTY]}),
}


def additive(table: Array) -> Array:
    """The sum of a number for each row and one for each column that is nearest to a table, each entry counting alike."""
    rows, columns = table.mean(1, keepdims=True), table.mean(0, keepdims=True)
    nearest: Array = rows + columns - table.mean()
    return nearest


def true_tables(game: str, believed: Any = lambda table: table) -> dict[str, Array]:
    """The value of every joint action in every state of a game, of which each state's successors are `believed`."""
    if game != "two-step":
        return {"": np.array(GAMES[game][1]["payoff"])}
    a, b = np.full((2, 2), 7.0), np.array(TwoStepGame.payoffs)
    ahead = np.array([[GAMMA * believed(a).max()] * 2, [GAMMA * believed(b).max()] * 2])
    return {"1": ahead, "2A": a, "2B": b}


def observations(game: str) -> dict[str, Any]:
    """What a team observes in each state."""
    states = np.eye(3, dtype=np.float32) if game == "two-step" else np.zeros((1, 1), np.float32)
    both = np.eye(2, dtype=np.float32)
    seen = np.stack([np.stack([np.concatenate([state, one]) for one in both]) for state in states])
    common = states if game == "two-step" else np.zeros((1, 2), np.float32)
    return {"obs": seen, "alive": np.ones((len(states), 2), np.uint8), "state": common}


@torch.no_grad()
def learned_tables(agent: Any, game: str) -> dict[str, Array]:
    """Q_tot of every joint action in every state."""
    obs: dict[str, Any] = {name: torch.from_numpy(array) for name, array in observations(game).items()}
    q = agent.network(obs).q  # [S, 2, A]
    states, _, n = q.shape
    joint = torch.cartesian_prod(torch.arange(n), torch.arange(n))  # [n n, 2]
    tables = np.zeros((states, n, n))
    for state in range(states):
        here = {name: column[state : state + 1].expand(n * n, *column.shape[1:]) for name, column in obs.items()}
        values = q[state].expand(n * n, 2, n).gather(-1, joint.unsqueeze(-1)).squeeze(-1)
        tables[state] = agent.network.mix(values, here).reshape(n, n)
    return dict(zip(true_tables(game), tables))


def trained(recipe: str, game: str, seed: int, **fields: Any) -> dict[str, Any]:
    """A training: Q_tot of everything at the end, the greedy return, and the largest error against the true tables."""
    env, kwargs = GAMES[game]
    made = RECIPES[recipe](env=env, env_kwargs=kwargs, seed=seed, gamma=GAMMA, **fields)
    agent, memory, actors = made.build()
    accelerate(agent, made.accelerate, updates=memory.expected(made.steps))
    prl.train(agent, memory, actors, steps=made.steps)
    actors.close()
    greedy = prl.evaluate(agent, made.make_eval_env(1), 1, seed=0).returns[0]
    tables = learned_tables(agent, game)
    true = true_tables(game)
    best = true_tables(game, additive if recipe == "vdn" else lambda table: table)
    sums = {state: additive(table) for state, table in best.items()}
    return {
        "seed": seed,
        "return": greedy,
        "error": max(float(np.abs(tables[state] - true[state]).max()) for state in true),
        "error_of_the_sum": max(float(np.abs(tables[state] - sums[state]).max()) for state in sums),
        "tables": {state: table.round(3).tolist() for state, table in tables.items()},
    }


def as_text(table: Any) -> str:
    return "; ".join(" ".join(f"{value:.2f}" for value in row) for row in table)


def report(rows: dict[str, Any]) -> str:
    lines = [
        "# What a sum and a monotone mixer can say",
        "",
        "Uniformly random exploration, presets of `vdn` and `qmix`. Greedy returns at the end, one for each seed; the largest",
        "error of Q_tot over all states and joint actions, median over seeds, against the true values and against the",
        "nearest additive table; and the learned tables of seed 0.",
        "",
        "| game | recipe | best | greedy returns | error | error to the nearest sum |",
        "|---|---|--:|---|--:|--:|",
    ]
    for name, found in rows.items():
        recipe, game = name.split()
        best = max(8.0 if game == "two-step" else float(table.max()) for table in true_tables(game).values())
        returns = ", ".join(f"{one['return']:g}" for one in found)
        errors = (float(np.median([one[key] for one in found])) for key in ("error", "error_of_the_sum"))
        lines.append(f"| {game} | {recipe} | {best:g} | {returns} | " + " | ".join(f"{error:.2f}" for error in errors) + " |")
    lines += ["", "| game, state | true | nearest sum | VDN | QMIX |", "|---|---|---|---|---|"]
    for game in GAMES:
        for state, table in true_tables(game).items():
            learned = [rows[f"{recipe} {game}"][0]["tables"][state] for recipe in ("vdn", "qmix") if f"{recipe} {game}" in rows]
            if len(learned) == 2:
                nearest = additive(true_tables(game, additive)[state])
                cells = [as_text(one) for one in (table, nearest, *learned)]
                lines.append(f"| {game} {state} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "`python benchmarks/learning/two_step.py`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--games", nargs="+", choices=list(GAMES), default=list(GAMES))
    arguments = parser.parse_args()
    path = RESULTS / "two-step.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for game in arguments.games:
        for recipe in ("vdn", "qmix"):
            known = rows.setdefault(f"{recipe} {game}", [])
            for seed in range(len(known), arguments.seeds):
                known.append(trained(recipe, game, seed, accelerate="eager"))
                print(recipe, game, known[-1], flush=True)
                RESULTS.mkdir(exist_ok=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
    text = report(rows)
    (RESULTS / "two-step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
