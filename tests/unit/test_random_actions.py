"""Random actions in evaluations: how many, which, that they repeat, and that a recipe's evaluations have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import protorl as prl
from protorl.envs import RandomActions, make_vec_envs
from protorl.recipes.saved import load
from protorl.recipes.start import start


def taken(env: RandomActions, told: np.ndarray, steps: int, seed: int | None = 3) -> np.ndarray:
    env.reset(seed)
    return np.stack([env.step(told).action for _ in range(steps)])


def test_a_share_of_the_actions_is_random_for_each_row_and_they_repeat() -> None:
    env = RandomActions(make_vec_envs("CartPole-v1", 2, seed=0), 0.3)
    told = np.ones(2, np.int64)
    actions = taken(env, told, 2_000)
    np.testing.assert_allclose((actions == 0).mean(0), 0.15, atol=0.03)  # half of the random ones are as told
    assert (actions[:, 0] != actions[:, 1]).any()
    assert (told == 1).all()
    assert np.array_equal(taken(env, told, 2_000), actions)
    assert not np.array_equal(taken(env, told, 2_000, seed=4), actions)


def test_actions_of_every_kind_and_the_ends_of_the_range() -> None:
    told = np.zeros((1, 1), np.float32)
    env = RandomActions(make_vec_envs("Pendulum-v1", 1, seed=0), 1.0)
    actions = taken(env, told, 300)
    assert actions.dtype == np.float32
    assert actions.min() < -0.9 < 0.9 < actions.max()
    assert (taken(RandomActions(env.env, 0.0), told, 20) == 0).all()
    with pytest.raises(prl.ProtoRLError, match=r"epsilon 1.5 is not a probability"):
        RandomActions(env.env, 1.5)


def test_its_streams_can_be_saved() -> None:
    told, env = np.ones(1, np.int64), RandomActions(make_vec_envs("CartPole-v1", 1, seed=0), 0.5)
    taken(env, told, 10)
    state = env.state_dict()
    one = [env.step(told).action for _ in range(20)]
    env.load_state_dict(state)
    assert [env.step(told).action for _ in range(20)] == one


def test_evaluations_of_a_recipe_take_them_and_training_does_not(tmp_path: Path) -> None:
    recipe = prl.recipes.DQN(
        env="CartPole-v1", steps=20, warmup_steps=0, batch_size=8, update_every=10, updates=1, eval_epsilon=0.25
    )
    assert not isinstance(recipe.make_env(), RandomActions)
    start(recipe, tmp_path / "run", progress=False)
    for given, used in ((None, 0.25), (0.5, 0.5), (0.0, 0.0)):
        trained = load(tmp_path / "run", epsilon=given)
        assert trained.epsilon == used
        assert isinstance(trained.env, RandomActions) == (used > 0)
        trained.env.close()


def test_atari_is_evaluated_as_its_papers_do() -> None:
    shares = {
        ("dqn", None): 0.05, ("double-dqn", None): 0.01, ("qr-dqn", None): 0.001, ("rainbow", None): 0.0,
        ("dqn", "machado"): 0.001, ("ppo", None): 0.0,
    }  # fmt: skip
    for (name, protocol), epsilon in shares.items():
        cls = prl.recipes.RECIPES[name]
        assert cls(env="ALE/Pong-v5", **({} if protocol is None else {"protocol": protocol})).eval_epsilon == epsilon
