"""Deep Deterministic Policy Gradient.

Lillicrap et al. 2016, "Continuous control with deep reinforcement learning", arXiv 1509.02971, Algorithm 1:

    y = r + γ Q'(s', μ'(s')),    minimise (y - Q(s, a))²,    maximise Q(s, μ(s)),    θ' <- τ θ + (1 - τ) θ'
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from protorl.agents.agent import Agent
from protorl.data import Act, Batch, Carry, ProtoRLError, Seen, Update
from protorl.functional import td_target
from protorl.networks import ActorCritic, FlatParameters, Optimizer, clone
from protorl.policies import BestAction, Restarting


class DDPG(Agent):
    """A deterministic actor that climbs its critic, with targets that follow both.

    network: actor with `.action` in [-1, 1], critic `q(obs, action)` [K, B] (a `QEnsemble`). policy: NoisyDeterministic,
    maybe after a Warmup. actor_optimizer, critic_optimizer: of `network.actor` and `network.critic`. tau: how far the targets
    follow, in (0, 1]. delay: updates of the critic per update of the actor and the targets. target_every: updates between moves
    of the targets. action_gradient_clip: clips each number of dQ/da, by which the actor climbs (None: not); Ape-X: 1.

    A variant overrides one of the equations: `target_action`, `reduce`, `bootstrap`, `loss_and_priority`, `actor_loss`.

    Metrics: loss (of the critic), q (mean value of the batch's actions), actor_loss (at each actor update), grad_norm (of the
    critic's gradient, where it is clipped).

    Differs from the paper: examples are weighed and give priorities; no batch normalisation; `discount` carries γ,
    termination and the number of steps.
    """

    policy: Restarting[BestAction]
    pure: ClassVar[tuple[str, ...]] = ("learn", "improve")

    def __init__(
        self,
        network: ActorCritic,
        policy: Restarting[BestAction],
        actor_optimizer: Optimizer,
        critic_optimizer: Optimizer,
        *,
        tau: float = 0.001,
        delay: int = 1,
        target_every: int = 1,
        action_gradient_clip: float | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 < tau <= 1.0:
            raise ProtoRLError(f"tau {tau} is not in (0, 1]: it is how far the targets follow per update")
        for name, count in (("delay", delay), ("target_every", target_every)):
            if count < 1:
                raise ProtoRLError(f"{name} {count} is not a number of updates: use 1 or more")
        self.network: ActorCritic = network
        self.policy, self.tau, self.delay = policy, tau, delay
        self.target_every, self.action_gradient_clip = target_every, action_gradient_clip
        self.actor_optimizer, self.critic_optimizer = actor_optimizer, critic_optimizer
        self.target = clone(network)
        self.online_parameters = [FlatParameters(part) for part in (network.actor, network.critic)]
        self.target_parameters = [FlatParameters(part) for part in (self.target.actor, self.target.critic)]

    @property
    def critic(self) -> nn.Module:
        """Judges actions: q [K, B]."""
        return self.network.critic

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        if explore:
            self.policy.restart(seen.first)
        return super().act(seen, carry, explore=explore)

    def target_action(self, batch: Batch) -> Tensor:
        """μ'(s') [B, A]."""
        action: Tensor = self.target.actor(batch.next_obs).action
        return action

    def reduce(self, q: Tensor) -> Tensor:
        """The value to trust of what K critics say: q [K, B] -> [B]. Here the first's."""
        return q[0]

    @torch.no_grad()
    def bootstrap(self, batch: Batch) -> Tensor:
        """Q'(s', μ'(s')) [B]."""
        return self.reduce(self.target.critic(batch.next_obs, self.target_action(batch)))

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(y - Q_k(s, a))² of each critic [K, B], the mean |y - Q_k| [B], and Q_k [K, B]."""
        q = self.critic(batch.obs, batch.action)
        td = td_target(batch.reward, batch.discount, self.bootstrap(batch)) - q
        return td.square(), td.abs().mean(0), q

    def actor_loss(self, batch: Batch) -> Tensor:
        """-Q(s, μ(s)) [B], of the first critic."""
        action = self.actor(batch.obs).action
        q = self.critic(batch.obs, action, members=1)[0]
        if self.action_gradient_clip is None:
            return -q
        (slope,) = torch.autograd.grad(q.sum(), action)  # dQ/da [B, A]
        slope = slope.clamp(-self.action_gradient_clip, self.action_gradient_clip)
        return -q.detach() - (slope * (action - action.detach())).sum(-1)  # the value stays, the gradient is the clipped one

    def learn(self, batch: Batch) -> Update:
        """The critic's step."""
        losses, priority, q = self.loss_and_priority(batch)
        loss = (batch.weight * losses).mean(-1).sum()
        grad_norm = self.critic_optimizer.step(loss)
        metrics = {"loss": loss.detach(), "q": q.detach().mean()}
        return Update(priority.detach(), metrics if grad_norm is None else {**metrics, "grad_norm": grad_norm})

    def improve(self, batch: Batch) -> Update:
        """The actor's step, then the targets follow."""
        losses = self.actor_loss(batch)
        loss = (batch.weight * losses).mean()
        self.actor_optimizer.step(loss)
        if self.target_every == 1:  # here, so that it is compiled with the rest
            self.follow()
        return Update(losses.detach(), {"actor_loss": loss.detach()})

    def follow(self) -> None:
        """θ' <- τ θ + (1 - τ) θ', actor and critic."""
        for target, online in zip(self.target_parameters, self.online_parameters):
            target.lerp_(online, self.tau)

    def update(self, batch: Batch) -> Update:
        batch = self.drawn(batch)
        update = self.learn(batch)
        self.updates += 1
        if self.updates % self.delay == 0:
            update = update._replace(metrics={**update.metrics, **self.improve(batch).metrics})
        if self.target_every > 1 and self.updates % self.target_every == 0:
            self.follow()
        return update
