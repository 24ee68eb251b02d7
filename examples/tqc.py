"""TQC: Kuznetsov, Shvechikov, Grishin and Vetrov 2020, "Controlling overestimation bias with truncated mixture of continuous
distributional quantile critics", ICML, arXiv 2005.04269, equations 10 to 13.

protorl train examples/tqc.py:TQC --env Pendulum-v1
"""

from typing import Any

import torch
from torch import Tensor

import protorl as prl
from protorl.functional import quantile_huber, quantile_levels, td_target


class TQCAgent(prl.SAC):
    """SAC with K critics of N quantiles each, of whose K N target quantiles the K `drop` largest are left out."""

    def __init__(self, *args: Any, drop: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop = drop

    def reduce(self, q: Tensor) -> Tensor:
        """The mean of all quantiles: [K, B, N] -> [B]."""
        return q.mean((0, -1))

    @torch.no_grad()
    def bootstrap(self, batch: prl.Batch) -> Tensor:
        """The kept quantiles of the next value, entropy included [B, K (N - drop)]."""
        action, log_prob = self.sample(batch.next_obs, batch.next_noise)
        z = self.target(batch.next_obs, action)  # [K, B, N]
        kept = z.transpose(0, 1).flatten(1).sort(-1).values[:, : len(z) * (z.shape[-1] - self.drop)]
        return kept - (self.alpha * log_prob).unsqueeze(-1)

    def loss_and_priority(self, batch: prl.Batch) -> tuple[Tensor, Tensor, Tensor]:
        z = self.critic(batch.obs, batch.action)  # [K, B, N]
        y = td_target(batch.reward.unsqueeze(-1), batch.discount.unsqueeze(-1), self.bootstrap(batch))
        losses = quantile_huber(z, y, quantile_levels(z.shape[-1], z.device))
        return losses, (y.mean(-1) - self.reduce(z)).abs(), z


class TQC(prl.recipes.SAC):
    """Truncated quantile critics."""

    name = "tqc"
    paper = "Kuznetsov et al. 2020, arXiv 2005.04269"
    agent_class = TQCAgent

    critics: int = prl.hp(5, "critics in the ensemble, K", paper="5", low=1)
    quantiles: int = prl.hp(25, "quantiles of each critic, N", paper="25", low=1)
    drop: int = prl.hp(2, "target quantiles left out per critic", paper="2; Hopper: 5", low=0)

    def critic(self, spec: prl.EnvSpec, actor: prl.Network) -> prl.QEnsemble:
        base = prl.MLP(spec.obs, [])
        return prl.QEnsemble(
            base, spec.action, self.widths, self.activation, self.critics, self.final_bound, self.layer_norm, self.quantiles
        )

    def agent_arguments(self) -> dict[str, Any]:
        return {"drop": self.drop}
