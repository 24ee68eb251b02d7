"""Random Network Distillation.

Burda, Edwards, Storkey and Klimov 2018, "Exploration by random network distillation", arXiv 1810.12894, Algorithm 1:

    i_t = ‖f̂(s_{t+1}; θ) - f(s_{t+1})‖²,     divided by the deviation of  R_t = γ_I R_{t-1} + i_t
    A = c_E A_E + c_I A_I,     A_E with γ_E, by episodes;  A_I with γ_I, on through their ends
    minimise  i  in θ,         on a share of the samples

on PPO (`RND`), or paid to any agent that learns from a replay memory (`curious`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from protorl.agents.agent import Agent
from protorl.agents.ppo import PPO
from protorl.agents.state import Built
from protorl.data import Act, Batch, Carry, Columns, EnvSpec, Field, ProtoRLError, Seen, Update
from protorl.functional import gae
from protorl.networks import ActorCritic, Optimizer, RandomDistillation, ReturnScaler
from protorl.networks.distillation import RunningMoments
from protorl.policies import Stochastic, UniformActions

AT_ONCE = 1 << 24
"""Numbers in the frames that are judged in one call: those of a rollout of images, with all features, would not fit."""


class RND(PPO):
    """PPO with two streams of reward, of which the environment pays one and the agent itself the other: for what is new.

    network: as PPO's, with two values (`ValueHead(streams=2)`): of the reward, and of the intrinsic reward. distillation: says
    how new an observation is. predictor_optimizer: of `distillation.predictor`. random: actions of the warm-up.
    gae_lambda, and of the other stream intrinsic_lambda: λ. intrinsic_gamma: γ_I; γ_E comes with the batch. extrinsic_coef,
    intrinsic_coef: c_E, c_I. predictor_share: of the examples of an update that θ learns from, in (0, 1]. warmup_rollouts: at
    first so many rollouts are random and teach nobody but the moments of the distillation's observations. normalise_advantage:
    as PPO's, but not at first: once all is known and paid alike, scaled to one it would be noise. ppo: PPO's own arguments.

    A variant overrides PPO's equations or `intrinsic`. Metrics, besides PPO's: predictor_loss (mean error of the share),
    intrinsic (mean intrinsic reward of the rollout, scaled). explained_variance is the mean of both streams'.

    Differs from the paper: (1) as PPO, but for the advantages; (2) the warm-up's steps count as steps; (3) θ has an optimizer
    of its own, with PPO's learning rate at the start; (4) θ learns from as many examples of each update, drawn without
    replacement, where the authors' code lets each of them in by chance: so the others need not go through the networks.
    """

    def __init__(
        self,
        network: ActorCritic,
        policy: Stochastic[Any],
        optimizer: Optimizer,
        *,
        distillation: RandomDistillation,
        predictor_optimizer: Optimizer,
        random: UniformActions,
        intrinsic_gamma: float = 0.99,
        intrinsic_lambda: float = 0.95,
        extrinsic_coef: float = 2.0,
        intrinsic_coef: float = 1.0,
        predictor_share: float = 0.25,
        warmup_rollouts: int = 1,
        normalise_advantage: bool = False,
        **ppo: Any,
    ) -> None:
        super().__init__(network, policy, optimizer, normalise_advantage=normalise_advantage, **ppo)
        for name, value in (
            ("intrinsic_gamma", intrinsic_gamma), ("intrinsic_lambda", intrinsic_lambda), ("predictor_share", predictor_share),
        ):  # fmt: skip
            if not 0.0 <= value <= 1.0:
                raise ProtoRLError(f"{name} {value} is not in [0, 1]")
        if not predictor_share:
            raise ProtoRLError("predictor_share 0 leaves nothing to learn from: use predictor_lr=0 for a predictor that stays")
        self.distillation, self.predictor_optimizer, self.random = distillation, predictor_optimizer, random
        self.intrinsic_gamma, self.intrinsic_lambda = intrinsic_gamma, intrinsic_lambda
        self.extrinsic_coef, self.intrinsic_coef = extrinsic_coef, intrinsic_coef
        self.predictor_share, self.warmup_rollouts = predictor_share, warmup_rollouts
        self.intrinsic_scaler = ReturnScaler(clip=np.inf)
        self.at_once = max(AT_ONCE // math.prod(distillation.shape), 1)
        self.rollouts = 0
        self.mean_intrinsic = torch.zeros((), device=self.device)

    def columns(self, spec: EnvSpec) -> Columns:
        """As PPO, with both values."""
        columns = super().columns(spec)
        return replace(columns, extras={**columns.extras, "value": Field((2,), np.dtype(np.float32))})

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        act = super().act(seen, carry, explore=explore)
        if explore and self.rollouts < self.warmup_rollouts:
            return act._replace(action=self.random(len(seen.first)))
        return act

    @torch.no_grad()
    def prepare(self, rollout: Batch) -> Batch:
        self.rollouts += 1
        if self.rollouts > self.warmup_rollouts:
            prepared = super().prepare(rollout).replace(successor=self.distillation.newest(rollout.next_obs))
        else:
            self.stopped = True
            prepared = Batch({"advantage": torch.zeros_like(rollout.reward)})
        for some, weight in zip(self.pieces(rollout), torch.split(rollout.weight.flatten(), self.at_once)):
            self.distillation.count(some, weight)
        return prepared

    def pieces(self, rollout: Batch) -> tuple[Tensor, ...]:
        """What the distillation looks at: the newest frames of the successors [T N, *F], not too many at once."""
        return torch.split(self.distillation.newest(rollout.next_obs).flatten(0, 1), self.at_once)

    def intrinsic(self, rollout: Batch) -> Tensor:
        """i_t [T, N], divided by the deviation of its discounted sum along time."""
        error = torch.cat([self.distillation(some) for some in self.pieces(rollout)]).reshape(rollout.weight.shape)
        discount, never = torch.full_like(error, self.intrinsic_gamma), torch.zeros_like(rollout.ended)
        return self.intrinsic_scaler(error, discount, never, rollout.weight)

    def advantage(self, rollout: Batch, reward: Tensor, next_value: Tensor) -> Tensor:
        """A_E and A_I [T, N, 2]. To A_I an episode's end is nothing: the successor of its last row is the next row."""
        episodic = gae(reward, rollout.discount, rollout.ended, rollout.value[..., 0], next_value[..., 0], self.gae_lambda)
        paid, value = self.intrinsic(rollout), rollout.value[..., 1]
        following = torch.cat([value[1:], next_value[-1:, :, 1]])
        discount, never = torch.full_like(paid, self.intrinsic_gamma), torch.zeros_like(rollout.ended)
        flowing = gae(paid, discount, never, value, following, self.intrinsic_lambda)
        self.mean_intrinsic = (rollout.weight * paid).sum() / rollout.weight.sum()
        return torch.stack([episodic, flowing], -1)

    def combined(self, advantage: Tensor) -> Tensor:
        """c_E A_E + c_I A_I: [T, N, 2] -> [T, N]."""
        return self.extrinsic_coef * advantage[..., 0] + self.intrinsic_coef * advantage[..., 1]

    def value_error(self, value: Tensor, batch: Batch) -> Tensor:
        """The sum of both values' errors [B]."""
        return super().value_error(value, batch).sum(-1)

    def drawn(self, batch: Batch) -> Batch:
        """With the examples that θ learns from: places among all of them, [k], as int64."""
        n = batch.weight.numel()
        shown = torch.randperm(n, device=batch.weight.device)[: max(round(self.predictor_share * n), 1)]
        return batch.replace(shown=shown)

    def learn(self, batch: Batch) -> Update:
        update = super().learn(batch)
        frames = batch.successor.flatten(0, batch.weight.dim() - 1)
        loss = self.distillation.loss(frames[batch.shown], batch.weight.flatten()[batch.shown])
        self.predictor_optimizer.step(loss)
        return update._replace(metrics={**update.metrics, "predictor_loss": loss.detach()})

    def update(self, batch: Batch) -> Update:
        update = super().update(batch)
        return update._replace(metrics={**update.metrics, "intrinsic": self.mean_intrinsic}) if update.metrics else update


