"""A recipe as plain data: the reference under which it is found again, from anywhere, and its fields."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

from protorl.recipes.experiment import Experiment
from protorl.runs.folder import update_config


def short_env(recipe: Experiment) -> str:
    """What its environment is called: the id, or the class without its file."""
    return recipe.env.rpartition(".py:")[2]


def reference(recipe: Experiment) -> str:
    """How `find_recipe` finds this recipe's class again, in another process or another folder: the name of ours, FILE:CLASS or
    MODULE:CLASS of a user's own."""
    cls = type(recipe)
    if cls.name and cls.__module__.startswith(f"{__package__}."):
        return cls.name
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    spec = importlib.util.find_spec(cls.__module__) if cls.__module__ != "__main__" and "." in cls.__module__ else None
    return f"{cls.__module__}:{cls.__qualname__}" if spec or file is None else f"{Path(file).resolve()}:{cls.__qualname__}"


def unreachable(recipe: Experiment) -> str | None:
    """Why another process would not find this recipe's class; None: it would."""
    cls = type(recipe)
    module = sys.modules.get(cls.__module__)
    if not hasattr(module, cls.__qualname__):
        return f"{cls.__name__} does not stand by itself in a file"
    if cls.__module__ == "__main__" and not hasattr(module, "__file__"):
        return f"{cls.__name__} is in no file"
    return None


def fields_of(recipe: Experiment) -> dict[str, object]:
    """Every field by name, as plain data: with `reference`, all that another process needs to build the recipe."""
    return dataclasses.asdict(recipe)


def described(recipe: Experiment) -> dict[str, object]:
    """What config.json says of a recipe."""
    return {
        "recipe": reference(recipe),
        "paper": type(recipe).paper,
        "env": recipe.env,
        "seed": recipe.seed,
        "recipe_config": fields_of(recipe),
    }


def record(recipe: Experiment, folder: Path) -> None:
    """Write the recipe's fields to config.json anew: one was decided, or changed."""
    update_config(folder, described(recipe))
