"""Environments whose values are known: PPO must find the numbers, the critic's and the policy's."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import protorl as prl
from protorl.envs import probes
from tests.probe.test_values import GAMMA, close

SMALL: dict[str, Any] = {
    "num_envs": 4, "rollout_steps": 32, "batch_size": 64, "epochs": 4, "lr": 1e-2, "gamma": GAMMA, "widths": (16,),
    "max_grad_norm": None,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"normalise_obs": True, "share_base": True},
    "next-step": {},  # environments that spend a step on each reset
}


def learned(probe: Any, rollouts: int, how: str = "plain", **fields: Any) -> Any:
    """An agent after so many rollouts of 128 steps."""
    recipe = prl.recipes.PPO(**{**SMALL, **NETWORKS[how], "env": probe.__name__, "steps": rollouts * 128, **fields})
    if how == "next-step":
        env = prl.from_vector(gymnasium.vector.SyncVectorEnv([probe] * recipe.num_envs))
    else:
        env = prl.make_vec_envs(probe, recipe.num_envs)
    agent, memory, actors = recipe.assemble(env)
    prl.train(agent, memory, actors, steps=recipe.steps)
    return agent


def out(agent: Any, *obs: float) -> Any:
    """Policy and values for observations of one number."""
    with torch.no_grad():
        return agent.network(torch.tensor(obs).reshape(len(obs), 1))


def values(agent: Any, *obs: float) -> Any:
    return out(agent, *obs).value


def probabilities(agent: Any, *obs: float) -> Any:
    return out(agent, *obs).policy.logits.softmax(-1)


every_network = pytest.mark.parametrize("how", NETWORKS)


@every_network
def test_constant_reward(how: str) -> None:
    close(values(learned(probes.ConstantReward, 12, how), 0), [1.0])


@every_network
def test_reward_that_depends_on_the_observation(how: str) -> None:
    close(values(learned(probes.ObservationReward, 15, how), -1, 1), [-1.0, 1.0])


@every_network
def test_delayed_reward_is_discounted(how: str) -> None:
    close(values(learned(probes.DelayedReward, 15, how), 0, 1), [GAMMA, 1.0])


@every_network
def test_reward_that_depends_on_the_action(how: str) -> None:
    agent = learned(probes.ActionReward, 20, how)
    assert probabilities(agent, 0)[0, 1] > 0.99
    close(values(agent, 0), [1.0], tolerance=0.05)


@every_network
def test_reward_that_depends_on_the_observation_and_the_action(how: str) -> None:
    agent = learned(probes.ObservationActionReward, 30, how)
    assert probabilities(agent, 0, 1).diagonal().min() > 0.99
    close(values(agent, 0, 1), [1.0, 1.0], tolerance=0.05)


@every_network
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_a_time_limit_is_not_an_end(how: str, gae_lambda: float) -> None:
    """1 / (1 - gamma) = 10; with the limit taken for a termination it would be 5 to 6."""
    agent = learned(probes.TimeLimitReward, 30, how, gae_lambda=gae_lambda, lr=3e-2)
    close(values(agent, 0), [10.0], tolerance=0.3)


@every_network
def test_values_count_only_what_follows_in_the_episode(how: str) -> None:
    """Rewards 1, 2, 3 and an end; a reset observation taken for a successor would carry the next episode's value back."""
    agent = learned(probes.Counter, 25, how, lr=2e-2, epochs=8)
    close(values(agent, 0, 1, 2), [1 + 2 * GAMMA + 3 * GAMMA**2, 2 + 3 * GAMMA, 3.0], tolerance=0.1)


@pytest.mark.parametrize("entropy_coef", [0.0, 20.0])
def test_entropy_keeps_the_policy_open(entropy_coef: float) -> None:
    """The maximum of E[A] + c H is where the logits differ by 2 / c (advantages are ±1 after normalisation)."""
    p = float(probabilities(learned(probes.ActionReward, 20, entropy_coef=entropy_coef), 0)[0, 1])
    if entropy_coef:
        assert 0.5 <= p < 0.56
    else:
        assert p > 0.99


@pytest.mark.parametrize("distribution", ["gaussian", "beta"])
@pytest.mark.parametrize("how", ["plain", "scaled"])
def test_the_mean_action_is_found_in_the_environments_units(distribution: str, how: str) -> None:
    """Reward -(a - 0.6)² with a in [-2, 2]: 0.3 on the agent's [-1, 1]; V is the mean reward of the policy as it samples."""
    agent = learned(probes.GaussianBandit, 30, how, distribution=distribution, log_std=-1.0)
    env = prl.make_vec_envs(probes.GaussianBandit, 1)
    action = agent.act(env.seen, explore=False).action
    assert 2 * action[0, 0] == pytest.approx(0.6, abs=0.1)
    assert prl.evaluate(agent, env, 1).mean > -0.01
    torch.manual_seed(0)
    with torch.no_grad():
        params = type(out(agent, 0).policy)(*(part.expand(4_000, 1) for part in out(agent, 0).policy))
        noise = (torch.randn(4_000, 1),) if distribution == "gaussian" else ()
        action = 2 * agent.policy.rsample(params, *noise).clamp(-1, 1)
        mean_reward = float(-(action - 0.6).square().mean())
    assert mean_reward > -0.5
    close(values(agent, 0), [mean_reward], tolerance=0.05)


class TwoChoices(probes.Probe):
    """One step, two choices at once; each that is right, 1 of 2 and 2 of 3, pays 1."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.MultiDiscrete([2, 3])

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), float(action[0] == 1) + float(action[1] == 2), True, False, {}


def test_several_choices_are_learned_each() -> None:
    agent = learned(TwoChoices, 25)
    chances = probabilities(agent, 0)[0]
    assert chances[0, 1] > 0.98
    assert chances[1, 2] > 0.98
    close(values(agent, 0), [2.0], tolerance=0.06)
