"""Starting a recipe in a run folder: decide what is left open, build everything, train."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

import torch

from protorl import rng
from protorl.accelerate import accelerate
from protorl.agents import Agent
from protorl.checkpoint import encode
from protorl.data import ProtoRLError
from protorl.envs.vector import VecEnv
from protorl.loops import Evaluation, evaluate, train
from protorl.modules import work_begins
from protorl.recipes.changes import adopt, summary
from protorl.recipes.config import described, record, short_env
from protorl.recipes.experiment import Experiment
from protorl.recipes.foresight import foresee
from protorl.recipes.measure import faster_device
from protorl.recipes.own import KEPT, text_of
from protorl.recipes.plan import plan_of, sentence
from protorl.runs import Run
from protorl.runs.folder import create_folder, unused_folder, update_config
from protorl.runs.lock import LOCK, owned

E = TypeVar("E", bound=Experiment)

ONLY_ON = {"aot": "cpu", "cudagraphs": "cuda"}
"""Ways of running updates that one device has."""


@dataclass(frozen=True)
class Result:
    """What a finished training run left: its folder, its agent, and its last and best evaluation (mean return, or None), each
    with the standard deviation of the returns in it."""

    run_dir: Path
    agent: Agent
    steps: int
    last: float | None
    best: float | None
    last_std: float | None = None
    best_std: float | None = None


def start(recipe: Experiment, run_dir: str | Path | None = None, *, progress: bool = True) -> Result:
    """Train from the beginning, in a new folder (under runs/ where none is given).

    Raises: ProtoRLError where the folder holds a run already, and whatever ends the training early.
    """
    work_begins()
    name = f"{type(recipe).name}_{short_env(recipe)}_seed{recipe.seed}"
    folder = unused_folder(name) if run_dir is None else Path(run_dir)
    make_run_folder(recipe, folder)
    try:
        with owned(folder):
            return execute(recipe, folder, progress=progress)
    except ProtoRLError:
        # Where nothing was begun, leave nothing that stands in the way.
        if folder.is_dir() and set(os.listdir(folder)) <= {"config.json", KEPT, LOCK}:
            shutil.rmtree(folder)
        raise


def make_run_folder(recipe: Experiment, folder: Path) -> None:
    """The folder of a run that begins: what is run, and the text of a user's own file."""
    text = text_of(type(recipe))
    create_folder(folder, described(recipe), {} if text is None else {KEPT: text})


def execute(
    recipe: Experiment,
    folder: Path,
    *,
    progress: bool,
    resumed: Callable[[dict[str, object]], None] | None = None,
    refill: bool = False,
) -> Result:
    """Build everything, bring back what was saved, train, evaluate, save. resumed: called with the plan once it is back;
    None: the run is new. refill: the memory is not brought back."""
    with narrated(progress):
        recipe = placed(recipe, folder)
        torch.manual_seed(rng.integer(recipe.seed, "torch"))
        with closing(recipe.make_env_here()) as env:
            agent, memory, actors = recipe.assemble(env)
            encode(agent.state_dict(), "agent")  # what cannot be saved is refused before anything is begun
            about, plan = summary(recipe, agent), plan_of(actors)
            if line := sentence(plan):
                logging.getLogger("protorl").info(line)
            with closing(Examiner(recipe, agent)) as examiner:
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
                    about=about,
                )
                loaded = None if resumed is None else run.resume(refill)
                if loaded is None:
                    foresee(recipe, agent, memory, env.spec)
                else:
                    adopt(agent, about["rates"], loaded.about.get("rates", {}))
                    run.say(f"resuming {folder} at step {run.steps:,} of {recipe.steps:,}")
                if resumed is None:
                    update_config(folder, {"plan": plan})
                else:
                    if loaded is None:
                        run.say(f"{folder} has no checkpoint: it starts from the beginning")
                    resumed(plan)
                left = max(memory.expected(recipe.steps) - run.updates, 0)
                accelerate(agent, recipe.accelerate, recipe.precision, updates=left)
                with closing(actors), run.watch(progress):
                    train(agent, memory, actors, steps=recipe.steps, monitor=run)
                told = run.evaluations
                best = None if told.last is None else told.best
                return Result(folder, agent, run.steps, told.last, best, told.last_std, told.best_std)


def placed(recipe: E, folder: Path) -> E:
    """The recipe with `device` decided where there is a choice, also in config.json, so that a resumed run computes as it
    did: images go to the GPU, and small networks where they are measured to be faster."""
    if recipe.device != "auto" or not torch.cuda.is_available():
        return recipe
    log = logging.getLogger("protorl")
    with closing(recipe.make_env(1)) as env:
        pixels = env.spec.pixels
    if recipe.accelerate in ONLY_ON:
        device, why = ONLY_ON[recipe.accelerate], f"where accelerate={recipe.accelerate} works"
    elif pixels:
        device, why = "cuda", "images"
    else:
        log.info("device: measuring the processor and the GPU")
        device, why = faster_device(recipe)
    log.info(f"device: {device} ({why})")
    recipe = dataclasses.replace(recipe, device=device)
    record(recipe, folder)
    return recipe


class Examiner:
    """The periodic evaluation, with the same seed every time, in environments that are made for it and closed after it: many a
    simulator remembers more than a reset puts back. Worker processes stay, until `close`."""

    def __init__(self, recipe: Experiment, agent: Agent) -> None:
        self.recipe, self.agent = recipe, agent
        self.kept: VecEnv | None = None

    def __call__(self, stop: Callable[[], bool]) -> Evaluation:
        episodes, seed = self.recipe.eval_episodes, rng.integer(self.recipe.seed, "eval")
        env = self.recipe.make_eval_env(min(episodes, 10)) if self.kept is None else self.kept
        try:
            return evaluate(self.agent, env, episodes, seed=seed, limit=self.recipe.eval_max_steps, stop=stop)
        finally:
            self.kept = env if env.retire() else None

    def close(self) -> None:
        """End what stayed."""
        if self.kept is not None:
            self.kept.close()


class Told(logging.StreamHandler[TextIO]):
    """Sentences for the person watching, if there is still one: that nobody reads them any more is an error, as for `print`."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging calls it
        raise


@contextmanager
def narrated(progress: bool) -> Iterator[None]:
    """Show what the library reports (how much a memory takes, say) while a run is on."""
    logger = logging.getLogger("protorl")
    handler = Told(sys.stdout)
    level = logger.level
    if progress:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
