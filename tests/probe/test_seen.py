"""Agents that see what they did before, or pay themselves a bonus, learn the known values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import protorl as prl
from protorl.data import Act, Batch, Seen
from tests.probe.test_values import SMALL


class Alternate(gymnasium.Env[Any, Any]):
    """Nothing is shown; an action other than the one before is worth 1 (before the first one comes a 0). Cut after 8 steps."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.last, self.t = 0, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        reward, self.last, self.t = float(action != self.last), int(action), self.t + 1
        return np.zeros(1, np.float32), reward, False, self.t == 8, {}


class Recalling(prl.DQN):
    """DQN on the previous action and reward besides the observation."""

    def columns(self, spec: prl.EnvSpec) -> prl.Columns:
        return replace(super().columns(spec), extras={"before": prl.Field((2,), np.dtype(np.float32))})

    def act(self, seen: Seen, carry: Any = (), *, explore: bool) -> Act:
        before = np.stack([seen.action, seen.reward], -1).astype(np.float32)
        act = super().act(seen._replace(obs=np.concatenate([seen.obs, before], -1)), carry, explore=explore)
        return act._replace(extras={"before": before})

    def learn(self, batch: Batch) -> prl.Update:
        obs = torch.cat([batch.obs, batch.before], -1)
        next_obs = torch.cat([batch.next_obs, batch.action[:, None], batch.reward[:, None]], -1)
        return super().learn(batch.replace(obs=obs, next_obs=next_obs))


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_the_previous_action_is_known(mode: str) -> None:
    """gamma = 1/2: Q is 2 for the other action than before, 1 for the same."""
    env = prl.from_vector(SyncVectorEnv([Alternate] * 2, autoreset_mode=AutoresetMode[mode]))
    wide = replace(env.spec.obs, shape=(3,), low=None, high=None)  # type: ignore[type-var]
    with prl.rng.torch_stream(0, "probe"):
        network = prl.Network(prl.MLP(wide, [16], activation="tanh"), prl.QHead(env.spec.action))
    policy = prl.EpsilonGreedy(env.spec.action, 1.0, rows=env.lanes)
    agent = Recalling(network, policy, prl.Adam(network, 2e-2), target_every=10)
    memory = prl.Replay(agent.columns(env.spec), 500, view=prl.OneStep(0.5), rate=prl.Rate(32, 1))
    prl.train(agent, memory, prl.LocalActors(agent, env), steps=400)
    x = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]], np.float32)
    np.testing.assert_allclose(agent.infer(x, False).q, [[1, 2], [1, 2], [2, 1], [2, 1]], atol=0.1)
    assert prl.evaluate(agent, env, 4).returns == (8.0,) * 4


class Curious(prl.DQN):
    """DQN that is paid 1/sqrt(n) more where it arrives for the n-th time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.visits = np.zeros(4)

    def annotate(self, step: prl.Step, carry: Any) -> Any:
        bonus = np.zeros_like(step.reward)
        for i in np.flatnonzero(step.valid):
            state = int(step.next_obs[i, 0])  # type: ignore[call-overload]
            self.visits[state] += 1
            bonus[i] = self.visits[state] ** -0.5
        return step._replace(reward=step.reward + bonus), carry


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_a_bonus_is_learned_with_priorities_and_three_steps(mode: str) -> None:
    """Each state is reached once an episode, and three steps reach its end: Q is the mean of what was paid."""
    recipe = prl.recipes.DQN(**{**SMALL, "env": "protorl/Counter-v0", "n_step": 3, "per_alpha": 0.6, "per_beta": 1.0})
    makers = [lambda: prl.make_env("protorl/Counter-v0")] * 2
    env = prl.from_vector(SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode]))
    plain, memory, _ = recipe.assemble(env)
    agent = Curious(plain.network, plain.policy, prl.Adam(plain.network, 2e-2), target_every=10)
    prl.train(agent, memory, prl.LocalActors(agent, env), steps=240)
    for _ in range(400):
        agent.optimizer.lr.fill_(2e-3)
        batch = memory.sample()
        memory.feedback(batch, agent.update(batch).priority)
    assert agent.visits.tolist() == [0, 80, 80, 80]
    bonus = np.mean(np.arange(1, 81) ** -0.5)
    paid = [t + 1 + bonus for t in range(3)]
    expected = [np.polynomial.polynomial.polyval(0.9, paid[t:]) for t in range(3)]
    q = agent.infer(np.arange(3, dtype=np.float32)[:, None], False).q
    np.testing.assert_allclose(q, np.stack([expected] * 2, 1), atol=0.1)
