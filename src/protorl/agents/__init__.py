"""Agents: one paper, one file."""

from protorl.agents.agent import Agent
from protorl.agents.double_dqn import DoubleDQN
from protorl.agents.dqn import DQN
from protorl.agents.munchausen_dqn import MunchausenDQN

__all__ = ["DQN", "Agent", "DoubleDQN", "MunchausenDQN"]
