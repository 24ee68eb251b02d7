"""A worker's part of a training: the agent and the actors of some lanes, from the recipe's reference and fields alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from protorl import rng
from protorl.accelerate import accelerate
from protorl.actors import Actors
from protorl.agents import Agent
from protorl.data import Array, Obs, tree_map
from protorl.modules import brought
from protorl.parts import Aside, parts
from protorl.recipes.find import rebuild

HERE: dict[str, Any] = {"workers": 0, "engine": "local", "address": None}
"""The fields of a recipe that one process trains."""


def apart(
    texts: Mapping[str, str], reference: str, fields: Mapping[str, Any], lanes: range, each: int = 1
) -> tuple[Agent, Actors]:
    """Build what acts in these lanes, in a process of its own, maybe on a machine that lacks the user's files. texts: what was
    in those that reference and fields name, by their paths (`texts_of`), when the training began."""
    files = brought(texts)

    def moved(name: str) -> str:
        return next((here + name.removeprefix(path) for path, here in files.items() if name.startswith(f"{path}:")), name)

    names = {"env": moved(fields["env"]), "wrappers": [moved(wrapper) for wrapper in fields["wrappers"]]}
    recipe = rebuild(moved(reference), {**fields, **names, **HERE, "device": "cpu", "threads": 1})
    torch.manual_seed(rng.integer(recipe.seed, "torch", lanes.start))
    env = recipe.make_env(len(lanes) // each, first_row=lanes.start // each)
    agent = accelerate(recipe.build_agent(env.spec))
    if getattr(recipe, "lockstep", False):
        for name in agent.judges:
            setattr(agent, name, Among(getattr(agent, name), lanes, recipe.num_envs * each))
    pace = recipe.num_envs * each / len(lanes)
    for _, part in parts(agent.policy):
        if hasattr(part, "pace"):
            part.pace = int(pace) if pace == int(pace) else pace
    return agent, recipe.actors(agent, env)


class Among(Aside):
    """`infer`, say, for some lanes as if all were there, since products of matrices round by their shape: a row is computed as
    in a process that has every lane."""

    def __init__(self, method: Any, lanes: range, number: int) -> None:
        self.method, self.lanes, self.number = method, slice(lanes.start, lanes.stop), number

    def __call__(self, obs: Obs, *more: Any) -> Any:
        def padded(mine: Array) -> Array:
            every = np.zeros((self.number, *mine.shape[1:]), mine.dtype)
            every[self.lanes] = mine
            return every

        return tree_map(lambda part: part[self.lanes], self.method(tree_map(padded, obs), *more))
