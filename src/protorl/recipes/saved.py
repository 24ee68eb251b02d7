"""A run folder that is there: its recipe, training that goes on, and the agent that was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from protorl.accelerate import accelerate
from protorl.agents import Agent
from protorl.checkpoint import Checkpoints
from protorl.data import ProtoRLError
from protorl.envs.vector import VecEnv
from protorl.recipes.changes import changes, refuse
from protorl.recipes.config import record
from protorl.recipes.find import rebuild
from protorl.recipes.own import KEPT, changed_since
from protorl.recipes.recipe import Recipe
from protorl.recipes.start import Result, execute
from protorl.runs.folder import note_resumption, read_config
from protorl.runs.lock import owned
from protorl.runs.metrics import read_table


def read_recipe(folder: Path, reference: str | None = None) -> Recipe:
    """The recipe of a run folder, every field as it was resolved. reference: where its class is now, if it has moved."""
    config = read_config(folder)
    place, _, name = config["recipe"].rpartition(":")
    if reference is None and place.endswith(".py") and not Path(place).is_file():
        kept = folder / KEPT
        copy = f", such as {kept}:{name}, the copy that this run has kept" if kept.is_file() else ""
        raise ProtoRLError(
            f"there is no file {place} any more, which {folder} took its recipe from: say where it is now with "
            f"`protorl resume {folder} --recipe FILE.py:{name}`{copy}"
        )
    return rebuild(config["recipe"] if reference is None else reference, config["recipe_config"])


def resume(
    run_dir: str | Path,
    *,
    steps: int | None = None,
    settings: Mapping[str, object] = {},
    recipe: str | None = None,
    refill: bool = False,
    progress: bool = True,
) -> Result:
    """Carry a run on from its newest whole checkpoint, or from the beginning where it has none, exactly as if it had never
    stopped.

    steps: a new total, to train longer. settings: fields that change from here on. recipe: where the class of a user's own
    is now, if it has moved. refill: where rows of the memory are damaged in every checkpoint, go on without and fill it anew.

    Raises: ProtoRLError where another process trains in the folder, or a field is changed that cannot be
    (`protorl.recipes.changes`), and whatever ends the training early.
    """
    folder = Path(run_dir)
    read_config(folder)  # or it is no run folder, and nobody's
    if (folder / "metrics.csv").exists():
        read_table(folder / "metrics.csv")  # or what was logged would be lost
    with owned(folder):
        now = read_recipe(folder, recipe)
        now = dataclasses.replace(now, **{**settings, **({} if steps is None else {"steps": steps})})
        checkpoints = Checkpoints(folder / "checkpoints")
        done, changed = checkpoints.latest(), changes(checkpoints.about(), now)
        refuse(changed, now, folder)
        if done is not None and "steps" in changed and now.steps + now.num_envs <= done:
            raise ProtoRLError(
                f"{folder} has been trained for {done:,} steps, more than --steps {now.steps}: give more than that"
            )
        if sentence := changed_since(folder, type(now)):
            print(sentence, flush=True)

        def note(plan: dict[str, object]) -> None:
            record(now, folder)
            note_resumption(folder, done, changed, plan)

        return execute(now, folder, progress=progress, resumed=note, refill=refill)


class Trained(NamedTuple):
    """A trained agent and an environment to evaluate it in, which the caller closes, with this share of random actions."""

    agent: Agent
    env: VecEnv
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
        recipe = dataclasses.replace(recipe, eval_epsilon=epsilon)
    if recipe.device == "cuda" and not torch.cuda.is_available():  # it can be evaluated elsewhere than where it was trained
        recipe = dataclasses.replace(recipe, device="cpu")
    checkpoints = Checkpoints(folder / "checkpoints")
    refuse(changes(checkpoints.about(), recipe), recipe, folder)
    if which == "best" and not (folder / "checkpoints" / "best.pt").exists():
        which = "last"
    if which == "best":
        saved = checkpoints.load_weights("best")
    else:
        loaded = checkpoints.load()
        saved = {**loaded.state, "step": loaded.step}
    env = recipe.make_eval_env(num_envs, render=render)
    try:
        agent = recipe.build_agent(dataclasses.replace(env.spec, num_envs=recipe.num_envs * env.spec.rows_each))
        step = int(saved["step"])
        agent.load_state_dict(saved["agent"])
    except Exception as error:
        env.close()
        if isinstance(error, ProtoRLError):
            raise
        raise ProtoRLError(
            f"the {which} weights in {folder} do not fit what its config.json describes ({type(error).__name__}: {error})"
        ) from error
    accelerate(agent)
    return Trained(agent, env, which, step, recipe.eval_epsilon)
