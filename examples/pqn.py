"""PQN: Gallici et al. 2024, "Simplifying deep temporal difference learning", arXiv 2407.04811, Algorithm 1: Q-learning in many
environments at once, with layer normalisation, and with neither replay nor target network.

protorl train examples/pqn.py:PQN --env CartPole-v1
"""

from typing import Any

import torch
from torch import Tensor

import protorl as prl
from protorl.functional import gae, pick


class PQNAgent(prl.Agent):
    """minimise (R - Q(s, a))² over minibatches of a rollout, R being the lambda-return of max_a Q when the rollout ended."""

    def __init__(self, network: prl.Network, policy: Any, optimizer: Any, *, trace: float) -> None:
        super().__init__()
        self.network, self.policy, self.optimizer, self.trace = network, policy, optimizer, trace

    @torch.no_grad()
    def prepare(self, rollout: prl.Batch) -> prl.Batch:
        value, next_value = (self.network(obs).q.amax(-1) for obs in (rollout.obs, rollout.next_obs))  # [T, N]
        ret = value + gae(rollout.reward, rollout.discount, rollout.ended, value, next_value, self.trace)
        return prl.Batch({"obs": rollout.obs, "action": rollout.action, "ret": ret})

    def learn(self, batch: prl.Batch) -> prl.Update:
        td: Tensor = batch.ret - pick(self.network(batch.obs).q, batch.action)
        loss = (batch.weight * td.square()).mean()
        self.optimizer.step(loss)
        return prl.Update(td.detach().abs(), {"loss": loss.detach()})


class PQN(prl.recipes.OnPolicy):
    """Parallelised Q-network."""

    name = "pqn"
    paper = "Gallici et al. 2024, arXiv 2407.04811"
    actions = ("discrete",)
    agent_class = PQNAgent

    num_envs, rollout_steps, epochs, widths, layer_norm = 8, 32, 4, (128, 128), True
    lr, optimizer, max_grad_norm = 1e-3, "radam", 10.0
    trace: float = prl.hp(0.65, "lambda of the return", paper="0.65 (Atari)", low=0.0, high=1.0)
    epsilon_end: float = prl.hp(0.05, "exploration in the end; it starts at 1", low=0.0, high=1.0)
    epsilon_share: float = prl.hp(0.2, "share of the training until exploration has ended", low=1e-6, high=1.0)

    def network(self, spec: prl.EnvSpec) -> prl.Network:
        return prl.build_network(spec, {"base": self.base_config(spec), "head": "q"})

    def policy(self, spec: prl.EnvSpec) -> Any:
        epsilon = prl.Linear(1.0, self.epsilon_end, int(self.epsilon_share * self.steps) or 1)
        return prl.EpsilonGreedy(spec.action, epsilon, seed=self.seed, rows=spec.lanes)

    def agent_arguments(self) -> dict[str, Any]:
        return {"trace": self.trace}
