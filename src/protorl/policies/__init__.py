"""Policies: what a head's output becomes when somebody has to act."""

from protorl.policies.continuous import Beta, Gaussian, GaussianNoise, NoisyDeterministic, OUNoise, SquashedGaussian
from protorl.policies.discrete import Categorical, EpsilonGreedy, Greedy, Policy, Restarting, Stochastic, apex_epsilons
from protorl.policies.outputs import ActionValues, BestAction, BetaParameters, Logits, Normal
from protorl.policies.relaxed import GumbelSoftmax, Numbers
from protorl.policies.warmup import UniformActions, Warmup

__all__ = [
    "ActionValues",
    "BestAction",
    "Beta",
    "BetaParameters",
    "Categorical",
    "EpsilonGreedy",
    "Gaussian",
    "GaussianNoise",
    "Greedy",
    "GumbelSoftmax",
    "Logits",
    "NoisyDeterministic",
    "Normal",
    "Numbers",
    "OUNoise",
    "Policy",
    "Restarting",
    "SquashedGaussian",
    "Stochastic",
    "UniformActions",
    "Warmup",
    "apex_epsilons",
]
