"""One update of MAPPO equals TorchRL's: same weights, same rollout, same advantages, loss and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import protorl as prl
from protorl.recipes import RECIPES

pytest.importorskip("torchrl", reason="parity needs torchrl")

from tests.parity.test_torchrl_qmix import AGENTS, GAMMA, Random

STEPS, TEAMS, LAMBDA = 24, 2, 0.9


def ours() -> tuple[Any, prl.Batch, prl.Batch]:
    """An agent that has acted for a rollout and learned nothing, the rollout, and what it learns from."""
    recipe: Any = RECIPES["mappo"](
        env="protorl/TwoStepGame-v0", num_envs=TEAMS, rollout_steps=STEPS, batch_size=STEPS * TEAMS, epochs=1, widths=(16,),
        gamma=GAMMA, gae_lambda=LAMBDA, normalise_value="none", clip_value=None, normalise_advantage=False, entropy_coef=0.02,
    )  # fmt: skip
    agent, memory, actors = recipe.assemble(prl.make_vec_envs(Random, TEAMS, as_teams=True))
    rollouts: list[Any] = []
    prepare = agent.prepare
    agent.prepare = lambda rollout: (rollouts.append(rollout), prepare(rollout))[1]
    batches: list[Any] = []
    agent.learn = lambda batch: (batches.append(batch), prl.Update(batch.weight, {}))[1]
    prl.train(agent, memory, actors, steps=STEPS * TEAMS)
    del agent.learn, agent.prepare
    (rollout,), (batch,) = rollouts, batches
    with torch.no_grad():  # so that ratios are not 1
        for parameter in agent.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent, rollout, batch


def test_advantages_are_theirs() -> None:
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    agent, rollout, _ = ours()
    with torch.no_grad():
        following = agent.successors(rollout)
    found = agent.prepare(rollout).advantage  # [T, N, M]; of the critic as it is now, in both
    done, terminated = (column.unsqueeze(-1).expand_as(rollout.reward) for column in (rollout.ended, rollout.discount == 0))
    numbers = (rollout.value, following, rollout.reward)
    given = [column.transpose(0, 1).contiguous() for column in (*numbers, done, terminated)]
    theirs, target = generalized_advantage_estimate(GAMMA, LAMBDA, *given)
    assert done.any()
    assert_close(found, theirs.transpose(0, 1), atol=1e-5, rtol=1e-5)
    assert_close(found + rollout.value, target.transpose(0, 1), atol=1e-5, rtol=1e-5)


class Logits(nn.Module):
    def __init__(self, actor: nn.Module) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: Tensor) -> Tensor:
        logits: Tensor = self.actor({"obs": obs, "alive": torch.ones(obs.shape[:2])}).logits
        return logits


class Values(nn.Module):
    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, state: Tensor) -> Tensor:
        value: Tensor = self.critic({"state": state}).value
        return value.unsqueeze(-1)


def test_one_update_is_theirs() -> None:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss

    agent, _, batch = ours()
    losses: list[Tensor] = []
    agent.optimizer.step = lambda loss: losses.append(loss)
    agent.learn(batch)
    actor = ProbabilisticActor(
        TensorDictModule(Logits(agent.network.actor), ["observation"], ["logits"]),
        in_keys=["logits"], distribution_class=torch.distributions.Categorical, return_log_prob=True,
    )  # fmt: skip
    critic = TensorDictModule(Values(agent.network.critic), ["state"], ["state_value"])
    module = ClipPPOLoss(
        actor, critic, clip_epsilon=0.2, entropy_coeff=0.02, critic_coeff=0.5, loss_critic_type="l2",
        normalize_advantage=False, functional=False,
    )  # fmt: skip
    given = {
        "observation": batch.obs["obs"], "state": batch.obs["state"], "action": batch.action,
        module.tensor_keys.sample_log_prob: batch.log_prob, "advantage": batch.advantage.unsqueeze(-1),
        "value_target": batch.ret.unsqueeze(-1),
    }  # fmt: skip
    told = module(TensorDict(given, batch_size=[len(batch)]))
    theirs = told["loss_objective"] + told["loss_critic"] + told["loss_entropy"]
    assert batch.action.shape == (STEPS * TEAMS, AGENTS)
    assert_close(losses[0], theirs, atol=1e-6, rtol=1e-5)
    parameters = list(agent.network.parameters())
    for one, other in zip(torch.autograd.grad(losses[0], parameters), torch.autograd.grad(theirs, parameters)):
        assert_close(one, other, atol=1e-6, rtol=1e-4)
