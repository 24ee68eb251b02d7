"""The mixtures of Never Give Up: how much each of its policies explores, and how far it looks."""

from __future__ import annotations

import torch
from torch import Tensor


def mixture_betas(n: int, beta: float) -> Tensor:
    """Weights of the intrinsic reward [n] float32: 0 for the first, `beta` for the last, and between them

        β_i = β σ(10 (2 i - (n - 2)) / (n - 2)).

    Source: Badia et al. 2020 (Never Give Up), appendix A.
    """
    i = torch.arange(n, dtype=torch.float64)
    betas = beta * torch.sigmoid(10 * (2 * i - (n - 2)) / max(n - 2, 1))
    betas[n - 1] = beta
    betas[0] = 0.0
    return betas.to(torch.float32)


def mixture_gammas(n: int, gamma: float, least: float) -> Tensor:
    """Discounts [n] float32: `gamma` for the first, which exploits, `least` for the last, evenly in log(1 - γ) between them:

        γ_i = 1 - exp(((n - 1 - i) log(1 - γ_max) + i log(1 - γ_min)) / (n - 1)).

    Source: Badia et al. 2020 (Never Give Up), appendix A (which calls γ_0 the least in one place; it is the greatest).
    """
    far, near = torch.log1p(-torch.tensor([gamma, least], dtype=torch.float64))
    share = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    return (1 - torch.exp((1 - share) * far + share * near)).to(torch.float32)
