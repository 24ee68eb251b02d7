"""Actions that are not available are not taken, not preferred, and not expected of the future."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import protorl as prl
from protorl.accelerate import accelerate
from protorl.data import MASK, ActionSpec, Batch, Seen, visible
from protorl.envs import RandomActions, make_vec_envs
from protorl.networks import QOut, masked
from protorl.policies import Categorical, EpsilonGreedy, Greedy, Warmup
from tests.contract.cases import small

ACTION = ActionSpec("discrete", (), np.dtype(np.int64), n=4)
FAMILY = ("dqn", "double-dqn", "d3qn", "munchausen-dqn", "rainbow", "qr-dqn", "iqn")


class Corridor(gymnasium.Env):  # type: ignore[type-arg]
    """At place t only the actions t and t + 1 (modulo 4) are available, as the info tells; another one is refused."""

    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {MASK: self.mask()}

    def mask(self) -> Any:
        mask = np.zeros(4, np.int8)
        mask[[self.t % 4, (self.t + 1) % 4]] = 1
        return mask

    def step(self, action: int) -> Any:
        assert self.mask()[action]
        self.t += 1
        return np.full(1, self.t, np.float32), float(action == (self.t - 1) % 4), self.t == 9, False, {MASK: self.mask()}


@pytest.mark.parametrize("name", [*FAMILY, "ppo"])
def test_every_discrete_recipe_takes_what_is_available(name: str) -> None:
    recipe = small(name, env="CartPole-v1", steps=200, num_envs=2, eval_every=0)
    env = make_vec_envs(Corridor, 2)
    agent, memory, actors = recipe.assemble(env)
    prl.train(accelerate(agent), memory, actors, steps=200)  # the corridor refuses what is not
    for _ in range(12):
        env.step(agent.act(env.seen, explore=False).action)


def test_the_mask_is_in_the_observation_and_random_actions_heed_it() -> None:
    env = RandomActions(make_vec_envs(Corridor, 3), 1.0)
    assert env.spec.obs[MASK].shape == (4,)
    assert visible(env.spec.obs).shape == (1,)
    assert env.reset(seed=0)[MASK].tolist() == [[1, 1, 0, 0]] * 3
    taken = [env.step(np.zeros(3, np.int64)).action for _ in range(18)]
    assert len({(t % 9 % 4, int(a)) for t, row in enumerate(taken) for a in row}) == 8  # both, everywhere


def test_environments_without_a_mask_have_none() -> None:
    assert not isinstance(make_vec_envs("FrozenLake-v1").spec.obs, dict)
    assert MASK in make_vec_envs("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3").spec.obs


def test_explorers_draw_evenly_from_what_is_available() -> None:
    mask = np.repeat(np.array([[0, 1, 0, 1], [1, 1, 1, 1]], np.uint8), 500, 0)
    q = masked(QOut(torch.zeros(1_000, 4)), {MASK: torch.from_numpy(mask)})
    for policy in (EpsilonGreedy(ACTION, 1.0), Warmup(Greedy(ACTION), ACTION, 10_000)):
        found: Any = policy(q)  # type: ignore[arg-type]
        first, second = (np.bincount(half, minlength=4) for half in np.split(found, 2))
        assert first[[0, 2]].sum() == 0
        assert first[[1, 3]].min() > 200
        assert second.min() > 90
    out = prl.networks.CategoricalOut(torch.zeros(1_000, 4))
    action, log_prob = Categorical(ACTION).sample(masked(out, {MASK: torch.from_numpy(mask)}))
    assert mask[np.arange(1_000), action].all()
    np.testing.assert_allclose(log_prob, np.log(np.repeat([0.5, 0.25], 500)), rtol=1e-6)


def test_without_a_mask_nothing_changes() -> None:
    """The draws of an explorer to whom everything is available are those of one that knows no masks."""
    u = np.random.default_rng(0).random((1_000, 1))
    np.testing.assert_array_equal(ACTION.uniform(u), ACTION.uniform(u, np.ones((1_000, 4), np.uint8)))
    out = QOut(torch.zeros(3, 4))
    assert masked(out, torch.zeros(3, 1)) is out


@pytest.mark.parametrize("name", FAMILY)
def test_targets_expect_only_what_is_available(name: str) -> None:
    """Values of actions that are not available, at the next observation, are worth nothing: however large they get, neither
    loss nor priority changes."""
    heads: Any = {
        "d3qn": {"head": "q"},
        "rainbow": {"head": "q", "noisy": False},
    }  # a dueling head subtracts the mean over all actions
    recipe = small(name, env="CartPole-v1", widths=(8,), **heads.get(name, {}))
    agent: Any = recipe.build_agent(make_vec_envs(Corridor).spec)
    rng, forbidden = np.random.default_rng(2), 2
    mask = rng.integers(0, 2, (16, 4)).astype(np.uint8)
    mask[:, forbidden], mask[:, 3] = 0, 1
    here, there = ({"obs": torch.from_numpy(rng.random((16, 1), np.float32)), MASK: torch.from_numpy(mask)} for _ in range(2))
    batch = Batch({
        "obs": here, "next_obs": there, "action": torch.full((16,), 3), "reward": torch.ones(16), "weight": torch.ones(16),
        "discount": torch.full((16,), 0.9),
    })  # fmt: skip
    torch.manual_seed(0)
    batch = agent.drawn(batch)
    before = agent.loss_and_priority(batch)
    with torch.no_grad():
        for network in (agent.target, agent.network):
            layer = (network.head.layers if hasattr(network.head, "layers") else network.head.advantage)[-1]
            outputs = torch.arange(layer.bias.numel() // 4) if name == "rainbow" else 50.0  # atoms: towards the best
            layer.bias.view(4, -1)[forbidden] += outputs
    for one, other in zip(before, agent.loss_and_priority(batch)):
        torch.testing.assert_close(one, other)


def test_gradients_are_finite_where_actions_are_forbidden() -> None:
    for name in ("dqn", "ppo", "munchausen-dqn"):
        recipe = small(name, env="CartPole-v1", steps=100, num_envs=2, eval_every=0, widths=(8,))
        agent, memory, actors = recipe.assemble(make_vec_envs(Corridor, 2))
        prl.train(agent, memory, actors, steps=100)
        assert all(bool(torch.isfinite(p).all()) for p in agent.network.parameters())


def test_acting_in_numpy_is_the_same() -> None:
    recipe = small("dqn", env="CartPole-v1")
    env = make_vec_envs(Corridor, 2)
    agent = recipe.build_agent(env.spec)
    wanted = agent.infer(env.obs, False).q.numpy()
    fast = accelerate(agent, "auto", updates=0)
    for _ in range(3):
        np.testing.assert_allclose(np.asarray(fast.infer(env.obs, False).q), wanted, rtol=1e-5)
    assert (wanted == -np.inf).sum() == 4
    action = fast.act(Seen.start(env.obs, env.spec.action), explore=False).action
    assert env.obs[MASK][np.arange(2), action].all()
