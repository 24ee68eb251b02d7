"""Games for teams whose values are known: independent learners, single-agent recipes on lanes, must find the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.recipes import RECIPES
from tests.probe.test_values import GAMMA, learned

APART = [True, pytest.param(False, marks=pytest.mark.slow)]
BOTH = np.eye(2, dtype=np.float32)


def seen(*numbers: float) -> Any:
    """Each number, as agent 0 and as agent 1 sees it: [2 n, 3]."""
    return np.array([[number, *one] for number in numbers for one in BOTH], np.float32)


def values(game: str, updates: int, *numbers: float, **fields: Any) -> Any:
    q = learned("dqn", game, updates, **fields)(*seen(*numbers))
    return np.asarray(q).reshape(len(numbers), 2, -1)


@pytest.mark.parametrize("share", APART)
def test_agents_with_opposed_targets_know_who_they_are(share: bool) -> None:
    found = values("OpposedTargets", 250, 0, share=share)[0]
    np.testing.assert_allclose(found, [[1, -1], [-1, 1]], atol=0.05)


@pytest.mark.slow
def test_what_the_other_one_does_is_worth_its_mean() -> None:
    found = values("OthersReward", 1_500, 0, lr=2e-3, capacity=4_000)[0]
    np.testing.assert_allclose(found, np.full((2, 2), 0.5), atol=0.1)


@pytest.mark.parametrize("share", APART)
def test_nothing_after_its_death_reaches_an_agent(share: bool) -> None:
    found = values("EarlyDeath", 500, 0, 1, 2, 3, widths=(32,), share=share)
    left = np.array([4, 3, 2, 1])
    np.testing.assert_allclose(found[:, 0].max(-1), (1 - GAMMA**left) / (1 - GAMMA), atol=0.1)
    np.testing.assert_allclose(found[:2, 1].max(-1), [1 + GAMMA, 1], atol=0.1)


@pytest.mark.slow
def test_a_time_limit_of_the_team_is_no_end() -> None:
    found = values("TeamTimeLimit", 1_000, 0)[0]
    np.testing.assert_allclose(found, np.full((2, 2), 10.0), atol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_ppo_values_what_each_agent_will_get(share: bool) -> None:
    """V of each agent where agent 1 dies early: rows of the dead weigh nothing, whatever stands in them."""
    recipe = RECIPES["ppo"](
        env="protorl/EarlyDeath-v0", num_envs=4, steps=6_000, rollout_steps=32, batch_size=64, epochs=4, lr=1e-2, gamma=GAMMA,
        gae_lambda=0.95, widths=(32,), max_grad_norm=None, share=share,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    prl.train(agent, memory, actors, steps=recipe.steps)
    value = np.asarray(agent.infer(seen(0, 1, 2, 3), False).value).reshape(4, 2)
    np.testing.assert_allclose(value[:, 0], (1 - GAMMA ** np.array([4, 3, 2, 1])) / (1 - GAMMA), atol=0.15)
    np.testing.assert_allclose(value[:2, 1], [1 + GAMMA, 1], atol=0.15)
