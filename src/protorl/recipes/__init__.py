"""Recipes: a paper's experiment as a frozen dataclass."""

from protorl.recipes.apex import ApexDDPG, ApexDQN
from protorl.recipes.continuous import DDPG, SAC, TD3
from protorl.recipes.distributional import IQN, QRDQN, Rainbow
from protorl.recipes.dqn import D3QN, DQN, DoubleDQN, MunchausenDQN
from protorl.recipes.fields import hp
from protorl.recipes.maddpg import MADDPG, MATD3
from protorl.recipes.mappo import MAPPO
from protorl.recipes.mixing import QMIX, VDN
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.on_policy import OnPolicy
from protorl.recipes.ppo import PPO
from protorl.recipes.r2d2 import R2D2
from protorl.recipes.recipe import RECIPES, Parts, Recipe
from protorl.recipes.rnd import RND

RECIPES |= {
    recipe.name: recipe
    for recipe in (
        DQN, DoubleDQN, D3QN, MunchausenDQN, Rainbow, QRDQN, IQN, ApexDQN, PPO, DDPG, TD3, SAC, ApexDDPG, R2D2, RND, VDN, QMIX,
        MAPPO, MADDPG, MATD3,
    )
}  # fmt: skip

__all__ = [
    "D3QN",
    "DDPG",
    "DQN",
    "IQN",
    "MADDPG",
    "MAPPO",
    "MATD3",
    "PPO",
    "QMIX",
    "QRDQN",
    "R2D2",
    "RECIPES",
    "RND",
    "SAC",
    "TD3",
    "VDN",
    "ApexDDPG",
    "ApexDQN",
    "DoubleDQN",
    "MunchausenDQN",
    "OffPolicy",
    "OnPolicy",
    "Parts",
    "Rainbow",
    "Recipe",
    "hp",
]
