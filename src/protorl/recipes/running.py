"""Running a recipe in a run folder: start, resume, and load what was trained."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch

from protorl import rng
from protorl.accelerate import accelerate
from protorl.agents import Agent
from protorl.checkpoint import Checkpoints, atomic_write
from protorl.data import ProtoRLError
from protorl.loops import Evaluation, evaluate, train
from protorl.recipes import RECIPES
from protorl.recipes.measure import faster_device
from protorl.recipes.recipe import Recipe
from protorl.runs import Run

CONFIG_FORMAT = 1
ONLY_ON = {"aot": "cpu", "cudagraphs": "cuda"}
"""Ways of running updates that one device has."""


@dataclass(frozen=True)
class Result:
    """What a finished training run left: its folder, its agent, and its last and best evaluation (mean return, or None)."""

    run_dir: Path
    agent: Agent
    steps: int
    last: float | None
    best: float | None


def find_recipe(name: str) -> type[Recipe]:
    """A recipe by name, by file (`my_paper.py:MyRecipe`) or by module (`package.module:MyRecipe`)."""
    if name in RECIPES:
        return RECIPES[name]
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise ProtoRLError(
            f"recipe {name!r} is unknown: choose one of {', '.join(RECIPES)}, or your own as my_paper.py:MyRecipe"
        )
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ProtoRLError(f"there is no file {place} to take the recipe {attribute} from")
        spec = importlib.util.spec_from_file_location(f"recipe_file_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ProtoRLError(f"{place} cannot be imported as Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ProtoRLError(f"module {place!r} of recipe {name!r} cannot be imported: {error}") from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Recipe)):
        raise ProtoRLError(f"{place} has no recipe class {attribute!r} (a subclass of prl.Recipe)")
    return found


def recipe_reference(recipe: Recipe) -> str:
    """How `find_recipe` finds this recipe's class again, from anywhere."""
    cls = type(recipe)
    if RECIPES.get(cls.name) is cls:
        return cls.name
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    spec = importlib.util.find_spec(cls.__module__) if cls.__module__ != "__main__" and "." in cls.__module__ else None
    return f"{cls.__module__}:{cls.__qualname__}" if spec or file is None else f"{Path(file).resolve()}:{cls.__qualname__}"


def start(recipe: Recipe, run_dir: str | Path | None = None, *, progress: bool = True) -> Result:
    """Train from the beginning, in a new folder (under runs/ where none is given).

    Raises: ProtoRLError where the folder holds a run already, and whatever ends the training early.
    """
    folder = create_folder(recipe, Path(run_dir) if run_dir is not None else None)
    try:
        return execute(recipe, folder, progress=progress)
    except ProtoRLError:
        if os.listdir(folder) == ["config.json"]:  # nothing was begun: leave nothing that stands in the way
            shutil.rmtree(folder)
        raise


def resume(run_dir: str | Path, *, steps: int | None = None, progress: bool = True) -> Result:
    """Carry a run on from its newest whole checkpoint, or from the beginning where it has none, exactly as if it had never
    stopped. steps: a new total, to train longer."""
    folder = Path(run_dir)
    recipe = read_recipe(folder)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)  # type: ignore[type-var]
        write_config(recipe, folder)
    return execute(recipe, folder, progress=progress)


def execute(recipe: Recipe, folder: Path, *, progress: bool) -> Result:
    """Build everything, bring back what was saved, train, evaluate, save."""
    with narrated(progress):
        recipe = placed(recipe, folder)
        torch.manual_seed(rng.integer(recipe.seed, "torch"))
        env = recipe.make_env()
        with closing_env(env):
            agent, memory, actors = recipe.assemble(env)
            examiner = Examiner(recipe, agent)
            with closing_env(examiner):
                run = Run(
                    folder,
                    agent,
                    memory,
                    actors,
                    steps=recipe.steps,
                    log_every=recipe.log_every,
                    eval_every=recipe.eval_every,
                    checkpoint_every=recipe.checkpoint_every,
                    keep=recipe.keep,
                    evaluation=examiner,
                    frame_skip=env.spec.frame_skip,
                )
                if run.resume():
                    run.say(f"resuming {folder} at step {run.steps:,} of {recipe.steps:,}")
                left = max(memory.rate.expected(recipe.steps) - run.updates, 0)
                accelerate(agent, recipe.accelerate, recipe.precision, updates=left)
                with run.watch(progress):
                    train(agent, memory, actors, steps=recipe.steps, monitor=run)
                best = run.best if run.last_eval is not None else None
                return Result(folder, agent, run.steps, run.last_eval, best)


