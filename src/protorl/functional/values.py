"""What an action value is worth: the chosen action's, the double estimate, and the soft values of Munchausen."""

from __future__ import annotations

import torch
from torch import Tensor


def pick(q: Tensor, action: Tensor) -> Tensor:
    """The values of the chosen actions: `q` [..., A], integer `action` [...] -> [...]."""
    return q.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def double_q(q_online: Tensor, q_target: Tensor) -> Tensor:
    """`q_target(s', argmax_a q_online(s', a))`: one network chooses, the other judges. Both [..., A] -> [...].

    Source: van Hasselt, Guez and Silver 2016, the target Y^DoubleDQN.
    """
    return pick(q_target, q_online.argmax(-1))


def log_policy(q: Tensor, tau: float) -> Tensor:
    """`τ log π(a|s)` of the softmax policy `π = softmax(q / τ)`: [..., A] -> [..., A], never above 0.

    With `v = max_a q` it is `q - v - τ log Σ_a exp((q - v) / τ)`, finite for any q.
    Source: Vieillard, Pietquin and Geist 2020 (Munchausen), appendix B.1.
    """
    return tau * torch.log_softmax(q / tau, dim=-1)


def soft_value(q: Tensor, tau: float) -> Tensor:
    """`Σ_a π(a|s) (q(s, a) - τ log π(a|s))` with `π = softmax(q / τ)`: [..., A] -> [...].

    The sum equals `τ log Σ_a exp(q / τ)`, which is what is computed.
    Source: Vieillard, Pietquin and Geist 2020 (Munchausen), equation 1.
    """
    return tau * torch.logsumexp(q / tau, dim=-1)


def munchausen_bonus(q: Tensor, action: Tensor, alpha: float, tau: float, low: float) -> Tensor:
    """The log-policy an action is rewarded with: `α [τ log π(a|s)]` clipped to [low, 0].

    `q` [..., A] are the *target* network's values of the observation acted on, `action` [...] what was done -> [...].
    Source: Vieillard, Pietquin and Geist 2020 (Munchausen), equation 1 (α = 0.9, τ = 0.03, low = -1).
    """
    return alpha * pick(log_policy(q, tau), action).clamp(low, 0.0)


def greedy_probabilities(q: Tensor, epsilon: float) -> Tensor:
    """The ε-greedy policy of values, the first of several best: `q` [..., A] -> [..., A], which sum to 1."""
    best = torch.zeros_like(q).scatter(-1, q.argmax(-1, keepdim=True), 1.0 - epsilon)
    return best + epsilon / q.shape[-1]
