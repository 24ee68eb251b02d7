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
    # In float64: of x = (a + 1) / 2 float32 keeps no digits of 1 - x where it is small, and where α and β are large the
    # logarithms, though in the hundreds, add up to something near 0. The same below.
    a, b, x = alpha.double(), beta.double(), ((action.double() + 1) / 2).clamp(1e-6, 1 - 1e-6)
    log_p = torch.xlogy(a - 1, x) + torch.xlogy(b - 1, 1 - x) - _log_beta_function(a, b) - math.log(2)
    return log_p.sum(-1).to(action.dtype)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Entropy of `a = 2x - 1`, `x ~ Beta(α, β)`; it can be negative: [..., A], [..., A] -> [...]."""
    a, b = alpha.double(), beta.double()
    entropy = _log_beta_function(a, b) + (a + b - 2) * torch.digamma(a + b)
    entropy = entropy - (a - 1) * torch.digamma(a) - (b - 1) * torch.digamma(b) + math.log(2)
    return entropy.sum(-1).to(alpha.dtype)


def _log_beta_function(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
