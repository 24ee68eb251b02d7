"""A run folder that is there: its recipe, training that goes on, and the agent that was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from protorl.accelerate import accelerate
from protorl.agents import Agent
from protorl.checkpoint import Checkpoints
from protorl.envs.vector import VecEnv
from protorl.recipes.config import record
from protorl.recipes.find import rebuild
from protorl.recipes.recipe import Recipe
from protorl.recipes.start import Result, execute
from protorl.runs.folder import read_config


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder, every field as it was resolved."""
    config = read_config(folder)
    return rebuild(config["recipe"], config["recipe_config"])


def resume(run_dir: str | Path, *, steps: int | None = None, progress: bool = True) -> Result:
    """Carry a run on from its newest whole checkpoint, or from the beginning where it has none, exactly as if it had never
    stopped. steps: a new total, to train longer."""
    folder = Path(run_dir)
    recipe = read_recipe(folder)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
        record(recipe, folder)
    return execute(recipe, folder, progress=progress)


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
