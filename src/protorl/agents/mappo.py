"""Multi-Agent PPO.

Yu, Velu, Vinitsky, Gao, Wang, Bayen and Wu 2022, "The surprising effectiveness of PPO in cooperative multi-agent games", arXiv
2103.01955, Algorithm 1: each agent i of a team climbs PPO's objective by its own observation, with a critic of the state s,

    maximise  mean_{i alive} [min(ρ_i A_i, clip(ρ_i, 1 - ε, 1 + ε) A_i) - c1 ((V_i(s) - R_i) / σ_i)² + c2 H[π(.|o_i)]],
    ρ_i = π(a_i|o_i) / π_old(a_i|o_i),    A_i by generalised advantage estimation from r_i and V_i,    R_i = A_i + V_i

where μ_i, σ_i are the mean and deviation of the returns, and V_i = σ_i y_i + μ_i for what the network says, y_i.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from protorl.agents.ppo import PPO
from protorl.data import Batch
from protorl.functional import gae
from protorl.networks import ActorCritic, NormalisedValueHead


class MAPPO(PPO):
    """PPO for teams of M agents: rows are [N, M] (`as_teams`), the actor sees what each observes, the critic the common state.

    network: actor `TeamNetwork` (policy parameters [N, M, ...] from `obs` [N, M, *O]), critic with `.value` [N, M] from `state`
    [N, *S]. If its head is a `NormalisedValueHead`, the value's error is measured in deviations of the return. policy:
    Categorical, Gaussian or Beta, of teams. The rest as PPO; clip_value is in the unit of the error.

    Rewards are each agent's own, so that opponents may learn side by side. An agent that has died weighs nothing from then on,
    and nothing is bootstrapped from what it would be worth (death masking); a time limit of the team bootstraps.

    Metrics: as PPO, means over all agents that live.

    Differs from the paper: (1) one pass over the state gives a value for each agent, where the paper asks the critic about each
    agent in turn; (2) so that of the dead, which the paper's critic sees as zeros and an agent's number, nothing is asked; (3)
    statistics of returns are each agent's own, and count all returns alike; (4) the error of the value is squared, where the
    authors' code has Huber's; (5) as PPO.
    """

    def __init__(self, network: ActorCritic, *args: Any, **ppo: Any) -> None:
        super().__init__(network, *args, **ppo)
        self.heads = [part for part in network.critic.modules() if isinstance(part, NormalisedValueHead)]

    def count(self, rollout: Batch) -> None:
        """What each agent that lives observed, and the states."""
        ours = set(self.network.critic.modules())
        present = rollout.weight > 0
        for scaler in self.obs_scalers:
            seen = rollout.obs["state"][present] if scaler in ours else rollout.obs["obs"][self.living(rollout) > 0]
            scaler.count(seen)

    def living(self, batch: Batch) -> Tensor:
        """The weight of each agent [..., M]: 0 of the dead."""
        weight: Tensor = batch.weight.unsqueeze(-1) * batch.obs["alive"]
        return weight

    def seen_by_each(self, rollout: Batch) -> Batch:
        """Discounts, ends and weights [T, N, M] of each agent: of one that died, nothing follows."""
        return rollout.replace(
            discount=rollout.discount.unsqueeze(-1) * rollout.next_obs["alive"],
            ended=rollout.ended.unsqueeze(-1).expand_as(rollout.reward),
            weight=self.living(rollout),
        )

    def advantage(self, rollout: Batch, reward: Tensor, next_value: Tensor) -> Tensor:
        """A_i [T, N, M]. What the critic is scaled by counts the returns."""
        advantage = gae(reward, rollout.discount, rollout.ended, rollout.value, next_value, self.gae_lambda)
        for head in self.heads:
            head.count(advantage + rollout.value, rollout.weight > 0)
        return advantage

    def share(self, batch: Batch) -> Tensor:
        """How much each agent counts in a mean, flat [B M]: all that live alike."""
        weight = self.living(batch).reshape(-1)
        return weight / weight.sum().clamp(min=1e-8)

    def surprise(self, batch: Batch) -> Tensor:
        """mean_i |A_i| [B]."""
        size: Tensor = batch.advantage.abs().mean(-1)
        return size

    def value_error(self, value: Tensor, batch: Batch) -> Tensor:
        """((V_i - R_i) / σ_i)² [B, M], or the larger of it and that of a V_i which moved no further than `clip_value` σ_i."""
        for head in self.heads:
            value, old, ret = ((number - head.mean) / head.std for number in (value, batch.value, batch.ret))
            batch = batch.replace(value=old, ret=ret)
        return super().value_error(value, batch)
