"""Soft Actor-Critic.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", arXiv 1812.05905, Algorithm 1:

    y = r + γ (min_i Q'_i(s', a') - α log π(a'|s')),    a' ~ π(.|s')                                   (equations 5, 6)
    minimise  α log π(a|s) - min_i Q_i(s, a),    a = tanh(μ(s) + σ(s) ε)                                     (equation 9)
    minimise  -α (log π(a|s) + H̄)  in α                                                                      (equation 18)
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from protorl.agents.agent import Agent
from protorl.data import Batch, ProtoRLError, TensorObs, Update
from protorl.functional import td_target
from protorl.networks import ActorCritic, Adam, FlatParameters, Optimizer, clone
from protorl.policies import Normal, Policy, SquashedGaussian


class Temperature(nn.Module):
    """α = exp(log α), a number > 0."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not alpha > 0:
            raise ProtoRLError(f"alpha {alpha} is not a temperature: use a number above 0")
        self.log_alpha = nn.Parameter(torch.tensor([math.log(alpha)]))


class SAC(Agent):
    """A stochastic actor that maximises value and entropy, two critics of which the smaller is believed.

    network: actor with a state-dependent Gaussian (`.mean`, `.log_std`), critic `q(obs, action)` [K, B]. policy: acts.
    actor_optimizer, critic_optimizer: of `network.actor` and `network.critic`. tau: how far the target critics follow.
    alpha: the temperature at first. target_entropy: H̄ in nats. alpha_lr: learning rate of log α; None keeps α as it is.

    A variant overrides one of the equations: `reduce`, `bootstrap`, `loss_and_priority`, `actor_loss`, `temperature_loss`.

    Metrics: loss (of the critics), actor_loss, q (mean value of the batch's actions), entropy (nats), alpha.

    Differs from the paper: equation 18 has log α in the place of α, as in the authors' code; examples are weighed and give
    priorities; `discount` carries γ, termination and the number of steps.
    """

    pure: ClassVar[tuple[str, ...]] = ("learn",)

    def __init__(
        self,
        network: ActorCritic,
        policy: Policy[Normal],
        actor_optimizer: Optimizer,
        critic_optimizer: Optimizer,
        *,
        tau: float = 0.005,
        alpha: float = 1.0,
        alpha_lr: float | None = 3e-4,
        target_entropy: float,
    ) -> None:
        super().__init__()
        if not 0.0 < tau <= 1.0:
            raise ProtoRLError(f"tau {tau} is not in (0, 1]: it is how far the targets follow per update")
        self.network: ActorCritic = network
        self.policy, self.tau, self.target_entropy = policy, tau, target_entropy
        self.actor_optimizer, self.critic_optimizer = actor_optimizer, critic_optimizer
        self.temperature = Temperature(alpha).to(self.device)
        self.alpha_optimizer = None if alpha_lr is None else Adam(self.temperature, alpha_lr)
        self.target = clone(network.critic)
        self.critic_parameters, self.target_parameters = FlatParameters(network.critic), FlatParameters(self.target)

    @property
    def critic(self) -> nn.Module:
        """Judges actions: q [K, B]."""
        return self.network.critic

    def sample(self, obs: TensorObs, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, A] of the current policy, and their log-probabilities [B]; differentiable."""
        return SquashedGaussian.rsample_with_log_prob(self.actor(obs), noise)

    @property
    def alpha(self) -> Tensor:
        """The temperature [1], as a constant."""
        return self.temperature.log_alpha.exp().detach()

    def reduce(self, q: Tensor) -> Tensor:
        """The value to trust of what K critics say: min_k q_k, [K, B] -> [B]."""
        return q.amin(0)

    @torch.no_grad()
    def bootstrap(self, batch: Batch) -> Tensor:
        """min_k Q'_k(s', a') - α log π(a'|s') [B]."""
        action, log_prob = self.sample(batch.next_obs, batch.next_noise)
        return self.reduce(self.target(batch.next_obs, action)) - self.alpha * log_prob

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """½ (y - Q_k(s, a))² of each critic [K, B], the mean |y - Q_k| [B], and Q_k [K, B]."""
        q = self.critic(batch.obs, batch.action)
        td = td_target(batch.reward, batch.discount, self.bootstrap(batch)) - q
        return 0.5 * td.square(), td.abs().mean(0), q

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """α log π(a|s) - min_k Q_k(s, a) and log π(a|s), both [B], for a ~ π(.|s)."""
        action, log_prob = self.sample(batch.obs, batch.noise)
        return self.alpha * log_prob - self.reduce(self.critic(batch.obs, action)), log_prob

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """log α (H - H̄) [], H being the policy's mean entropy []."""
        return (self.temperature.log_alpha * (entropy - self.target_entropy)).sum()

    def learn_critics(self, batch: Batch) -> Update:
        """The critics' step, after which the targets follow."""
        losses, priority, q = self.loss_and_priority(batch)
        loss = (batch.weight * losses).mean(-1).sum()
        self.critic_optimizer.step(loss)
        self.target_parameters.lerp_(self.critic_parameters, self.tau)
        return Update(priority.detach(), {"loss": loss.detach(), "q": q.detach().mean()})

    def learn_actor(self, batch: Batch) -> dict[str, Tensor]:
        """The steps of actor and temperature; metrics."""
        losses, log_prob = self.actor_loss(batch)
        loss = (batch.weight * losses).mean()
        self.actor_optimizer.step(loss)
        entropy, alpha = -log_prob.detach().mean(), self.alpha.sum()
        if self.alpha_optimizer is not None:
            self.alpha_optimizer.step(self.temperature_loss(entropy))
        return {"actor_loss": loss.detach(), "entropy": entropy, "alpha": alpha}

    def learn(self, batch: Batch) -> Update:
        update = self.learn_critics(batch)
        return update._replace(metrics={**update.metrics, **self.learn_actor(batch)})

    def drawn(self, batch: Batch) -> Batch:
        """With the noise of the actions at s and at s', standard normal [B, A] each."""
        noise = torch.randn(2, *batch.action.shape, device=batch.action.device)
        return batch.replace(noise=noise[0], next_noise=noise[1])
