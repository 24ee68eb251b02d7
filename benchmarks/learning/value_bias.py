"""Value bias: how much DQN and Double DQN believe in, and how much comes (van Hasselt, Guez and Silver 2016, section 4).

    python benchmarks/learning/value_bias.py                       # both, 5 seeds each: two minutes a seed
    python benchmarks/learning/value_bias.py double-dqn --seeds 1 --first 4
    python benchmarks/learning/value_bias.py --report

Each trains with its own preset on LunarLander-v3 (which differ in the target alone), for half of its 100,000 steps. After every
5,000 agent steps the greedy agent plays 10 episodes: the bias is max_a Q(s0, a) minus the discounted return that followed, in
the mean. The number of a seed is its mean over the second half of the training. Every started seed gets a row in
results/value-bias.json.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

import protorl as prl
from protorl import rng
from protorl.accelerate import accelerate
from protorl.agents import Agent
from protorl.data import Array
from protorl.envs import VecEnv
from protorl.recipes.find import find_recipe

RESULTS = Path(__file__).parent / "results"
ALGORITHMS = ("dqn", "double-dqn")
STEPS, EVERY, EPISODES = 50_000, 5_000, 10


def believed_and_received(agent: Agent, env: VecEnv, gamma: float, seed: int) -> tuple[Array, Array]:
    """max_a Q(s0, a), and the discounted return of the greedy episode from there: one episode per environment, [N] each."""
    env.reset(seed)
    believed = np.asarray(agent.infer(env.seen.obs, False).q).max(-1)
    received, weight, playing = np.zeros(env.num_envs), 1.0, np.ones(env.num_envs, np.bool_)
    while playing.any():
        step = env.step(agent.act(env.seen, explore=False).action)
        received += np.where(playing, weight * step.reward, 0.0)
        playing &= ~(step.terminated | step.truncated)
        weight *= gamma
    return believed, received


def train(algorithm: str, seed: int, every: int = EVERY, **fields: Any) -> list[dict[str, float]]:
    """The curve of one training: step, and the means of what was believed and received."""
    recipe = find_recipe(algorithm)(**{"env": "LunarLander-v3", "steps": STEPS, "seed": seed, "accelerate": "aot", **fields})
    torch.manual_seed(rng.integer(seed, "torch"))
    curve = []
    with closing(recipe.make_env()) as env, closing(recipe.make_env(EPISODES, name="eval")) as judge:
        agent, memory, actors = recipe.assemble(env)
        accelerate(agent, recipe.accelerate, recipe.precision, updates=memory.rate.expected(recipe.steps))
        for step in range(every, recipe.steps + 1, every):
            prl.train(agent, memory, actors, steps=every)
            believed, received = believed_and_received(agent, judge, recipe.gamma, rng.integer(seed, "eval", step))
            curve.append({"step": step, "believed": float(believed.mean()), "received": float(received.mean())})
    return curve


def bias(curve: list[dict[str, float]]) -> float:
    """The mean bias over the second half of a training."""
    return float(np.mean([point["believed"] - point["received"] for point in curve[len(curve) // 2 :]]))


def difference(dqn: Array, double: Array, draws: int = 20_000) -> tuple[float, float, float]:
    """Double DQN's mean bias minus DQN's, by bootstrap over seeds: the ends of the 95 % interval, and the share below 0."""
    generator = np.random.default_rng(0)
    dqn_mean, double_mean = (generator.choice(x, (draws, len(x))).mean(-1) for x in (dqn, double))
    low, high = np.quantile(double_mean - dqn_mean, [0.025, 0.975])
    return float(low), float(high), float((double_mean < dqn_mean).mean())


def load() -> list[dict[str, Any]]:
    path = RESULTS / "value-bias.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def run(algorithm: str, seed: int) -> None:
    """Train one seed, unless it has its row."""
    if any((row["algorithm"], row["seed"]) == (algorithm, seed) for row in load()):
        return
    row: dict[str, Any] = {"algorithm": algorithm, "seed": seed}
    try:
        curve = train(algorithm, seed)
        row |= {"bias": bias(curve), "curve": curve}
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {error}"
    rows = sorted([*load(), row], key=lambda r: (ALGORITHMS.index(r["algorithm"]), r["seed"]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "value-bias.json").write_text(json.dumps({"rows": rows}, indent=1))
    print({key: value for key, value in row.items() if key != "curve"}, flush=True)


def report() -> str:
    """The curve's means over seeds, the bias of each seed, and the verdict."""
    rows = [row for row in load() if "failed" not in row]
    by = {name: [row for row in rows if row["algorithm"] == name] for name in ALGORITHMS}
    lines = [
        "# Value bias of DQN and Double DQN",
        "",
        "LunarLander-v3, 50,000 agent steps, each recipe's preset (which differ in the target alone). max_a Q(s0, a) minus the",
        "discounted return of the greedy episode from s0, means of 10 episodes after every 5,000 steps, then over seeds.",
        "",
        "| up to agent step | " + " | ".join(f"{name}: Q(s0) | received | bias" for name in ALGORITHMS) + " |",
        "|--:|" + "--:|" * 3 * len(ALGORITHMS),
    ]
    for index in range(len(rows[0]["curve"])) if rows else ():
        cells = []
        for name in ALGORITHMS:
            points = [row["curve"][index] for row in by[name]]
            believed, received = (np.mean([point[key] for point in points]) for key in ("believed", "received"))
            cells += [f"{believed:.1f}", f"{received:.1f}", f"{believed - received:.1f}"]
        lines.append(f"| {rows[0]['curve'][index]['step']:,} | {' | '.join(cells)} |")
    lines += ["", "| second half of the training | seeds | bias of each seed | mean |", "|---|--:|---|--:|"]
    for name in ALGORITHMS:
        found = [row["bias"] for row in by[name]]
        lines.append(f"| {name} | {len(found)} | {', '.join(f'{x:.1f}' for x in found)} | {np.mean(found):.1f} |")
    low, high, below = difference(*(np.array([row["bias"] for row in by[name]]) for name in ALGORITHMS))
    lines += [
        "",
        f"Double DQN's bias minus DQN's: 95 % bootstrap interval over seeds [{low:.1f}, {high:.1f}]; below 0 in {below:.1%} of",
        f"resamples. That Double DQN overestimates less is {'certain at 95 %' if high < 0 else 'not shown'}.",
        "",
        "`python benchmarks/learning/value_bias.py`",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", help=", ".join(ALGORITHMS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    for name in arguments.algorithms:
        if name not in ALGORITHMS:
            parser.error(f"{name} is unknown: choose from {', '.join(ALGORITHMS)}")
    for seed in range(arguments.first, arguments.first + (0 if arguments.report else arguments.seeds)):
        for name in arguments.algorithms or ALGORITHMS:
            run(name, seed)
    text = report()
    print(text)
    (RESULTS / "value-bias.md").write_text(text)


if __name__ == "__main__":
    main()
