"""Learning benchmarks: recipes to their expected scores, several seeds each, beside the published figure.

    python benchmarks/learning/run.py                      # all experiments, every seed
    python benchmarks/learning/run.py dqn-cartpole --seeds 2
    python benchmarks/learning/run.py --report             # only write the table anew

Every started seed gets a row in results/EXPERIMENT.json, also one that failed; results/README.md is the table. A seed
that has its row already is not run again (--again does). "elsewhere" in such a file is what was measured on another machine,
of which we have the numbers and nothing more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Experiment:
    """A recipe on an environment, its seeds, and what was published for it."""

    recipe: str
    env: str
    published: str
    target: float | None  # the published mean
    source: str
    seeds: int = 10
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""  # what the numbers do not say

    @property
    def command(self) -> str:
        settings = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in self.settings.items())
        return f"protorl train {self.recipe} --env {self.env}{settings} --seeds {self.seeds}"


AOT = {"accelerate": "aot"}
CLEANRL = "CleanRL documentation, 3 seeds: training return at the end"
CLEANRL_V4 = CLEANRL + " (v4 there, v5 here)"
AUTHORS = "the authors' learning curves at 100k, 10 seeds (v1 there, v5 here)"
DOPAMINE_SAC = "Dopamine, 5 seeds: training return (v2 there, v5 here)"
SB3_ZOO = "rl-baselines3-zoo, benchmark.md, one run (v2 there; the interval is over episodes)"
SB3_LSTM = "rl-baselines3-zoo, benchmark.md, RecurrentPPO, one run"
MINATAR = "Young and Tian 2019, figure (digitised), 30 seeds: training return, mean of 100 episodes, at 1M"
DOPAMINE_ATARI = "Dopamine, 5 seeds: training return of an iteration"
DOPAMINE_PONG = DOPAMINE_ATARI + " (one game at a time there)"
CLEANRL_PONG = "CleanRL documentation, 3 seeds: training return at 10M"
FEW_TEAMS = "5 % of the actions of an evaluation are random (eval_epsilon)"
EPYMARL = "Papoudakis et al. 2021 (EPyMARL): share of the possible return, 1.00 for most"
ZOO = "SB3-contrib documentation, qrdqn.md: DQN, zoo hyperparameters, 5 seeds (LunarLander-v2)"
ZOO_QR = "SB3-contrib documentation, qrdqn.md: QR-DQN, zoo hyperparameters, 5 seeds (LunarLander-v2)"
# The Atari experiments were run when exploration fell from the first step, and QR-DQN's preset had these values.
ATARI_500K = {
    "protocol": "machado", "steps": 500_000, "eval_episodes": 5, "precision": "bf16", "threads": 1, **AOT, "epsilon_after": 0,
}  # fmt: skip
FREEWAY = {**ATARI_500K, "init": "default", "priority": "error", "per_beta": 0.5, "per_beta_end": 1.0}
ONE_MAZE = {
    "wrappers": "minigrid.wrappers:ReseedWrapper(seeds=(1,)),minigrid.wrappers:ImgObsWrapper,"
    "gymnasium.wrappers:DtypeObservation(dtype='float32')"
}
"""The same one in every episode."""
BSUITE = ("1 (perfect)", 1.0, "bsuite memory_len (10,000 episodes there)")
CHANCE = ("0 (chance)", 0.0, "own control: no memory")
EXPERIMENTS = {
    "dqn-cartpole": Experiment("dqn", "CartPole-v1", "500 ± 0", 500, ZOO),
    "dqn-cartpole-zoo": Experiment("dqn", "CartPole-v1", "500 ± 0", 500, ZOO, settings={"n_step": 1, "eval_every": 5000}),
    "dqn-mountaincar": Experiment("dqn", "MountainCar-v0", "−107 ± 4", -107, ZOO),
    "dqn-acrobot": Experiment("dqn", "Acrobot-v1", "−74 ± 2", -74, ZOO),
    "dqn-lunarlander": Experiment("dqn", "LunarLander-v3", "195 ± 28", 195, ZOO),
    "d3qn-per-3step-lunarlander": Experiment(
        "d3qn", "LunarLander-v3", "none at this budget (DDQN + PER: 265.9 at 300k, SLM-Lab, 4 runs, training return)", None,
        "own control: DQN above", settings={"per_alpha": 0.6, "n_step": 3},
    ),
    "munchausen-cartpole": Experiment("munchausen-dqn", "CartPole-v1", "none", None, "own control: DQN above", seeds=5),
    "munchausen-acrobot": Experiment("munchausen-dqn", "Acrobot-v1", "none", None, "own control: DQN above", seeds=5),
    "double-dqn-lunarlander": Experiment("double-dqn", "LunarLander-v3", "none", None, "own control: DQN above", seeds=5),
    "qr-dqn-cartpole": Experiment("qr-dqn", "CartPole-v1", "386 ± 64", 386, ZOO_QR, 5, AOT),
    "qr-dqn-mountaincar": Experiment("qr-dqn", "MountainCar-v0", "−111 ± 4", -111, ZOO_QR, 5, AOT),
    "qr-dqn-acrobot": Experiment("qr-dqn", "Acrobot-v1", "−73 ± 2", -73, ZOO_QR, 5, AOT),
    "qr-dqn-lunarlander": Experiment("qr-dqn", "LunarLander-v3", "168 ± 39", 168, ZOO_QR, 5, AOT),
    "rainbow-cartpole": Experiment("rainbow", "CartPole-v1", "none", None, "own control: DQN above", 5),
    "iqn-cartpole": Experiment("iqn", "CartPole-v1", "none", None, "own control: DQN above", 5, AOT),
    "apex-dqn-cartpole": Experiment("apex-dqn", "CartPole-v1", "none", None, "own control: DQN above", 3, {"workers": 0}),
    "apex-dqn-cartpole-workers": Experiment(
        "apex-dqn", "CartPole-v1", "none", None, "own control: one process above", 3, {"workers": 2}),
    "apex-dqn-cartpole-4-workers": Experiment(
        "apex-dqn", "CartPole-v1", "none", None, "own control: one process above", 3, {"workers": 4}),
    "apex-dqn-lunarlander": Experiment(
        "apex-dqn", "LunarLander-v3", "none", None, "own control: DQN above, equal steps", 3, {"workers": 4, **AOT}),
    "apex-dqn-minatar-breakout": Experiment(
        "apex-dqn", "MinAtar/Breakout-v0", "9.2 (training, DQN)", 9.2, MINATAR, 2, {"steps": 1_000_000, "workers": 4, **AOT}),
    "apex-ddpg-pendulum": Experiment(
        "apex-ddpg", "Pendulum-v1", "none", None, "own control: DDPG below", 3, {"workers": 2}),
    "apex-ddpg-halfcheetah": Experiment(
        "apex-ddpg", "HalfCheetah-v5", "none", None, "own control: DDPG below, a third of the steps and as many updates", 3,
        {"steps": 300_000, "update_every": 3, "workers": 2, **AOT}),
    "ppo-cartpole": Experiment("ppo", "CartPole-v1", "490 ± 6", 490, CLEANRL, 3, AOT),
    "ppo-acrobot": Experiment("ppo", "Acrobot-v1", "−86.4 ± 1.3", -86.4, CLEANRL, 3, AOT),
    "ppo-lunarlander": Experiment("ppo", "LunarLander-v3", "242 ± 32", 242, SB3_ZOO, 3, AOT),
    "ppo-lunarlander-gaussian": Experiment(
        "ppo", "LunarLanderContinuous-v3", "271 ± 32", 271, SB3_ZOO, 3, AOT),
    "ppo-lunarlander-beta": Experiment(
        "ppo", "LunarLanderContinuous-v3", "271 ± 32 (Gaussian)", 271, SB3_ZOO, 3, {**AOT, "distribution": "beta"}),
    "ppo-lunarlander-beta-no-entropy": Experiment(
        "ppo", "LunarLanderContinuous-v3", "271 ± 32 (Gaussian)", 271, SB3_ZOO, 3,
        {**AOT, "distribution": "beta", "entropy_coef": 0.0}),
    "ppo-bipedalwalker": Experiment("ppo", "BipedalWalker-v3", "288 ± 2", 288, SB3_ZOO.replace("v2 there; the", "the"), 3, AOT),
    "ppo-halfcheetah": Experiment("ppo", "HalfCheetah-v5", "1443 ± 46", 1443, CLEANRL_V4, 3, AOT),
    "ppo-hopper": Experiment("ppo", "Hopper-v5", "2383 ± 272", 2383, CLEANRL_V4, 3, AOT),
    "ppo-walker2d": Experiment(
        "ppo", "Walker2d-v5", "2288 ± 572", 2288, CLEANRL_V4, 3, AOT,
        "the published rule is the training return: 2,739 here. That return rises (seed 2: stays) to the end, so nothing is "
        "unlearned: what comes and goes is the mean action, which evaluations take. Seed 1, from step 750,000 to 800,000: ten "
        "evaluation episodes go from 5,239 to 893, those of training, in means of 50,000 steps, from 4,010 to 4,259; at the "
        "end it is 743 beside 4,526"),
    "ppo-doorkey-8x8": Experiment("ppo", "MiniGrid-DoorKey-8x8-v0", "none", None, "own control: RND below", 3, AOT),
    "rnd-doorkey-8x8": Experiment("rnd", "MiniGrid-DoorKey-8x8-v0", "none", None, "own control: PPO above", 3, AOT),
    "ppo-multiroom": Experiment(
        "ppo", "MiniGrid-MultiRoom-N4-S5-v0", "none", None, "own control: RND below; one maze", 3, {**AOT, **ONE_MAZE}),
    "rnd-multiroom": Experiment(
        "rnd", "MiniGrid-MultiRoom-N4-S5-v0", "none", None, "own control: PPO above; one maze", 3, {**AOT, **ONE_MAZE}),
    "r2d2-cartpole": Experiment(
        "r2d2", "CartPole-v1", "none", None, "own control: DQN above", 3,
        {"accelerate": "eager", "eval_every": 5_000}),
    "r2d2-cartpolenovel": Experiment(
        "r2d2", "protorl/CartPoleNoVel-v0", "none", None, "own control: recurrent PPO below", 3,
        {"accelerate": "eager", "eval_every": 10_000}),
    "r2d2-without-core-cartpolenovel": Experiment(
        "r2d2", "protorl/CartPoleNoVel-v0", "none", None, "own control: no memory", 3,
        {"core": "none", "accelerate": "eager", "eval_every": 10_000}),
    "ppo-lstm-cartpolenovel": Experiment(
        "ppo", "protorl/CartPoleNoVel-v0", "500", 500, SB3_LSTM, 3, {"accelerate": "eager", "eval_every": 20_000}),
    "ppo-cartpolenovel": Experiment(
        "ppo", "protorl/CartPoleNoVel-v0", "none", None, "own control: no memory", 3,
        {"core": "none", "accelerate": "eager", "eval_every": 20_000}),
    "ppo-lstm-pendulumnovel": Experiment(
        "ppo", "protorl/PendulumNoVel-v0", "−218", -218, SB3_LSTM, 3, {"accelerate": "eager", "eval_every": 20_000}),
    "ppo-pendulumnovel": Experiment(
        "ppo", "protorl/PendulumNoVel-v0", "none", None, "own control: no memory", 3,
        {"core": "none", "accelerate": "eager", "eval_every": 20_000}),
    **{f"{name}-memory-{length}": Experiment(
        name.partition("-")[0], "protorl/MemoryLength-v0", published, target, source, seeds,
        {**settings, "env_kwargs": {"length": length}, "steps": episodes * (length + 1) // 1_000 * 1_000,
         "accelerate": "eager", "eval_every": 2_000})
       for name, settings, seeds, (published, target, source), budget in (
           ("r2d2", {}, 5, BSUITE, {5: 3_000, 10: 2_000, 20: 1_000, 40: 1_000}),
           ("r2d2-without-core", {"core": "none"}, 3, CHANCE, {10: 2_000}),
           ("ppo-lstm", {}, 5, BSUITE, dict.fromkeys((5, 10, 20, 40), 3_000)),
           ("ppo", {"core": "none"}, 3, CHANCE, {5: 3_000}))
       for length, episodes in budget.items()},
    "td3-halfcheetah": Experiment("td3", "HalfCheetah-v5", "5514 ± 584", 5514, AUTHORS, 10, {"steps": 100_000, **AOT}),
    "sac-halfcheetah": Experiment(
        "sac", "HalfCheetah-v5", "5470 ± 548", 5470, DOPAMINE_SAC, 5,
        {"steps": 100_000, **AOT}),
    "td3-halfcheetah-bf16": Experiment(
        "td3", "HalfCheetah-v5", "5514 ± 584", 5514, AUTHORS, 10, {"steps": 100_000, "precision": "bf16", **AOT}),
    "sac-halfcheetah-bf16": Experiment(
        "sac", "HalfCheetah-v5", "5470 ± 548", 5470, DOPAMINE_SAC, 5, {"steps": 100_000, "precision": "bf16", **AOT}),
    "sac-halfcheetah-dopamine": Experiment(
        "sac", "HalfCheetah-v5", "5470 ± 548", 5470, DOPAMINE_SAC, 5,
        {"steps": 100_000, "reward_scale": 0.1, "target_entropy": -3.0, "precision": "bf16", **AOT}),
    "ddpg-pendulum": Experiment("ddpg", "Pendulum-v1", "none at this budget", None, "", 3, AOT),
    "ddpg-halfcheetah": Experiment("ddpg", "HalfCheetah-v5", "none at this budget", None, "", 3, {"steps": 100_000, **AOT}),
    "td3-per-halfcheetah": Experiment(
        "td3", "HalfCheetah-v5", "none", None, "own control: TD3 in bf16 above", 3,
        {"steps": 100_000, "per_alpha": 0.6, "precision": "bf16", **AOT}),
    "sac-3step-halfcheetah": Experiment(
        "sac", "HalfCheetah-v5", "none", None, "own control: SAC in bf16 above", 3,
        {"steps": 100_000, "n_step": 3, "precision": "bf16", **AOT}),
    **{f"{recipe}-lbf-5x5-2p-1f-coop": Experiment(
        recipe, "Foraging-5x5-2p-1f-coop-v3", "none", None, "a smaller field: at most 1", 3,
        {"steps": 100_000, "epsilon_steps": 50_000, "accelerate": "eager"}, FEW_TEAMS)
       for recipe in ("vdn", "qmix")},
    **{f"{recipe}-lbf-8x8-2p-2f-coop": Experiment(recipe, "Foraging-8x8-2p-2f-coop-v3", "1.00", 1, EPYMARL, 3, AOT)
       for recipe in ("dqn", "ppo", "mappo", "vdn", "qmix")},
    "minatar-breakout": Experiment(
        "dqn", "MinAtar/Breakout-v0", "9.2 (training)", 9.2, MINATAR, 5, {"steps": 1_000_000, **AOT}),
    "minatar-freeway": Experiment(
        "dqn", "MinAtar/Freeway-v0", "47.8 (training)", 47.8, MINATAR, 5, {"steps": 1_000_000, **AOT}),
    "minatar-space-invaders": Experiment(
        "dqn", "MinAtar/SpaceInvaders-v0", "32.6 (training)", 32.6, MINATAR, 5, {"steps": 1_000_000, **AOT}),
    "pong-dqn": Experiment(
        "dqn", "ALE/Pong-v5", "−10.7 ± 7.2 at 1.25M, 6.3 ± 6.5 at 2.5M (training)", None, DOPAMINE_PONG, 1,
        {"protocol": "machado", "num_envs": 8, "steps": 2_500_000, "eval_episodes": 5, "init": "default", "epsilon_after": 0}),
    "breakout-dqn": Experiment(
        "dqn", "ALE/Breakout-v5", "1.79 ± 0.08, 6.52 ± 0.11, 15.23 ± 0.35 (training, by 250k)", None, DOPAMINE_PONG, 1,
        {"protocol": "machado", "num_envs": 8, "steps": 750_000, "eval_episodes": 5, "epsilon_after": 0}),
    "breakout-dqn-default-init": Experiment(
        "dqn", "ALE/Breakout-v5", "6.5 ± 0.1 (training, 250k to 500k)", None, DOPAMINE_ATARI, 1,
        {**ATARI_500K, "init": "default"}),
    "freeway-qr-dqn": Experiment(
        "qr-dqn", "ALE/Freeway-v5", "26.0 ± 0.9 (training, 250k to 500k)", None, DOPAMINE_ATARI, 1, FREEWAY),
    "pong-ppo": Experiment("ppo", "ALE/Pong-v5", "20.4 ± 0.2 at 10M (training)", None, CLEANRL_PONG, 1),
}  # fmt: skip


def training_return(metrics: Path) -> float | None:
    """Mean return of the last 100 episodes of the training, or of its last tenth where it has fewer than 1 000; exploration
    included. None without a curve."""
    if not metrics.exists():
        return None
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("return")]
    episodes = min(100.0, max(sum(float(row["episodes"]) for row in rows) / 10, 1.0))
    total = count = 0.0
    for row in reversed(rows):
        total += float(row["return"]) * float(row["episodes"])
        count += float(row["episodes"])
        if count >= episodes:
            break
    return total / count if count else None


def run_seed(experiment: Experiment, seed: int, folder: Path) -> dict[str, Any]:
    """Train one seed in a process of one thread, then evaluate its last and its best weights over 100 episodes."""
    run_dir = folder / f"seed-{seed}"
    words = [sys.executable, "-m", "protorl", "train", experiment.recipe, "--env", experiment.env, "--seed", str(seed)]
    words += [word for key, value in experiment.settings.items() for word in ("--set", f"{key}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.monotonic()
    done = subprocess.run([*words, "--run-dir", str(run_dir)], env=environment, capture_output=True, text=True)
    row: dict[str, Any] = {"seed": seed, "seconds": round(time.monotonic() - begin)}
    if done.returncode != 0:
        return row | {"failed": (done.stderr or done.stdout).strip().splitlines()[-1]}
    for which in ("best", "last"):
        words = [sys.executable, "-m", "protorl", "eval", str(run_dir), "--episodes", "100", "--checkpoint", which]
        subprocess.run(words, env=environment, check=True, capture_output=True)
        report = json.loads((run_dir / "eval.json").read_text())
        row[which] = {"mean": report["mean"], "std": report["std"]}
    config = json.loads((run_dir / "config.json").read_text())
    row |= {"steps": config["recipe_config"]["steps"], "versions": config["versions"], "git": config["git"]}
    curves = HERE / "curves" / folder.name / f"seed-{seed}"
    curves.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "metrics.csv", curves / "metrics.csv")
    (curves / "config.json").write_text(
        json.dumps({key: config[key] for key in ("recipe", "env", "seed", "recipe_config")}, indent=1)
    )
    return row


def run_experiment(name: str, seeds: int | None, first: int, again: bool) -> None:
    experiment = EXPERIMENTS[name]
    path = RESULTS / f"{name}.json"
    rows = [] if again or not path.exists() else json.loads(path.read_text())["rows"]
    for seed in range(first, first + (experiment.seeds if seeds is None else seeds)):
        if any(row["seed"] == seed for row in rows):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            row = run_seed(experiment, seed, Path(temporary) / name)
        if path.exists() and not again:  # another process may have added its seeds meanwhile
            rows = json.loads(path.read_text())["rows"]
        rows = sorted([*(r for r in rows if r["seed"] != seed), row], key=lambda r: r["seed"])
        RESULTS.mkdir(exist_ok=True)
        kept = json.loads(path.read_text()) if path.exists() else {}
        result = {**kept, "command": experiment.command, "published": experiment.published, "rows": rows}
        path.write_text(json.dumps(result, indent=1))
        print(name, row, flush=True)
        again = False


def table_row(name: str, published: str, source: str, bootstrap_interval: Any) -> list[str]:
    """A row of the table, if there are results."""
    from protorl.digits import interval

    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    result = json.loads(path.read_text())
    rows = result["rows"]
    good = [row for row in rows if "failed" not in row]
    curves = [training_return(HERE / "curves" / name / f"seed-{row['seed']}" / "metrics.csv") for row in good]
    columns = {which: [row[which]["mean"] for row in good if which in row] for which in ("last", "best")}
    columns["training"] = [value for value in curves if value is not None]
    failed = len(rows) - len(good)
    count = f"{len(rows)}" + (f" ({failed} failed)" if failed else "")
    found = [(name, good[0]["steps"] if good else 0, count, columns)] if rows else []
    if told := result.get("elsewhere"):
        found.append((f"{name}, elsewhere", told["steps"], str(told["seeds"]), told))

    def cell(values: Any) -> str:
        """Mean and interval; the values themselves where they are too few, and what was told in words."""
        if isinstance(values, str) or len(values) < 3:
            return values if isinstance(values, str) else ", ".join(f"{value:.1f}" for value in values)
        low, high = (float(x) for x in bootstrap_interval(np.array(values)))
        mean, least, most = interval(float(np.mean(values)), low, high)
        return f"{mean} [{least}, {most}]"

    lines = []
    for title, steps, count, columns in found:
        cells = " | ".join(cell(columns.get(which, "")) for which in ("last", "best", "training"))
        counted = f"{steps:,}" if steps else ""
        lines.append(f"| {title} | {counted} | {count} | {cells} | {published} | {source} | `{result['command']}` |")
    return lines


def notes() -> list[str]:
    """What a row's numbers do not say, such as another machine."""
    found = []
    for name, note in [*((name, experiment.note) for name, experiment in EXPERIMENTS.items()), *((c, "") for c in controls())]:
        if not (path := RESULTS / f"{name}.json").exists():
            continue
        result = json.loads(path.read_text())
        found += [f"- {name}: {note}."] if note else []
        found += [f"- {name}, seed {row['seed']}: {row['note']}." for row in result["rows"] if "note" in row]
        found += [f"- {name}, measured elsewhere: {result['elsewhere']['note']}."] if "elsewhere" in result else []
    return found


