"""Targets and the scale they live on."""

from __future__ import annotations

import torch
from torch import Tensor


def td_target(reward: Tensor, discount: Tensor, bootstrap: Tensor) -> Tensor:
    """The one-step (or n-step) target `y = r + discount * bootstrap`.

    `reward` [B] is the (n-step) reward; `discount` [B] is `γ^k (1 - terminated)`, which the memory computed;
    `bootstrap` [B] is the value trusted at the next observation. Any shapes that broadcast.
    Source: Mnih et al. 2015, Algorithm 1.
    """
    return reward + discount * bootstrap


def rescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Squash a return: `h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x`, elementwise.

    Source: Kapturowski et al. 2019 (R2D2), section 2.3; Pohlen et al. 2018.
    """
    # sqrt(|x| + 1) - 1 as a quotient: the difference of near-equal numbers would lose digits in float32.
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def rescale_inverse(z: Tensor, eps: float = 1e-3) -> Tensor:
    """Undo `rescale`: `sign(z) (((sqrt(1 + 4 eps (|z| + 1 + eps)) - 1) / (2 eps))^2 - 1)`, elementwise.

    Source: Kapturowski et al. 2019 (R2D2), section 2.3 (Badia et al. 2020, appendix E prints it without the square).
    """
    # With f the fraction above, b = sign(z) (f - 1) as a quotient: again no difference of near-equal numbers.
    b = 2 * z / ((1 + 4 * eps * (z.abs() + 1 + eps)).sqrt() + 1 + 2 * eps)
    return b * (b.abs() + 2)


def mixed_priority(error: Tensor, mask: Tensor, eta: float) -> Tensor:
    """How surprising a sequence is: `η max_t |δ_t| + (1 - η) mean_t |δ_t|`, over its trained steps alone.

    `error` [T, B]; `mask` [T, B] is 1 at trained steps, else 0 -> [B]; 0 where none is trained.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3 (η = 0.9).
    """
    size = error.abs() * mask
    return eta * size.amax(0) + (1 - eta) * size.sum(0) / mask.sum(0).clamp(min=1)


def discounted_sum(x: Tensor, decay: Tensor) -> Tensor:
    """`y_t = x_t + decay_t y_{t+1}` along the first dimension, backwards from `y_T = 0`: [T, ...], [T, ...] -> [T, ...].

    Computed in log2(T) doublings: after each, y_t holds its next 2^i terms.
    """
    y, shift = x, 1
    while shift < len(x):
        y = torch.cat([y[:-shift] + decay[: len(x) - shift] * y[shift:], y[-shift:]])
        decay = decay[:-shift] * decay[shift:]
        shift *= 2
    return y


def gae(reward: Tensor, discount: Tensor, ended: Tensor, value: Tensor, next_value: Tensor, lam: float) -> Tensor:
    """Generalised advantage estimation: `A_t = δ_t + γ λ A_{t+1}` with `δ_t = r_t + γ V(s_{t+1}) - V(s_t)`.

    All [T, ...], time first. `discount` is `γ (1 - terminated)`, so that only a termination does not bootstrap; `ended`
    (terminated or truncated) cuts the recursion, so that no advantage flows between episodes; `next_value` is V of the
    true successor, the final observation where an episode ended. -> [T, ...]. For a stream of reward that flows on through
    the ends of episodes, `discount` is γ and `ended` false everywhere, and `next_value` V of what the next row shows.
    Source: Schulman et al. 2016, arXiv 1506.02438, equation 16.
    """
    delta = td_target(reward, discount, next_value) - value
    return discounted_sum(delta, discount * lam * (~ended))


def retrace(q: Tensor, next_value: Tensor, reward: Tensor, discount: Tensor, ratio: Tensor, lam: float) -> Tensor:
    """Retrace(λ) targets of the values of taken actions, off-policy returns whose traces are cut by the policies' ratio:

        G_t = Q_t + δ_t + γ c_{t+1} (δ_{t+1} + γ c_{t+2} (...)),    δ_t = r_t + γ E_π Q(s_{t+1}, .) - Q_t,  c = λ min(1, π / μ)

    All [T, ...], time first: `q` of what was done, `next_value` = E_π Q of the successor, `discount` = γ (1 - terminated),
    `ratio` = π(a_t | s_t) / μ(a_t | s_t). The trace ends with the last row, and before a row of ratio 0: let it be 0 in rows
    that are no steps. -> [T, ...].
    Source: Munos et al. 2016, arXiv 1606.02647, equation 4; Badia et al. 2020 (Never Give Up), section 3.
    """
    trace = torch.cat([ratio[1:].clamp(max=1.0), torch.zeros_like(ratio[:1])])
    return q + discounted_sum(td_target(reward, discount, next_value) - q, lam * discount * trace)
