"""What the commands do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from protorl.cli.arguments import Check, Command, Doctor, Eval, List, Plot, Resume, Train
from protorl.cli.seeds import seed_folders, side_by_side, train_seeds
from protorl.data import Array, ProtoRLError

if TYPE_CHECKING:
    from protorl.recipes import Recipe
    from protorl.recipes.start import Result


def run(command: Command) -> int:
    """Do what a command says; its exit status."""
    match command:
        case Train():
            return train(command)
        case Resume():
            return resume(command)
        case Eval():
            return evaluate(command)
        case Plot():
            return draw(command)
        case List():
            return show_recipes()
        case Doctor():
            return look_around(command)
        case Check():
            return examine(command)


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
    from protorl.recipes.start import start

    finish(start(recipe, arguments.run_dir))
    return 0


def build_recipe(arguments: Train) -> Recipe:
    """The recipe with everything that was typed."""
    from protorl.recipes.fields import parse_settings
    from protorl.recipes.find import find_recipe

    cls = find_recipe(arguments.recipe)
    names = ("env", "steps", "num_envs", "device", "protocol")
    typed = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return cls(**{"seed": arguments.seed, **typed, **parse_settings(cls, list(arguments.set))})


def finish(result: Result) -> None:
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


def resume(arguments: Resume) -> int:
    """`protorl resume`."""
    runs = seed_folders(arguments.run_dir)
    if runs != [arguments.run_dir]:
        extra = ["--steps", str(arguments.steps)] if arguments.steps is not None else []
        extra += [word for setting in arguments.set for word in ("--set", setting)]
        extra += ["--recipe", arguments.recipe] if arguments.recipe is not None else []
        return side_by_side(arguments.run_dir, runs, extra + ["--refill"] * arguments.refill, None)
    from protorl.recipes.fields import parse_settings
    from protorl.recipes.saved import read_recipe
    from protorl.recipes.saved import resume as carry_on

    settings = parse_settings(type(read_recipe(arguments.run_dir, arguments.recipe)), list(arguments.set))
    run_dir, steps, recipe, refill = arguments.run_dir, arguments.steps, arguments.recipe, arguments.refill
    finish(carry_on(run_dir, steps=steps, settings=settings, recipe=recipe, refill=refill))
    return 0


def evaluate(arguments: Eval) -> int:
    """`protorl eval`."""
    from protorl.papers.atari57 import human_normalised
    from protorl.recipes.saved import read_recipe

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
    from protorl.recipes.saved import load, read_recipe

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
    from protorl.recipes.saved import load

    frames: list[Array] = []
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


def look_around(arguments: Doctor) -> int:
    """`protorl doctor`."""
    from protorl.cli.doctor import doctor

    return doctor(arguments.recipe, arguments.env, quick=arguments.quick, as_json=arguments.json)


def examine(arguments: Check) -> int:
    """`protorl check`."""
    from protorl.cli.check import check

    return check(arguments.recipe, arguments.env, list(arguments.set), quick=arguments.quick)
