"""Multi-Agent Deep Deterministic Policy Gradient.

Lowe, Wu, Tamar, Harb, Abbeel and Mordatch 2017, "Multi-agent actor-critic for mixed cooperative-competitive environments",
arXiv 1706.02275, Algorithm 1: every agent i has a critic of the state x and of what all do, and an actor of what it observes,

    y_i = r_i + γ Q'_i(x', a'_1, ..., a'_M),  a'_j = μ'_j(o'_j),        minimise  (y_i - Q_i(x, a_1, ..., a_M))²,   (equation 6)
    maximise  Q_i(x, a_1, ..., a_M)  with  a_i = μ_i(o_i),  in θ_i alone,                                           (equation 5)

and targets follow. Choices are one-hot, drawn by Gumbel-softmax so that gradients pass.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from protorl.agents.ddpg import DDPG
from protorl.agents.td3 import TD3
from protorl.data import Batch, ProtoRLError
from protorl.functional import td_target
from protorl.policies import GumbelSoftmax, Numbers

OTHERS = ("replay", "current")


class MADDPG(DDPG):
    """DDPG for teams of M agents, of which each has a critic of the state and of everybody's action: rows are [B, M].

    network: actor `TeamNetwork`, giving `.logits` or `.action` [B, M, A]; critic `q(obs, action[, own])` [K, M, B]
    (`CentralCritics`; with `LocalCritics` every agent is a DDPG of its own). vectors: how critics see actions, `GumbelSoftmax`
    or `Numbers`. policy: Categorical, or NoisyDeterministic, maybe after a Warmup. others: what the others do in the actor's
    objective, as they did ("replay": the authors' code), or as they would now ("current"). logit_penalty: weight of the mean
    squared logit in the actor's loss. The rest as DDPG.

    Rewards [B, M] are each agent's own, so that opponents may learn side by side. An agent that has died weighs nothing, and
    nothing is bootstrapped from what it would be worth. An example's priority is the mean |y_i - Q_i| of its agents that live.

    Metrics: as DDPG, loss and actor_loss summed over the agents.

    Differs from the paper: (1) choices are drawn hard, with a soft gradient, where the authors' critics see soft samples; (2)
    others default to what they did, as in the authors' code; (3) what is clipped is the norm of the gradient of all actors, or
    all critics, together; (4) no agent approximates the others' policies (section 4.2), nor has an ensemble of its own (4.3);
    (5) as DDPG.
    """

    def __init__(
        self,
        *args: Any,
        vectors: GumbelSoftmax | Numbers,
        tau: float = 0.01,
        others: str = "replay",
        logit_penalty: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, tau=tau, **kwargs)
        if others not in OTHERS:
            raise ProtoRLError(f"others {others!r} is unknown: use {' or '.join(OTHERS)}")
        self.vectors, self.others, self.logit_penalty = vectors, others, logit_penalty

    def drawn(self, batch: Batch) -> Batch:
        """With actions as vectors [B, M, A], and the noise by which those of the actors are drawn, now and next."""
        action = self.vectors.vectors(batch.action)
        noise, next_noise = self.vectors.noise(action), self.vectors.noise(action)
        return super().drawn(batch.replace(action=action, own_noise=noise, next_noise=next_noise))

    def target_action(self, batch: Batch) -> Tensor:
        """μ'_j(o'_j) of all agents [B, M, A]."""
        return self.vectors(self.target.actor(batch.next_obs), batch.next_noise)

    def loss_and_priority(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(y_i - Q_i(x, a))² of each critic of those that live [K, M, B], the mean |y_i - Q_i| [B], and Q_i [K, M, B]."""
        q = self.critic(batch.obs, batch.action)
        alive, discount = batch.obs["alive"].T, batch.discount * batch.next_obs["alive"].T  # [M, B]
        td = alive * (td_target(batch.reward.T, discount, self.bootstrap(batch)) - q)
        return td.square(), td.abs().mean(0).sum(0) / alive.sum(0).clamp(min=1), q

    def actor_loss(self, batch: Batch) -> Tensor:
        """-Σ_i Q_i(x, a_1, ..., μ_i(o_i), ..., a_M) [B] over those that live, of the first critic of each."""
        out = self.actor(batch.obs)
        own = self.vectors(out, batch.own_noise)
        others = batch.action if self.others == "replay" else own.detach()
        q = self.critic(batch.obs, others, own, members=1)[0]  # [M, B]
        alive = batch.obs["alive"]
        return (alive * (self.logit_penalty * self.vectors.penalty(out) - q.T)).sum(-1)


class MATD3(TD3, MADDPG):
    """MADDPG with two critics for each agent, of which the smaller is believed, smoothed target actions, and delayed actors.

    target_noise: 0 for choices, which are drawn anew by Gumbel's noise anyhow. The rest as TD3 and MADDPG.
    Source: Ackermann, Gabler, Osa and Sugiyama 2019, "Reducing overestimation bias in multi-agent domains using double
    centralized critics", arXiv 1910.01465.
    Differs from the paper: as MADDPG.
    """
