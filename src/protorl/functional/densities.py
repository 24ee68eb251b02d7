"""Densities of continuous actions: Gaussian, the same squashed by tanh, and Beta on [-1, 1]; in nats, summed over actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """`Σ_i -(a_i - μ_i)² / (2 σ_i²) - log σ_i - log sqrt(2π)`: [..., A] each (`log_std` may be [A]) -> [...]."""
    z = (action - mean) * (-log_std).exp()
    return (-0.5 * z * z - log_std - HALF_LOG_TAU).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """`Σ_i log σ_i + (1 + log 2π) / 2`: [..., A] -> [...]."""
    return (log_std + (0.5 + HALF_LOG_TAU)).sum(-1)


def tanh_log_slope(u: Tensor) -> Tensor:
    """`log (1 - tanh² u) = 2 (log 2 - u - softplus(-2u))`, elementwise, exact where `1 - tanh²` rounds to 0.

    Source: Haarnoja et al. 2018, arXiv 1812.05905, appendix C, equation 21, in its stable form.
    """
    return 2 * (math.log(2) - u - softplus(-2 * u))


def beta_log_prob(action: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log-density of `a = 2x - 1`, `x ~ Beta(α, β)`: [..., A] each -> [...]. x is kept 1e-6 away from 0 and 1.

    Source: Chou, Maturana and Scherer 2017, "Improving stochastic policy gradients in continuous control with deep
    reinforcement learning using the Beta distribution", ICML.
    """
    x = ((action + 1) / 2).clamp(1e-6, 1 - 1e-6)
    log_p = torch.xlogy(alpha - 1, x) + torch.xlogy(beta - 1, 1 - x) - _log_beta_function(alpha, beta)
    return (log_p - math.log(2)).sum(-1)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Entropy of `a = 2x - 1`, `x ~ Beta(α, β)`; it can be negative: [..., A], [..., A] -> [...]."""
    total = alpha + beta
    entropy = _log_beta_function(alpha, beta) + (total - 2) * torch.digamma(total)
    entropy = entropy - (alpha - 1) * torch.digamma(alpha) - (beta - 1) * torch.digamma(beta)
    return (entropy + math.log(2)).sum(-1)


def _log_beta_function(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
