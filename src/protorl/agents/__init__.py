"""Agents: one paper, one file."""

from protorl.agents.agent import Agent
from protorl.agents.ddpg import DDPG
from protorl.agents.double_dqn import DoubleDQN
from protorl.agents.dqn import DQN
from protorl.agents.iqn import IQN
from protorl.agents.maddpg import MADDPG, MATD3
from protorl.agents.mappo import MAPPO
from protorl.agents.munchausen_dqn import MunchausenDQN
from protorl.agents.ppo import PPO
from protorl.agents.qr_dqn import QRDQN
from protorl.agents.r2d2 import R2D2
from protorl.agents.rainbow import Rainbow
from protorl.agents.rnd import RND, Novelty, curious
from protorl.agents.sac import SAC
from protorl.agents.sequences import STARTS, SequenceLearner
from protorl.agents.td3 import TD3
from protorl.agents.vdn import VDN

__all__ = [
    "DDPG",
    "DQN",
    "IQN",
    "MADDPG",
    "MAPPO",
    "MATD3",
    "PPO",
    "QRDQN",
    "R2D2",
    "RND",
    "SAC",
    "STARTS",
    "TD3",
    "VDN",
    "Agent",
    "DoubleDQN",
    "MunchausenDQN",
    "Novelty",
    "Rainbow",
    "SequenceLearner",
    "curious",
]
