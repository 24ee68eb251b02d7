"""Distributions over returns: the categorical projection, its divergence, and quantile levels."""

from __future__ import annotations

import torch
from torch import Tensor


def categorical_projection(reward: Tensor, discount: Tensor, p: Tensor, atoms: Tensor) -> Tensor:
    """Move the atoms by the Bellman operator, then share each one's mass between its two nearest neighbours.

    `(Φ T Z)_i = Σ_j p_j [1 - |clip(r + discount z_j, v_min, v_max) - z_i| / Δz] clipped to [0, 1]`, equation 7.
    `reward`, `discount` [B]; `p` [B, K] probabilities at the next observation; `atoms` [K] evenly spaced -> [B, K].
    Source: Bellemare, Dabney and Munos 2017 (C51).
    """
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * atoms  # [B, K]
    moved = torch.minimum(torch.maximum(moved, atoms[0]), atoms[-1])
    distance = (moved.unsqueeze(-2) - atoms.unsqueeze(-1)).abs() / (atoms[1] - atoms[0])  # [B, K onto, K from]
    return ((1 - distance).clamp(min=0) * p.unsqueeze(-2)).sum(-1)


def categorical_kl(p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p ‖ q) = Σ_i p_i (log p_i - log q_i)`: [..., K], [..., K] -> [...], with 0 log 0 = 0.

    As a loss in q it has the gradient of the cross-entropy of Bellemare, Dabney and Munos 2017 (C51), Algorithm 1;
    unlike it, it is 0 when q is right, so it is also the priority of Hessel et al. 2018 (Rainbow).
    """
    return (torch.xlogy(p, p) - p * log_q).sum(-1)


def quantile_levels(n: int, device: torch.device | str | None = None) -> Tensor:
    """The midpoints `τ_i = (2i - 1) / (2n)`, i = 1..n: [n]. Source: Dabney et al. 2018 (QR-DQN), Lemma 2."""
    return (torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n
