"""Quantile-regression DQN.

Dabney, Rowland, Bellemare and Munos 2018, "Distributional reinforcement learning with quantile regression", AAAI,
arXiv 1710.10044, Algorithm 1:

    a* = argmax_a' Q(s', a'),     T theta_j = r + gamma theta_j(s', a*),     Q = mean_j theta_j
    minimise  sum_i mean_j rho^kappa_tau_i(T theta_j - theta_i(s, a)),     tau_i = (i - 1/2) / N
"""

from __future__ import annotations

import math
from typing import Any

import torch

from protorl.agents.dqn import DQN
from protorl.data import Batch, ProtoRLError
from protorl.functional import quantile_huber, quantile_levels, td_target
from protorl.networks import chosen

PRIORITIES = ("error", "loss")


class QRDQN(DQN):
    """DQN that predicts N quantiles of the return of each action; their mean is its value.

    network: gives `.q` [B, A] and `.quantiles` [B, A, N] at the midpoints, as a `QuantileHead` does. kappa: where the
    quantile Huber loss turns linear, finite. The rest as DQN.

    priority: "error" is DQN's, |y - Q(s, a)| of the means, in units of reward, which goes to 0 where the value is right even if
    returns are random. "loss" does not: it is what Dopamine's quantile agent takes (its root, so with an exponent of 1/2).

    Differs from the paper: as DQN.
    """

    def __init__(self, *args: Any, priority: str = "error", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_infinite(self.kappa)
        if priority not in PRIORITIES:
            raise ProtoRLError(f"priority {priority!r} is unknown: use one of {', '.join(PRIORITIES)}")
        self.priority = priority

    @torch.no_grad()
    def target_quantiles(self, batch: Batch) -> torch.Tensor:
        """T theta_j [B, N]."""
        judge = self.target(batch.next_obs)
        theta = chosen(judge.quantiles, judge.q.argmax(-1))
        return td_target(batch.reward.unsqueeze(-1), batch.discount.unsqueeze(-1), theta)

    def loss_and_priority(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """sum_i mean_j rho^kappa_tau_i(T theta_j - theta_i), and |mean_j T theta_j - mean_i theta_i| (or the former), [B]."""
        theta = chosen(self.network(batch.obs).quantiles, batch.action)
        target = self.target_quantiles(batch)
        tau = quantile_levels(theta.shape[-1], theta.device)
        losses = quantile_huber(theta, target, tau, self.kappa)
        return losses, losses if self.priority == "loss" else (target.mean(-1) - theta.mean(-1)).abs()


def refuse_infinite(kappa: float) -> None:
    """The quantile Huber loss divides by kappa. Raises ProtoRLError where that is impossible."""
    if not 0 < kappa < math.inf:
        raise ProtoRLError(
            f"kappa {kappa} is impossible for quantile regression: use a finite number above 0 (the paper's is 1)"
        )
