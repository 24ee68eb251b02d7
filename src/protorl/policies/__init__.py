"""Policies: what a head's output becomes when somebody has to act."""

from protorl.policies.continuous import Beta, Gaussian, GaussianNoise, NoisyDeterministic, OUNoise, SquashedGaussian
from protorl.policies.discrete import Categorical, EpsilonGreedy, Greedy, Policy, Stochastic, apex_epsilons
from protorl.policies.warmup import Warmup

__all__ = [
    "Beta",
    "Categorical",
    "EpsilonGreedy",
    "Gaussian",
    "GaussianNoise",
    "Greedy",
    "NoisyDeterministic",
    "OUNoise",
    "Policy",
    "SquashedGaussian",
    "Stochastic",
    "Warmup",
    "apex_epsilons",
]
