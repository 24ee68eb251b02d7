"""Policies: what a head's output becomes when somebody has to act."""

from protorl.policies.discrete import Categorical, EpsilonGreedy, Greedy, Policy, apex_epsilons
from protorl.policies.warmup import Warmup

__all__ = ["Categorical", "EpsilonGreedy", "Greedy", "Policy", "Warmup", "apex_epsilons"]