def placed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with `device` decided where there is a choice, also in config.json, so that a resumed run computes as it
    did: images go to the GPU, and small networks where they are measured to be faster."""
    if recipe.device != "auto" or not torch.cuda.is_available():
        return recipe
    log = logging.getLogger("protorl")
    with closing_env(recipe.make_env(1)) as env:
        pixels = env.spec.pixels
    if recipe.accelerate in ONLY_ON:
        device, why = ONLY_ON[recipe.accelerate], f"where accelerate={recipe.accelerate} works"
    elif pixels:
        device, why = "cuda", "images"
    else:
        log.info("device: measuring the processor and the GPU")
        device, why = faster_device(recipe)
    log.info(f"device: {device} ({why})")
    recipe = dataclasses.replace(recipe, device=device)  # type: ignore[type-var]
    write_config(recipe, folder)
    return recipe


class Examiner:
    """The periodic evaluation: environments of its own, built when first needed, with the same seed every time."""

    def __init__(self, recipe: Recipe, agent: Agent) -> None:
        self.recipe, self.agent = recipe, agent
        self.env: Any = None

    def __call__(self) -> Evaluation:
        episodes = self.recipe.eval_episodes
        if self.env is None:
            self.env = self.recipe.make_eval_env(min(episodes, 10))
        return evaluate(self.agent, self.env, episodes, seed=rng.integer(self.recipe.seed, "eval"))

    def close(self) -> None:
        """Close the environments, if there are any."""
        if self.env is not None:
            self.env.close()


class Trained(NamedTuple):
    """A trained agent and an environment to evaluate it in, which the caller closes, with this share of random actions."""

    agent: Agent
    env: Any
    which: str  # "best" or "last"
    step: int  # agent steps it was trained for
    epsilon: float


def load(
    run_dir: str | Path, which: str = "best", num_envs: int = 1, render: bool = False, epsilon: float | None = None
) -> Trained:
    """The agent of a run: the "best" weights by evaluation during training (the last where none was made), or the "last"
    checkpoint's. epsilon: share of random actions in its environment; None: the recipe's `eval_epsilon`."""
    folder = Path(run_dir)
    recipe = read_recipe(folder)
    if epsilon is not None:
        recipe = dataclasses.replace(recipe, eval_epsilon=epsilon)  # type: ignore[type-var]
    if recipe.device == "cuda" and not torch.cuda.is_available():  # it can be evaluated elsewhere than where it was trained
        recipe = dataclasses.replace(recipe, device="cpu")  # type: ignore[type-var]
    checkpoints = Checkpoints(folder / "checkpoints")
    if which == "best" and not (folder / "checkpoints" / "best.pt").exists():
        which = "last"
    if which == "best":
        saved = checkpoints.load_weights("best")
        state, step = saved["agent"], int(saved["step"])
    else:
        loaded = checkpoints.load()
        state, step = loaded.state["agent"], loaded.step
    env = recipe.make_eval_env(num_envs, render=render)
    agent = recipe.build_agent(dataclasses.replace(env.spec, num_envs=recipe.num_envs))
    agent.load_state_dict(state)
    accelerate(agent)
    return Trained(agent, env, which, step, recipe.eval_epsilon)


# The folder


def create_folder(recipe: Recipe, folder: Path | None) -> Path:
    """Make the run folder with its config.json in one step, so that a killed process leaves a whole one or none."""
    if folder is None:
        folder = unused_folder(f"{recipe_name(recipe)}_{recipe.env}_seed{recipe.seed}")
    refuse_used(folder)
    temporary = folder.parent / f".{folder.name}.new-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        write_config(recipe, temporary)
        temporary.rename(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ProtoRLError(f"the run folder {folder} cannot be made: {error.strerror or error}") from error
    return folder


def recipe_name(recipe: Recipe) -> str:
    """What a recipe is called: its name, or its class's."""
    return type(recipe).name or type(recipe).__name__


def refuse_used(folder: Path) -> None:
    """Raises: ProtoRLError where a new run would write over something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProtoRLError(f"{folder} already exists: resume it with `protorl resume {folder}`, or give another --run-dir")


def unused_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2 and so on where that exists."""
    stem = name.replace("/", "-").replace(":", "-")
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder


def write_config(recipe: Recipe, folder: Path) -> None:
    """config.json: the resolved recipe, versions, git state, hardware."""
    config = {
        "format": CONFIG_FORMAT,
        "recipe": recipe_reference(recipe),
        "paper": type(recipe).paper,
        "env": recipe.env,
        "seed": recipe.seed,
        "recipe_config": dataclasses.asdict(recipe),  # type: ignore[call-overload]
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "command": sys.argv,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder, every field as it was resolved."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise ProtoRLError(f"{folder} is no run folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ProtoRLError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if config.get("format", 0) > CONFIG_FORMAT:
        raise ProtoRLError(
            f"{folder} was written by a newer ProtoRL (config format {config['format']}, this one reads {CONFIG_FORMAT}): "
            "upgrade ProtoRL to use it"
        )
    return find_recipe(config["recipe"])(**config["recipe_config"])


VERSIONED = (
    "protorl", "torch", "numpy", "numba", "gymnasium", "ale-py", "opencv-python-headless", "envpool", "minatar", "mujoco",
    "box2d",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the repository in the working directory, if it is one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and GPU."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@contextmanager
def closing_env(env: Any) -> Iterator[Any]:
    try:
        yield env
    finally:
        env.close()


@contextmanager
def narrated(progress: bool) -> Iterator[None]:
    """Show what the library reports (how much a memory takes, say) while a run is on."""
    logger = logging.getLogger("protorl")
    handler = logging.StreamHandler(sys.stdout)
    level = logger.level
    if progress:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
