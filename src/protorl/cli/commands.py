"""What the commands do."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from protorl.data import ProtoRLError

if TYPE_CHECKING:
    from protorl.cli.arguments import Eval, Plot, Resume, Train


def train(arguments: Train) -> int:
    """`protorl train`."""
    if arguments.seeds < 1:
        raise ProtoRLError(f"--seeds {arguments.seeds} is too few: use 1 or more")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ProtoRLError(f"--jobs {arguments.jobs} is too few: use 1 or more")
    recipe = build_recipe(arguments)
    if arguments.seeds > 1:
        if any(setting.partition("=")[0].strip() == "seed" for setting in arguments.set):
            raise ProtoRLError("--set seed=... would give every run the same seed: use --seed for the first one")
        return train_seeds(arguments, recipe)
    from protorl.recipes.running import start

    finish(start(recipe, arguments.run_dir))
    return 0


def build_recipe(arguments: Train) -> Any:
    """The recipe with everything that was typed."""
    from protorl.recipes.fields import parse_settings
    from protorl.recipes.running import find_recipe

    cls = find_recipe(arguments.recipe)
    names = ("env", "steps", "num_envs", "device", "protocol")
    typed = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return cls(**{"seed": arguments.seed, **typed, **parse_settings(cls, list(arguments.set))})


def finish(result: Any) -> None:
    """The last lines of a training: score, plot, what to type next."""
    from protorl.cli.plot import plot

    scores = [
        f"{name} evaluation {value:.1f}" for name, value in (("last", result.last), ("best", result.best)) if value is not None
    ]
    print(f"done: {result.steps:,} steps; {', '.join(scores) or 'no evaluation'}")
    try:
        print(f"learning curve: {plot([result.run_dir], result.run_dir / 'curve.png')}")
    except ProtoRLError as error:  # a very short run has nothing to draw
        print(f"no learning curve: {error}")
    print(f"next: protorl eval {result.run_dir} --episodes 100")


def train_seeds(arguments: Train, recipe: Any) -> int:
    """Every seed in a process of its own, so many at a time."""
    from protorl.recipes.running import create_folder, recipe_name, refuse_used, unused_folder

    folder = arguments.run_dir
    if folder is None:
        folder = unused_folder(f"{recipe_name(recipe)}_{recipe.env}")
    refuse_used(folder)
    runs = [folder / f"seed-{seed}" for seed in range(arguments.seed, arguments.seed + arguments.seeds)]
    for seed, run_dir in enumerate(runs, arguments.seed):  # all of them now, so that `resume` finds those that never began
        create_folder(dataclasses.replace(recipe, seed=seed), run_dir)
    return side_by_side(folder, runs, [], arguments.jobs)


def side_by_side(folder: Path, runs: list[Path], options: list[str], at_once: int | None) -> int:
    """`protorl resume` for each run, in a process of one thread and out of reach of the terminal's Ctrl-C, which is handed on;
    reports as they end."""
    at_once = max(1, os.cpu_count() or 1) if at_once is None else at_once
    print(f"{len(runs)} runs in {folder}, {min(at_once, len(runs))} at a time; their output is in *.log there", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    waiting = list(runs)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    failed: list[Path] = []
    stopped = 0
    with forwarded_signals(running) as received:
        while waiting or running:
            while waiting and len(running) < at_once and not received:
                run_dir = waiting.pop(0)
                words = [sys.executable, "-m", "protorl", "resume", str(run_dir), *options]
                with open(run_dir.with_suffix(".log"), "ab") as log:
                    running[run_dir] = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
            time.sleep(0.2)
            for run_dir, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[run_dir]
                if code == 0:
                    print(f"{run_dir.name}: {last_score(run_dir)}", flush=True)
                elif code > 128 and received:
                    stopped += 1
                else:
                    failed.append(run_dir)
                    print(f"{run_dir.name} failed: {last_line(run_dir.with_suffix('.log'))}", file=sys.stderr, flush=True)
            if received and not running:
                break
    if received:
        left = f", {len(waiting)} had not begun" if waiting else ""
        print(f"stopped {stopped} runs{left}: continue with `protorl resume {folder}`", file=sys.stderr)
        return 128 + received[0]
    if failed:
        raise ProtoRLError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(run.name for run in failed)}): see their .log files"
        )
    from protorl.cli.plot import plot

    print(f"learning curve: {plot([folder], folder / 'curve.png')}")
    print(f"next: protorl eval {folder} --episodes 100")
    return 0


@contextmanager
def forwarded_signals(running: dict[Path, Any]) -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and a terminal's end go to the runs, which save themselves; the numbers received are in the list."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in list(running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def last_score(run_dir: Path) -> str:
    from protorl.runs.log import read_metrics

    metrics = read_metrics(run_dir / "metrics.csv")
    for name in ("eval_return", "return"):
        values = metrics.get(name, np.zeros(0))
        values = values[~np.isnan(values)]
        if len(values):
            return f"last {name} {values[-1]:.1f}"
    return "done"


def seed_folders(folder: Path) -> list[Path]:
    """The runs of a folder of seeds; the folder itself if it is one run."""
    if (folder / "config.json").exists():
        return [folder]
    runs = sorted((p.parent for p in folder.glob("seed-*/config.json")), key=lambda p: int(p.name.split("-")[1]))
    if not runs:
        raise ProtoRLError(f"{folder} is no run folder: it has neither config.json nor seed-*/config.json")
    return runs


def resume(arguments: Resume) -> int:
    """`protorl resume`."""
    runs = seed_folders(arguments.run_dir)
    if runs != [arguments.run_dir]:
        extra = ["--steps", str(arguments.steps)] if arguments.steps is not None else []
        return side_by_side(arguments.run_dir, runs, extra, None)
    from protorl.recipes.running import resume as carry_on

    finish(carry_on(arguments.run_dir, steps=arguments.steps))
    return 0


def evaluate(arguments: Eval) -> int:
    """`protorl eval`."""
    from protorl.papers.atari57 import human_normalised
    from protorl.recipes.running import read_recipe

    runs = seed_folders(arguments.run_dir)
    env = read_recipe(runs[0]).env
    if arguments.normalise is not None:
        human_normalised(env, 0.0)  # a game without a human is refused before the episodes are played
    means = np.array([evaluate_run(run, arguments) for run in runs])
    if len(runs) > 1:
        from protorl.cli.plot import bootstrap_interval

        low, high = bootstrap_interval(means)
        print(f"{len(runs)} seeds: mean {np.mean(means):.1f}, 95 % interval [{low:.1f}, {high:.1f}]")
        if arguments.normalise is not None:
            mean, least, most = human_normalised(env, np.array([np.mean(means), low, high]))
            print(f"human-normalised: mean {mean:.1f} %, 95 % interval [{least:.1f}, {most:.1f}]")
    return 0


def evaluate_run(run_dir: Path, arguments: Eval) -> float:
    """One run's evaluation; returns the mean."""
    from protorl import rng
    from protorl.checkpoint import atomic_write
    from protorl.loops import evaluate as play
    from protorl.papers.atari57 import human_normalised
    from protorl.recipes.running import load, read_recipe

    env = read_recipe(run_dir).env
    if arguments.seed < 0:
        raise ProtoRLError(f"--seed {arguments.seed} is negative: use 0 or more")
    seed = rng.integer(arguments.seed, "evaluate")
    trained = load(run_dir, arguments.checkpoint, num_envs=max(1, min(arguments.episodes, 10)), epsilon=arguments.epsilon)
    try:
        result = play(trained.agent, trained.env, arguments.episodes, seed=seed)
    finally:
        trained.env.close()
    report = {
        "mean": result.mean,
        "std": result.std,
        "returns": result.returns,
        "lengths": result.lengths,
        "episodes": len(result.returns),
        "seed": arguments.seed,
        "checkpoint": trained.which,
        "steps": trained.step,
        "epsilon": trained.epsilon,
    }
    if arguments.normalise is not None:
        report["human_normalised"] = human_normalised(env, result.mean)
    atomic_write(run_dir / "eval.json", json.dumps(report, indent=2).encode())
    print(
        f"{run_dir}: return {result.mean:.1f} ± {result.std:.1f} over {arguments.episodes} episodes "
        f"({trained.which} weights, from step {trained.step:,}{f', epsilon {trained.epsilon}' if trained.epsilon else ''})"
    )
    if arguments.normalise is not None:
        print(f"human-normalised: {report['human_normalised']:.1f} %")
    if arguments.video:
        print(f"video: {film(run_dir, arguments, seed)}")
    return result.mean


