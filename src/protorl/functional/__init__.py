"""The equations: pure functions of tensors, each in one place, with its shapes and its source."""

from protorl.functional.distributional import categorical_kl, categorical_projection, quantile_levels
from protorl.functional.losses import huber, quantile_huber
from protorl.functional.returns import rescale, rescale_inverse, td_target
from protorl.functional.values import double_q, log_policy, munchausen_bonus, pick, soft_value

__all__ = [
    "categorical_kl",
    "categorical_projection",
    "double_q",
    "huber",
    "log_policy",
    "munchausen_bonus",
    "pick",
    "quantile_huber",
    "quantile_levels",
    "rescale",
    "rescale_inverse",
    "soft_value",
    "td_target",
]