def controls() -> list[str]:
    return [path.stem for path in sorted(RESULTS.glob("control-*.json"))]


def report() -> None:
    """results/README.md: mean and 95 % bootstrap interval over seeds, beside the published figure."""
    from protorl.cli.plot import bootstrap_interval

    header = [
        "| experiment | agent steps | seeds | last | best | training | published | source | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines = [
        "# Learning benchmarks",
        "",
        "Mean return of 100 evaluation episodes without exploration (on Atari with the recipe's `eval_epsilon`), over seeds,",
        "with a 95 % percentile-bootstrap interval. `last`: the weights at the end of the budget. `best`: the weights with the",
        "best evaluation during training (10 episodes; 20 in dqn-cartpole, 5 on Atari), evaluated anew over 100 episodes.",
        "Every started seed counts.",
        "`training`: mean return of the last 100 episodes of the training (of its last tenth, if it has fewer than 1,000),",
        "exploration included.",
        "Curves of every seed are in `../curves`.",
        "",
        *header,
    ]
    for name, experiment in EXPERIMENTS.items():
        lines += table_row(name, experiment.published, experiment.source, bootstrap_interval)
    lines += ["", "What the numbers do not say:", "", *notes()]
    lines += [
        "",
        "Controls: a public implementation with our preset, measured by the same rule (`control.py`).",
        "",
        *header,
    ]
    for name in controls():
        lines += table_row(name, json.loads((RESULTS / f"{name}.json").read_text())["published"], "", bootstrap_interval)
    processor = platform.processor() or platform.machine()
    lines += [
        "",
        f"Machine: {os.cpu_count()} cores, {processor}; one process and thread per seed, unless said above.",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "README.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=", ".join(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, help="how many seeds; by default the experiment's own number")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--again", action="store_true", help="run seeds again that have a row already")
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    for name in arguments.experiments or EXPERIMENTS:
        if name not in EXPERIMENTS:
            parser.error(f"{name} is unknown: choose from {', '.join(EXPERIMENTS)}")
        if not arguments.report:
            run_experiment(name, arguments.seeds, arguments.first, arguments.again)
    report()


if __name__ == "__main__":
    main()
