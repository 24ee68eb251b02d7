"""Random streams are named by lane, and exploration's clocks count what was done: however the rows are grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import protorl as prl

RECIPES = {
    "dqn": lambda: prl.recipes.DQN(env="CartPole-v1", epsilon_start=0.5, epsilon_end=0.5, widths=(8,)),
    "ppo": lambda: prl.recipes.PPO(env="CartPole-v1", widths=(8,)),
    "beta": lambda: prl.recipes.PPO(env="Pendulum-v1", distribution="beta", widths=(8,)),
    "ddpg": lambda: prl.recipes.DDPG(env="Pendulum-v1", warmup_steps=0, widths=(8,)),
    "sac": lambda: prl.recipes.SAC(env="Pendulum-v1", warmup_steps=0, widths=(8,)),
    "warm-up": lambda: prl.recipes.TD3(env="Pendulum-v1", warmup_steps=1_000, widths=(8,)),
}


def steps(recipe: Any, num_envs: int, first_row: int, **options: Any) -> list[prl.Step]:
    env = prl.make_vec_envs(recipe.env, num_envs, seed=3, first_row=first_row, **options)
    assert list(env.lanes) == list(range(first_row, first_row + num_envs))
    actors = recipe.assemble(env).actors
    return [step for _ in range(40) for step in actors.poll()[0].steps()]


@pytest.mark.parametrize("name", RECIPES)
def test_four_rows_or_twice_two_do_the_same(name: str) -> None:
    """But for the last digits of a product of other sizes."""
    together = steps(RECIPES[name](), 4, 0)
    for lanes in (slice(0, 2), slice(2, 4)):
        for one, two in zip(together, steps(RECIPES[name](), 2, lanes.start), strict=True):
            for field in ("action", "obs", "reward", "next_obs", "first", "terminated", "truncated"):
                np.testing.assert_allclose(getattr(one, field)[lanes], getattr(two, field), rtol=1e-4, atol=1e-4)


def test_evaluations_random_actions_are_named_by_lane() -> None:
    def actions(num_envs: int, first_row: int) -> Any:
        env = prl.envs.RandomActions(prl.make_vec_envs("CartPole-v1", num_envs, first_row=first_row), 0.5)
        return np.stack([env.step(np.zeros(num_envs, np.int64)).action for _ in range(30)])

    np.testing.assert_array_equal(actions(4, 0)[:, 2:], actions(2, 2))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("warmup", [0, 17])
def test_a_step_spent_on_a_reset_does_not_count_as_exploration(mode: AutoresetMode, warmup: int) -> None:
    env = prl.from_vector(SyncVectorEnv([lambda: prl.make_env("protorl/Counter-v0")] * 3, autoreset_mode=mode))
    agent, _, _ = prl.recipes.DQN(env="protorl/Counter-v0").assemble(env)
    inner = agent.policy
    if warmup:
        agent.policy = prl.Warmup(inner, env.spec.action, warmup)
    actors, taken, after = prl.LocalActors(agent, env), 0, 0
    for _ in range(20):
        warm = warmup > 0 and agent.policy.done < warmup
        (step,) = actors.poll()[0].steps()
        taken += int(step.valid.sum())
        after += 0 if warm else int(step.valid.sum())
        assert inner.steps == after
        assert not warmup or agent.policy.done == taken - after
    assert (taken < 60) == (mode is AutoresetMode.NEXT_STEP)