class Novelty:
    """What `curious` pays for the last observation of each example: coef · error / (deviation of all errors sampled so far).

    distillation: says how new it is. optimizer: of `distillation.predictor`. coef: in units of the reward.
    """

    def __init__(self, distillation: RandomDistillation, optimizer: Optimizer, coef: float = 1.0) -> None:
        self.distillation, self.optimizer, self.coef = distillation, optimizer, coef
        self.errors = RunningMoments().to(optimizer.flat.buffer.device)

    def judged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The newest frames that pay [B, *F], and their weights [B]; of sequences the successor of each row, [T, B, *F]."""
        if "next_obs" in batch.columns:
            return self.distillation.newest(batch.next_obs), batch.weight
        frames = self.distillation.newest(batch.seen.obs)
        return frames[batch.successor, torch.arange(frames.shape[1], device=frames.device)], batch.mask * batch.weight

    def reward(self, batch: Batch) -> Tensor:
        """What the examples are paid, as their reward, by all that was learned so far."""
        with torch.no_grad():
            error = self.distillation(self.judged(batch)[0])
        return self.coef * error / self.errors.deviation

    def learn(self, batch: Batch) -> Update:
        """The same, and θ learns from the examples; the moments have counted them before."""
        frames, weight = self.judged(batch)
        self.distillation.count(frames, weight)
        error = self.distillation(frames)
        self.errors.count(error.detach(), weight)
        loss = (weight * error).mean()
        self.optimizer.step(loss)
        paid = self.coef * error.detach() / self.errors.deviation
        return Update(paid, {"predictor_loss": loss.detach(), "intrinsic": paid.mean()})


def rewarded(batch: Batch, pay: Tensor) -> Batch:
    """The batch with so much more reward in each row; for each agent of a team, where there are several."""
    return batch.replace(reward=batch.reward + pay.reshape(*pay.shape, *[1] * (batch.reward.dim() - pay.dim())))


class Curious(Agent):
    """Mixed into an agent's class by `curious`."""

    novelty: Novelty

    def learn_novelty(self, batch: Batch) -> Update:
        """One step of the predictor; its priority is what the examples are paid. Tensors only."""
        return self.novelty.learn(batch)

    def paid(self, batch: Batch) -> Batch:
        return rewarded(batch, self.novelty.reward(batch))

    def update(self, batch: Batch) -> Update:
        told = self.learn_novelty(batch)
        update = super().update(rewarded(batch, told.priority))
        return update._replace(metrics={**update.metrics, **told.metrics})


@cache
def curious_class(plain: type[Agent]) -> type[Agent]:
    """The class of an agent that is `plain`, and curious."""
    body = {"__module__": plain.__module__, "__doc__": plain.__doc__, "pure": (*plain.pure, "learn_novelty")}
    return type(f"Curious{plain.__name__}", (Curious, plain), body)


A = TypeVar("A", bound=Agent)


def curious(agent: A, novelty: Novelty) -> A:
    """The same agent, any that learns from a replay memory; from now on `novelty` is added to the reward of what it samples.

    Of an n-step example the last observation pays, once; of a sequence each row's successor. The sum has one value and one
    discount, the agent's own, and ends with the episode; first priorities (`FirstPriorities`) count it. Checkpoints hold what
    it remembers. In a team each agent is paid it.

    Differs from the paper: there is no stream of its own, since what is sampled stands in no order of time: hence the deviation
    is of the errors, not of their discounted sum; and all that was sampled teaches the predictor.
    """
    changed: Any = agent
    changed.__class__ = curious_class(type(agent))
    changed.novelty = novelty
    changed.built = Built(agent)
    return agent
