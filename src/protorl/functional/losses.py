"""Losses per example; who calls them weighs and averages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss


def huber(delta: Tensor, kappa: float = 1.0) -> Tensor:
    """`δ²/2` where `|δ| <= κ`, else `κ (|δ| - κ/2)`, elementwise: its gradient is δ clipped to [-κ, κ].

    With κ = 1 this is the error clipping of Mnih et al. 2015, Methods.
    """
    return huber_loss(delta, torch.zeros_like(delta), reduction="none", delta=kappa)


def quantile_huber(quantiles: Tensor, target: Tensor, tau: Tensor, kappa: float = 1.0) -> Tensor:
    """Huber quantile regression: `Σ_i mean_j |τ_i - 1{u_ij < 0}| L_κ(u_ij) / κ` with `u_ij = target_j - quantiles_i`.

    `quantiles` [..., N] are predicted at the levels `tau` ([N] or [..., N]); `target` [..., M] are samples of the
    target distribution; κ > 0 -> [...]. The sum runs over what is predicted, the mean over the target.
    Source: Dabney et al. 2018 (QR-DQN), equations 9, 10 and Algorithm 1.
    """
    u = target.unsqueeze(-2) - quantiles.unsqueeze(-1)  # [..., N, M]
    asymmetry = (tau.unsqueeze(-1) - (u < 0).to(u.dtype)).abs()
    return (asymmetry * huber(u, kappa) / kappa).mean(-1).sum(-1)
