"""Implicit quantile networks.

Dabney, Ostrovski, Silver and Munos 2018, "Implicit quantile networks for distributional reinforcement learning", ICML,
arXiv 1806.06923, Algorithm 1, with every tau drawn from U[0, 1]:

    a* = argmax_a' 1/K sum_k Z_tau~k(s', a'; theta-),     delta_ij = r + gamma Z_tau'j(s', a*; theta-) - Z_tau_i(s, a; theta)
    minimise  sum_i mean_j rho^kappa_tau_i(delta_ij),     i = 1..N,  j = 1..N'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from protorl.agents.agent import as_tensor
from protorl.agents.dqn import DQN
from protorl.agents.qr_dqn import refuse_infinite
from protorl.data import Batch, Obs, ProtoRLError, TensorObs, tree_leaves
from protorl.functional import quantile_huber, td_target
from protorl.networks import Network, QuantileOut, chosen, masked
from protorl.policies.draws import Draws


class IQN(DQN):
    """DQN that predicts the quantile of each action's return at any level tau; a value is the mean over levels.

    network: its head is an `IQNHead`. samples, target_samples, act_samples: N, N' and K levels. seed, rows: of the levels
    that acting draws, a stream for each environment (None: 0..N-1). kappa: finite. The rest as DQN.

    The priority is |mean_ij delta_ij|, the TD error of the sampled means, as in `QRDQN`.

    Differs from the paper: an evaluation takes K evenly spaced levels instead of random ones, so that it repeats and leaves
    no trace; otherwise as DQN.
    """

    def __init__(
        self,
        *args: Any,
        samples: int = 64,
        target_samples: int = 64,
        act_samples: int = 32,
        seed: int = 0,
        rows: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        refuse_infinite(self.kappa)
        for name, value in (("samples", samples), ("target_samples", target_samples), ("act_samples", act_samples)):
            if value < 1:
                raise ProtoRLError(f"{name} {value} is not a number of quantile levels: use 1 or more")
        self.samples, self.target_samples, self.act_samples = samples, target_samples, act_samples
        self.draws = Draws(seed, "quantile levels", rows, block=max(1024, act_samples))

    @staticmethod
    def z(network: Network, obs: TensorObs, tau: Tensor) -> QuantileOut:
        """Z_tau(s, .) [B, A, N] at the levels `tau` [B, N], and its mean over them."""
        out: QuantileOut = network.head(network.base(obs), tau)
        return masked(out, obs)

    @torch.inference_mode()
    def infer(self, obs: Obs, explore: bool) -> QuantileOut:
        """To explore, values are means over K random levels for each row; otherwise over even ones."""
        if not explore:
            out: QuantileOut = super().infer(obs, False)
            return out
        tau = self.draws.take(len(tree_leaves(obs)[0]), self.act_samples)
        return self.z(self.network, as_tensor(obs, self.device), torch.as_tensor(tau, dtype=torch.float32, device=self.device))

    @torch.no_grad()
    def target_quantiles(self, batch: Batch) -> Tensor:
        """r + gamma Z_tau'j(s', a*; theta-) [B, N']."""
        z = self.z(self.target, batch.next_obs, torch.cat([batch.greedy_tau, batch.next_tau], -1)).quantiles  # [B, A, K + N']
        best = z[..., : self.act_samples].mean(-1).argmax(-1)
        z_best = chosen(z[..., self.act_samples :], best)
        return td_target(batch.reward.unsqueeze(-1), batch.discount.unsqueeze(-1), z_best)

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sum_i mean_j rho^kappa_tau_i(delta_ij), and |mean_ij delta_ij|, both [B]."""
        z = chosen(self.z(self.network, batch.obs, batch.tau).quantiles, batch.action)
        target = self.target_quantiles(batch)
        return quantile_huber(z, target, batch.tau, self.kappa), (target.mean(-1) - z.mean(-1)).abs()

    def drawn(self, batch: Batch) -> Batch:
        """With the levels tau, of both networks and of the greedy action, uniform [B, N] each."""
        sizes = {"tau": self.samples, "next_tau": self.target_samples, "greedy_tau": self.act_samples}
        return batch.replace(**{name: torch.rand(len(batch), size, device=self.device) for name, size in sizes.items()})
