"""Environments: made by name, stepped in vectors, resumed exactly; the only part that knows Gymnasium."""

from protorl.envs import probes
from protorl.envs.adapter import AdaptedEnv, from_vector
from protorl.envs.atari import AtariGame, AtariProtocol
from protorl.envs.compat import OldApi
from protorl.envs.make import make_env, make_vec_envs
from protorl.envs.normalize import NormalizeObservation, NormalizeReward
from protorl.envs.random_actions import RandomActions
from protorl.envs.sync import SyncEnv
from protorl.envs.teams import AsTeams, Lanes
from protorl.envs.vector import Episode, VecEnv, VecWrapper
from protorl.envs.wrappers import ActionMask, Canonical, FrameStack, MaskObs, TimeAware

__all__ = [
    "ActionMask",
    "AdaptedEnv",
    "AsTeams",
    "AtariGame",
    "AtariProtocol",
    "Canonical",
    "Episode",
    "FrameStack",
    "Lanes",
    "MaskObs",
    "NormalizeObservation",
    "NormalizeReward",
    "OldApi",
    "RandomActions",
    "SyncEnv",
    "TimeAware",
    "VecEnv",
    "VecWrapper",
    "from_vector",
    "make_env",
    "make_vec_envs",
    "probes",
]
