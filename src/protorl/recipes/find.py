"""Finding a recipe: by name, by file, by module; and one that another process described."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from protorl.data import ProtoRLError
from protorl.modules import name_of, run_file
from protorl.place import own_place
from protorl.recipes.config import fields_of, reference
from protorl.recipes.own import mistake
from protorl.recipes.recipe import RECIPES, Recipe
from protorl.words import meant

__all__ = ["fields_of", "find_recipe", "rebuild", "reference"]


def find_recipe(name: str) -> type[Recipe]:
    """A recipe by name, by file (`my_paper.py:MyRecipe`) or by module (`package.module:MyRecipe`)."""
    if name in RECIPES:
        return RECIPES[name]
    place, colon, attribute = name.rpartition(":")
    if not (colon and place and attribute):
        near = meant(name, RECIPES)
        hint = f"did you mean {near}, " if near else f"choose one of {', '.join(RECIPES)}, "
        raise ProtoRLError(f"recipe {name!r} is unknown: {hint}or your own as my_paper.py:MyRecipe")
    if place.endswith(".py"):
        module = module_of(Path(place), attribute)
    else:
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:
            if isinstance(error, ImportError | TypeError) and own_place(error) is None:
                raise ProtoRLError(f"module {place!r} of recipe {name!r} cannot be imported: {error}") from error
            raise mistake(error, place) from error
    found: Any = getattr(module, attribute, None)
    if not is_recipe(found):
        there = [key for key, thing in vars(module).items() if is_recipe(thing) and thing.__module__ == module.__name__]
        others = f"; it has {', '.join(there)}" if there else ""
        raise ProtoRLError(f"{place} has no recipe class {attribute!r} (a subclass of prl.Recipe){others}")
    return found


def is_recipe(thing: Any) -> bool:
    """Whether it is a class of recipes."""
    return isinstance(thing, type) and issubclass(thing, Recipe)


def rebuild(reference: str, fields: Mapping[str, object]) -> Recipe:
    """The recipe that `reference` and `fields_of` described, here or in another process."""
    return find_recipe(reference)(**fields)


def module_of(path: Path, attribute: str) -> ModuleType:
    """A file as a module, run anew; files of one name in two folders are two modules."""
    if not path.is_file():
        raise ProtoRLError(f"there is no file {path} to take the recipe {attribute} from")
    try:
        return run_file(path, name_of(path, "recipe_file"))
    except (Exception, SystemExit) as error:
        raise mistake(error, path) from error
