"""What policy gradients are made of: the clipped surrogate, an estimate of the divergence, normalised advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float | Tensor) -> Tensor:
    """`min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)` with `ρ = π(a|s) / π_old(a|s)`: [B], [B] -> [B], to be maximised.

    Source: Schulman et al. 2017 (PPO), equation 7.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - clip, 1 + clip) * advantage)  # type: ignore[arg-type]


def kl_estimate(log_ratio: Tensor) -> Tensor:
    """`(ρ - 1) - log ρ`, never negative, whose mean over old actions is `KL(π_old ‖ π)`: [B] -> [B].

    Source: Schulman 2020, "Approximating KL divergence", the estimator k3.
    """
    return torch.expm1(log_ratio) - log_ratio


def clipped_value_error(value: Tensor, old: Tensor, target: Tensor, clip: float | Tensor) -> Tensor:
    """`max((V - R)², (clip(V, V_old - ε, V_old + ε) - R)²)`: [B] each -> [B].

    Source: the code of OpenAI Baselines (ppo2); not in the paper.
    """
    near = old + (value - old).clamp(-clip, clip)  # type: ignore[arg-type]
    return torch.maximum((value - target).square(), (near - target).square())


def standardise(x: Tensor, share: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """`(x - mean) / (std + eps)` over all elements, std as of a sample; a single number stays as it is.

    share: how much each counts, [elements], with sum 1 (None: all alike).
    """
    n = x.numel()
    if n < 2:
        return x
    if share is None:
        return (x - x.mean()) / (x.std() + eps)
    off = x - torch.dot(share, x.reshape(-1))
    return off / (torch.dot(share, off.square().reshape(-1)) * (n / (n - 1))).sqrt().add(eps)
