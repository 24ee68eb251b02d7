"""Proximal Policy Optimisation.

Schulman, Wolski, Dhariwal, Radford and Klimov 2017, arXiv 1707.06347, Algorithm 1 with equations 7, 9, 11 and 12:

    maximise  E[min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) - c1 (V(s) - R)² + c2 H[π(.|s)]],     ρ = π(a|s) / π_old(a|s)

over K epochs of minibatches of each rollout; A by generalised advantage estimation, R = A + V_old(s).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from protorl.agents.agent import Agent
from protorl.data import (
    Act,
    Batch,
    Carry,
    Columns,
    EnvSpec,
    Field,
    ProtoRLError,
    Schedule,
    Seen,
    Update,
    as_schedule,
    visible,
)
from protorl.functional import clipped_surrogate, clipped_value_error, gae, kl_estimate, standardise
from protorl.networks import ActorCritic, ObsScaler, Optimizer, ReturnScaler
from protorl.policies import Stochastic
from protorl.policies.draws import as_numpy


class PPO(Agent):
    """Actor and critic learn from rollouts: the memory's view is `Rollout(agent.prepare, gamma)`, its sampler `Minibatches`,
    its rate `epochs * minibatches` updates per rollout.

    network: gives the policy's parameters and V. policy: Categorical, Gaussian or Beta. optimizer: of all of `network`.
    gae_lambda: λ. clip: ε. value_coef: c1, of the squared error (not half of it). entropy_coef: c2. lr, clip: numbers, or
    schedules over updates. clip_value: bounds how far V may move per rollout (None: freely). target_kl: once the estimated
    divergence from the old policy exceeds 1.5 times this, the rollout's other updates are skipped (None: never).
    normalise_advantage: per minibatch. scale_rewards: divides rewards by the spread of the return.

    A variant overrides one of the equations: `advantage`, `surrogate`, `value_error`; the policy has the entropy.

    Metrics: loss, policy_loss, value_loss (mean squared error), entropy (nats), kl (estimated KL(old ‖ new)), clip_fraction
    (ratios outside 1 ± ε), explained_variance (of R by V before the first update; 1 is perfect), grad_norm.

    Differs from the paper: (1) advantages are normalised per minibatch; (2) the gradient's norm may be clipped; (3) a time
    limit bootstraps from the true final observation; (4) observations and rewards may be scaled by running statistics. All
    but (3) are in the code of OpenAI Baselines and can be switched off.
    """

    policy: Stochastic[Any]

    def __init__(
        self,
        network: ActorCritic,
        policy: Stochastic[Any],
        optimizer: Optimizer,
        *,
        lr: float | Schedule | None = None,
        clip: float | Schedule = 0.2,
        gae_lambda: float = 0.95,
        value_coef: float = 0.5,
        entropy_coef: float = 0.0,
        clip_value: float | None = None,
        target_kl: float | None = None,
        normalise_advantage: bool = True,
        scale_rewards: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= gae_lambda <= 1.0:
            raise ProtoRLError(f"gae_lambda {gae_lambda} is not in [0, 1]")
        self.network: ActorCritic = network
        self.policy, self.optimizer = policy, optimizer
        self.lr = as_schedule(float(optimizer.lr) if lr is None else lr)
        self.clip = as_schedule(clip)
        self.epsilon = torch.tensor(self.clip(0), dtype=torch.float32, device=self.device)
        self.gae_lambda, self.value_coef, self.entropy_coef = gae_lambda, value_coef, entropy_coef
        self.clip_value, self.target_kl, self.normalise_advantage = clip_value, target_kl, normalise_advantage
        self.obs_scalers = [part for part in network.modules() if isinstance(part, ObsScaler)]
        self.reward_scaler = ReturnScaler() if scale_rewards else None
        self.stopped = False  # until the next rollout
        self.explained_variance = torch.zeros((), device=self.device)

    def columns(self, spec: EnvSpec) -> Columns:
        """Besides observation and action, the log-probability of what was done, and V."""
        number = Field(spec.reward_shape, np.dtype(np.float32))
        columns = super().columns(spec)
        return replace(columns, extras={**columns.extras, "log_prob": number, "value": number})

    @property
    def actor(self) -> nn.Module:
        """All of the network: V of what is seen is told while acting, when the base has been through it anyway."""
        return self.network

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        if not explore:
            out, after = self.recall(seen, carry, explore)
            return Act(self.policy.mode(out.policy), after)
        for scaler in self.obs_scalers:
            scaler.refresh()  # not before all updates of a rollout are done
        out, after = self.recall(seen, carry, explore)
        action, log_prob = self.policy.sample(out.policy)
        return Act(action, after, {"log_prob": log_prob, "value": as_numpy(out.value), **self.core.stored(carry)})

    @torch.no_grad()
    def prepare(self, rollout: Batch) -> Batch:
        """Advantages and returns of a rollout [T, N], once before its updates."""
        self.stopped = False
        self.count(rollout)
        next_value = self.successors(rollout)
        rollout = self.seen_by_each(rollout)
        reward, present = rollout.reward, rollout.weight > 0
        if self.reward_scaler is not None:
            reward = self.reward_scaler(reward, rollout.discount, rollout.ended, rollout.weight)
        advantage = self.advantage(rollout, reward, next_value)
        ret = advantage + rollout.value
        error, spread = (column[present].var(0, correction=0) for column in (advantage, ret))
        self.explained_variance = (1 - error / (spread + 1e-8)).mean()
        return Batch(
            {
                "obs": rollout.obs,
                "action": rollout.action,
                "log_prob": rollout.log_prob,
                "advantage": self.combined(advantage),
                "ret": ret,
                "value": rollout.value,
                **{name: rollout.columns[name] for name in self.core.reads},
            }
        )

    def count(self, rollout: Batch) -> None:
        """The observations of a rollout [T, N] are from now on part of what they are scaled by."""
        for scaler in self.obs_scalers:
            scaler.count(visible(rollout.obs)[rollout.weight > 0])

    def seen_by_each(self, rollout: Batch) -> Batch:
        """The rollout as each learner has it: as it is, unless there are several in a row (`MAPPO`)."""
        return rollout

    def successors(self, rollout: Batch) -> torch.Tensor:
        """V of the successors [T, N]. Within an episode a successor is the next row's observation, so only the others (the true
        last observations of episodes and of the rollout) are judged here."""
        last = rollout.ended & (rollout.weight > 0)
        last[-1] = True
        value = rollout.value.roll(-1, 0)
        value[last] = self.core.next_outputs(self.network.critic, rollout, last).value
        return value

    def advantage(self, rollout: Batch, reward: torch.Tensor, next_value: torch.Tensor) -> torch.Tensor:
        """A of a rollout [T, N] by generalised advantage estimation, from rewards (maybe scaled) and V of the successors."""
        return gae(reward, rollout.discount, rollout.ended, rollout.value, next_value, self.gae_lambda)

    def combined(self, advantage: torch.Tensor) -> torch.Tensor:
        """What the policy climbs [T, N]: the advantage, unless there are several (`RND`)."""
        return advantage

    def surrogate(self, log_ratio: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
        """min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) [B], given log ρ [B]."""
        return clipped_surrogate(log_ratio, advantage, self.epsilon)

    def value_error(self, value: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(V - R)² [B], or the larger of it and that of a V which moved no further than `clip_value`."""
        if self.clip_value is None:
            return (value - batch.ret).square()
        return clipped_value_error(value, batch.value, batch.ret, self.clip_value)

    def share(self, batch: Batch) -> torch.Tensor:
        """How much each example counts in a mean, flat [B]."""
        share: torch.Tensor = batch.weight.reshape(-1) / batch.weight.numel()
        return share

    def surprise(self, batch: Batch) -> torch.Tensor:
        """|A| [B], for whoever asks for a priority."""
        size: torch.Tensor = batch.advantage.abs()
        return size

    def learn(self, batch: Batch) -> Update:
        out, share = self.core.outputs(self.network, batch), self.share(batch)

        def mean(x: torch.Tensor) -> torch.Tensor:
            return torch.dot(share, x.reshape(-1))

        log_ratio = self.policy.log_prob(out.policy, batch.action) - batch.log_prob
        advantage = standardise(batch.advantage, share) if self.normalise_advantage else batch.advantage
        surrogate, value_error = self.surrogate(log_ratio, advantage), self.value_error(out.value, batch)
        entropy = self.policy.entropy(out.policy)
        objective = surrogate - self.value_coef * value_error + self.entropy_coef * entropy
        loss = -mean(objective)
        grad_norm = self.optimizer.step(loss)
        with torch.no_grad():
            metrics = {
                "loss": loss.detach(),
                "policy_loss": -mean(surrogate),
                "value_loss": mean(value_error),
                "entropy": mean(entropy),
                "kl": mean(kl_estimate(log_ratio)),
                "clip_fraction": mean(((log_ratio.exp() - 1).abs() > self.epsilon).float()),
            }
        if grad_norm is not None:
            metrics["grad_norm"] = grad_norm
        return Update(self.surprise(batch), metrics)

    def update(self, batch: Batch) -> Update:
        if self.stopped:
            self.updates += 1
            return Update(self.surprise(batch), {})
        self.optimizer.lr.fill_(self.lr(self.updates))
        self.epsilon.fill_(self.clip(self.updates))
        update = super().update(batch)
        self.stopped = self.target_kl is not None and update.metrics["kl"].item() > 1.5 * self.target_kl
        return update._replace(metrics={**update.metrics, "explained_variance": self.explained_variance})
