"""DDPG, TD3 and SAC in environments whose values are known: the critics' numbers, and where the actor goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.recipes import RECIPES
from tests.probe.test_values import GAMMA, close

SHARED: dict[str, Any] = {
    "widths": (16,), "activation": "tanh", "lr": 2e-2, "batch_size": 32, "warmup_steps": 32, "gamma": GAMMA,
    "capacity": 1_000, "tau": 0.1,
}  # fmt: skip
FAMILY: dict[str, dict[str, Any]] = {
    "ddpg": {"actor_lr": 1e-3, "weight_decay": 0.0, "noise_std": 0.5, "action_layer": 1},
    "td3": {"noise_std": 0.5},
    "sac": {"alpha": 1e-3, "alpha_lr": None},
}
BANDIT: dict[str, Any] = {"widths": (64,), "activation": "relu", "lr": 1e-2, "actor_lr": 5e-3}
ACTIONS = torch.tensor([-0.8, 0.0, 0.8])


def trained(name: str, probe: str, updates: int, **fields: Any) -> Any:
    """The agent after so many updates; a value probe's action, which means nothing there, is a number."""
    recipe = RECIPES[name](**{**SHARED, **FAMILY[name], "env": f"protorl/{probe}-v0", "steps": updates + 32, **fields})
    agent, memory, actors = recipe.build()
    torch.manual_seed(0)  # the noise of the updates
    prl.train(accelerate(agent), memory, actors, steps=recipe.steps)
    return agent


def q_values(name: str, probe: str, updates: int, *obs: float, **fields: Any) -> Any:
    """Q(o, a) of each critic, for observations [O] and a few actions: [K, O, 3]; all actions are worth the same."""
    agent = trained(name, probe, updates, **{"env_kwargs": {"continuous": True}, **fields})
    pairs = torch.cartesian_prod(torch.tensor(obs), ACTIONS)
    with torch.no_grad():
        return agent.critic(pairs[:, :1], pairs[:, 1:]).unflatten(1, (len(obs), 3)).numpy()


def right(q: Any, *values: float, tolerance: float) -> None:
    """Every critic's value of every action is the observation's."""
    close(q, np.broadcast_to(np.array(values)[:, None], q.shape), tolerance)


@pytest.mark.parametrize("name", FAMILY)
def test_constant_reward(name: str) -> None:
    right(q_values(name, "ConstantReward", 200, 0.0), 1.0, tolerance=0.05)


@pytest.mark.parametrize("name", FAMILY)
def test_reward_that_depends_on_the_observation(name: str) -> None:
    right(q_values(name, "ObservationReward", 250, -1.0, 1.0), -1.0, 1.0, tolerance=0.05)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("fields", [{}, {"n_step": 3, "per_alpha": 0.6}], ids=["one-step", "n-step, prioritized"])
def test_delayed_reward_is_discounted(name: str, fields: dict[str, Any]) -> None:
    right(q_values(name, "DelayedReward", 400, 0.0, 1.0, **fields), GAMMA, 1.0, tolerance=0.06)


@pytest.mark.parametrize("name", FAMILY)
def test_a_time_limit_is_not_an_end(name: str) -> None:
    """1 / (1 - gamma) = 10; with the limit taken for a termination it would be 5.26."""
    right(q_values(name, "TimeLimitReward", 500, 0.0, tau=0.2), 10.0, tolerance=0.3)


@pytest.mark.parametrize("name", FAMILY)
def test_the_best_action_is_found_in_the_environments_units(name: str) -> None:
    """Reward -(a - 0.6)^2 for a in [-2, 2]: the actor's action, as the environment takes it, is 0.6."""
    agent = trained(name, "GaussianBandit", 600, **BANDIT)
    action = agent.act(prl.make_vec_envs("protorl/GaussianBandit-v0").seen, explore=False).action
    close(2.0 * action, [[0.6]], 0.1)
    with torch.no_grad():  # in the agent's units the reward is -(2 a - 0.6)^2
        q = agent.critic(torch.zeros(3, 1), torch.tensor([[0.0], [0.3], [0.6]]))
    close(q, [[-0.36, 0.0, -0.36]] * len(q), 0.1)


def test_soft_values_count_the_entropy() -> None:
    """With a fixed temperature the best is also random: pi ~ exp(-(2a - 0.6)^2 / alpha), deviation sqrt(alpha / 8) in a."""
    alpha = 0.1
    agent = trained("sac", "GaussianBandit", 600, **BANDIT, alpha=alpha)
    actions = agent.sample(torch.zeros(4_000, 1), torch.randn(4_000, 1, generator=torch.Generator().manual_seed(1)))[0]
    close(2.0 * actions.mean().detach(), 0.6, 0.1)
    close(actions.std().detach(), np.sqrt(alpha / 8), 0.03)


def test_the_temperature_holds_the_entropy_at_its_target() -> None:
    agent = trained("sac", "GaussianBandit", 600, **BANDIT, alpha=1.0, alpha_lr=2e-2, target_entropy=-1.0)
    log_prob = agent.sample(torch.zeros(4_000, 1), torch.randn(4_000, 1, generator=torch.Generator().manual_seed(1)))[1]
    close(-log_prob.mean().detach(), -1.0, 0.2)
