"""AWR: Peng, Kumar, Zhang and Levine 2019, "Advantage-weighted regression: simple and scalable off-policy reinforcement
learning", arXiv 1910.00177, Algorithm 1. With n-step returns in the place of lambda-returns, so that any replay serves.

protorl train examples/awr.py:AWR --env CartPole-v1
"""

from typing import Any

import torch

import protorl as prl
from protorl.functional import td_target


class AWRAgent(prl.Agent):
    """minimise (R - V(s))², maximise log pi(a|s) min(exp((R - V(s)) / beta), limit), for actions from the replay."""

    def __init__(self, network: prl.ActorCritic, policy: Any, optimizer: Any, *, beta: float, limit: float) -> None:
        super().__init__()
        self.network: prl.ActorCritic = network
        self.policy, self.optimizer, self.beta, self.limit = policy, optimizer, beta, limit

    def learn(self, batch: prl.Batch) -> prl.Update:
        out = self.network(batch.obs)
        with torch.no_grad():
            ret = td_target(batch.reward, batch.discount, self.network.value(batch.next_obs))
            advantage = ret - out.value
            weight = (advantage / self.beta).exp().clamp(max=self.limit)
        log_prob = self.policy.log_prob(out.policy, batch.action)
        loss = (batch.weight * ((ret - out.value).square() - weight * log_prob)).mean()
        self.optimizer.step(loss)
        entropy = self.policy.entropy(out.policy).mean().detach()
        return prl.Update(advantage.abs(), {"loss": loss.detach(), "entropy": entropy})


class AWR(prl.recipes.OffPolicy):
    """Advantage-weighted regression."""

    name = "awr"
    paper = "Peng et al. 2019, arXiv 1910.00177"
    actions = ("discrete",)
    agent_class = AWRAgent

    lr, n_step, update_every, capacity, batch_size, widths = 1e-3, 20, 4, 10_000, 128, (64, 64)
    beta: float = prl.hp(1.0, "temperature of the weights, in units of the return", paper="0.05 (scaled)", low=1e-6)
    limit: float = prl.hp(20.0, "largest weight", paper="20", low=1.0)

    def network(self, spec: prl.EnvSpec) -> prl.ActorCritic:
        actor = prl.build_network(spec, {"base": self.base_config(spec), "head": "categorical"})
        return prl.ActorCritic(actor, prl.Network(prl.MLP(spec.obs, self.widths), prl.ValueHead()))

    def policy(self, spec: prl.EnvSpec) -> Any:
        return prl.Categorical(spec.action, seed=self.seed, rows=spec.lanes)

    def agent_arguments(self) -> dict[str, Any]:
        return {"beta": self.beta, "limit": self.limit}
