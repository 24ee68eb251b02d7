"""What the commands do."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from protorl.cli.arguments import Check, Command, Doctor, Eval, List, Plot, Resume, Train
from protorl.cli.seeds import seed_folders, side_by_side, train_seeds
from protorl.data import Array, ProtoRLError
from protorl.digits import interval, plus_minus

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

    scores = "no evaluation"
    if result.last is not None and result.best is not None:
        last, best = plus_minus(result.last, result.last_std), plus_minus(result.best, result.best_std)
        scores = f"last evaluation {last}, best evaluation {best}"
    print(f"done: {result.steps:,} steps; {scores}")
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
    if arguments.video:
        with closing(read_recipe(runs[0]).make_eval_env(1, render=True)) as drawn:
            drawn.reset(0)
            drawn.render()  # so is what cannot be drawn
    means = np.array([evaluate_run(run, arguments) for run in runs])
    if len(runs) > 1:
        from protorl.cli.plot import bootstrap_interval

        low, high = bootstrap_interval(means)
        middle, least, most = interval(float(np.mean(means)), float(low), float(high))
        print(f"{len(runs)} seeds: mean {middle}, 95 % interval [{least}, {most}]")
        if arguments.normalise is not None:
            middle, least, most = interval(*human_normalised(env, np.array([np.mean(means), low, high])).tolist())
            print(f"human-normalised: mean {middle} %, 95 % interval [{least}, {most}]")
    return 0


def evaluate_run(run_dir: Path, arguments: Eval) -> float:
    """One run's evaluation; returns the mean."""
    from protorl import rng
    from protorl.checkpoint import atomic_write
    from protorl.loops import evaluate as play
    from protorl.papers.atari57 import human_normalised
    from protorl.recipes.saved import load, read_recipe

    recipe = read_recipe(run_dir)
    if arguments.seed < 0:
        raise ProtoRLError(f"--seed {arguments.seed} is negative: use 0 or more")
    seed = rng.integer(arguments.seed, "evaluate")
    trained = load(run_dir, arguments.checkpoint, num_envs=max(1, min(arguments.episodes, 10)), epsilon=arguments.epsilon)
    try:
        result = play(trained.agent, trained.env, arguments.episodes, seed=seed, limit=recipe.eval_max_steps)
    finally:
        trained.env.close()
    report = {
        "mean": result.mean,
        "std": result.std,
        "returns": result.returns,
        "lengths": result.lengths,
        **({"agents": result.members} if result.members else {}),
        "episodes": len(result.returns),
        "cut": result.cut,
        "seed": arguments.seed,
        "checkpoint": trained.which,
        "steps": trained.step,
        "epsilon": trained.epsilon,
    }
    if arguments.normalise is not None:
        report["human_normalised"] = human_normalised(recipe.env, result.mean)
    atomic_write(run_dir / "eval.json", json.dumps(report, indent=2).encode())
    print(
        f"{run_dir}: return {plus_minus(result.mean, result.std)} over {arguments.episodes} episodes "
        f"({trained.which} weights, from step {trained.step:,}{f', epsilon {trained.epsilon}' if trained.epsilon else ''})"
    )
    for name, returns in result.members.items():
        print(f"  {name}: {plus_minus(float(np.mean(returns)), float(np.std(returns)))}")
    if arguments.normalise is not None:
        print(f"human-normalised: {report['human_normalised']:.1f} %")
    if result.remark is not None:
        print(result.remark)
    if arguments.video:
        print(f"video: {film(run_dir, arguments, seed)}")
    return result.mean


def film(run_dir: Path, arguments: Eval, seed: int) -> Path:
    """Record one episode."""
    from protorl.cli.video import picture, write_video
    from protorl.loops import evaluate as play
    from protorl.recipes.saved import load, read_recipe

    frames: list[Array] = []
    trained = load(run_dir, arguments.checkpoint, render=True, epsilon=arguments.epsilon)
    try:
        limit = read_recipe(run_dir).eval_max_steps
        play(trained.agent, trained.env, 1, seed=seed, limit=limit, watch=lambda env: frames.append(picture(env.render())))
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
