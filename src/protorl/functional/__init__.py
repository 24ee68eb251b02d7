"""The equations: pure functions of tensors, each in one place, with its shapes and its source."""

from protorl.functional.densities import (
    beta_entropy,
    beta_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    tanh_log_slope,
)
from protorl.functional.distributional import categorical_kl, categorical_projection, quantile_levels
from protorl.functional.losses import huber, quantile_huber
from protorl.functional.mixtures import mixture_betas, mixture_gammas
from protorl.functional.policy_gradient import clipped_surrogate, clipped_value_error, kl_estimate, standardise
from protorl.functional.returns import discounted_sum, gae, mixed_priority, rescale, rescale_inverse, retrace, td_target
from protorl.functional.values import double_q, greedy_probabilities, log_policy, munchausen_bonus, pick, soft_value

__all__ = [
    "beta_entropy",
    "beta_log_prob",
    "categorical_kl",
    "categorical_projection",
    "clipped_surrogate",
    "clipped_value_error",
    "discounted_sum",
    "double_q",
    "gae",
    "gaussian_entropy",
    "gaussian_log_prob",
    "greedy_probabilities",
    "huber",
    "kl_estimate",
    "log_policy",
    "mixed_priority",
    "mixture_betas",
    "mixture_gammas",
    "munchausen_bonus",
    "pick",
    "quantile_huber",
    "quantile_levels",
    "rescale",
    "rescale_inverse",
    "retrace",
    "soft_value",
    "standardise",
    "tanh_log_slope",
    "td_target",
]
