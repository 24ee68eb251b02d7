"""Recipes: a paper's experiment as a frozen dataclass."""

from protorl.recipes.dqn import D3QN, DQN, DoubleDQN, MunchausenDQN
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Parts, Recipe

RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (DQN, DoubleDQN, D3QN, MunchausenDQN)}

__all__ = ["D3QN", "DQN", "RECIPES", "DoubleDQN", "MunchausenDQN", "Parts", "Recipe", "hp"]