def film(run_dir: Path, arguments: Eval, seed: int) -> Path:
    """Record one episode."""
    from protorl.cli.video import picture, write_video
    from protorl.loops import evaluate as play
    from protorl.recipes.running import load

    frames: list[Any] = []
    trained = load(run_dir, arguments.checkpoint, render=True, epsilon=arguments.epsilon)
    try:
        play(trained.agent, trained.env, 1, seed=seed, watch=lambda env: frames.append(picture(env.render())))
    finally:
        trained.env.close()
    return write_video(run_dir / "episode", frames, fps=30)


def draw(arguments: Plot) -> int:
    """`protorl plot`."""
    from protorl.cli.plot import human_report, plot, read_runs

    if not arguments.run_dirs:
        raise ProtoRLError("plot needs at least one run folder, such as `protorl plot runs/my-run`")
    run_dirs, scale = list(arguments.run_dirs), arguments.normalise
    print(plot(run_dirs, arguments.out, metric=arguments.metric, normalise=scale))
    if scale is not None:
        print("\n".join(human_report(read_runs(run_dirs, arguments.metric, normalise=scale)[1])))
    return 0


def show_recipes() -> int:
    """`protorl list`."""
    from rich.console import Console
    from rich.table import Table

    from protorl.recipes import RECIPES
    from protorl.recipes.presets import tuned_for

    table = Table("recipe", "what it is", "paper", "tuned for", box=None)
    for name, recipe in RECIPES.items():
        table.add_row(name, (recipe.__doc__ or "").split("\n")[0], recipe.paper, tuned_for(recipe.presets))
    Console().print(table)
    return 0


def describe(words: list[str]) -> str:
    """The help page of a recipe: its fields for --set, with the values they have for the environment that was typed."""
    from protorl.recipes.fields import table
    from protorl.recipes.presets import tuned_for
    from protorl.recipes.running import find_recipe

    cls = find_recipe(words[0])
    typed = {word[2:]: value for word, value in pairwise(words) if word in ("--env", "--protocol")}
    recipe: Any = cls(**typed)
    rows = table(recipe)
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  {value}  - {text}" for name, value, text in rows]
    tuned = f"Tuned for {tuned_for(cls.presets)}." if cls.presets else ""
    summary = (cls.__doc__ or "").split("\n")[0]
    head = f"{summary}\n\nPaper: {cls.paper or 'none named'}. {tuned}\n\n"
    return f"{head}Fields, for --KEY VALUE or --set KEY=VALUE, with their values for {recipe.env}:\n\n" + "\n".join(lines)
