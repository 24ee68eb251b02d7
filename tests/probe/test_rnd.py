"""Random network distillation where the answers are known: both values, and a treasure that chance does not find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import protorl as prl
from protorl.envs import probes
from protorl.recipes.find import find_recipe
from tests.probe.test_ppo import SMALL, out
from tests.probe.test_values import GAMMA, close

EXAMPLES = Path(__file__).parents[2] / "examples"
GAMMA_I = 0.8


class Known(prl.RND):
    """Its intrinsic reward is a third of the number that the successor shows, and 1 more."""

    def intrinsic(self, rollout: prl.Batch) -> torch.Tensor:
        return 1 + rollout.next_obs[..., 0] / 3


class KnownRND(prl.recipes.RND):
    agent_class = Known


def learned(probe: Any, rollouts: int, **fields: Any) -> Any:
    """Values of both streams [obs, 2] of an agent after so many rollouts of 128 steps, for the observations 0, 1, 2."""
    settings = {**SMALL, "intrinsic_gamma": GAMMA_I, "predictor_features": 8, "lr": 2e-2, "epochs": 8}
    recipe = KnownRND(**{**settings, "env": probe.__name__, "steps": rollouts * 128, **fields})
    parts = recipe.assemble(prl.make_vec_envs(probe, recipe.num_envs))
    prl.train(*parts, steps=recipe.steps)
    return out(parts.agent, 0, 1, 2).value


def test_one_value_ends_with_the_episode_and_the_other_goes_on_to_the_next() -> None:
    """Rewards 1, 2, 3 and an end; for the intrinsic value the observation 3 at the end is followed by 0 at the start."""
    value = learned(probes.Counter, 30)
    close(value[:, 0], [1 + 2 * GAMMA + 3 * GAMMA**2, 2 + 3 * GAMMA, 3.0], tolerance=0.15)
    paid = [1 + 1 / 3, 1 + 2 / 3, 2.0]  # for reaching 1, 2 and 3
    cycle = [sum(GAMMA_I**k * paid[(start + k) % 3] for k in range(3)) / (1 - GAMMA_I**3) for start in range(3)]
    close(value[:, 1], cycle, tolerance=0.15)


def test_a_time_limit_ends_neither() -> None:
    value = learned(probes.TimeLimitReward, 20, intrinsic_lambda=1.0, lr=3e-2)
    close(value[:1, 0], [1 / (1 - GAMMA)], tolerance=0.3)
    close(value[:1, 1], [1 / (1 - GAMMA_I)], tolerance=0.15)


# A treasure that chance finds once in 2^10 episodes


def treasures(recipe: Any, episodes: int) -> int:
    """How often it is found in so many episodes."""
    parts = recipe.build()
    found = 0
    for _ in range(10):
        prl.train(*parts, steps=episodes * recipe.env_kwargs["size"] // 10)
        found += sum(episode.ret > 0.5 for episode in parts.actors.episodes())
    parts.actors.close()
    return found


DEEP: dict[str, Any] = {"env": "protorl/DeepSea-v0", "env_kwargs": {"size": 10}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "episodes"),
    [
        pytest.param(lambda: prl.recipes.DQN(**DEEP, bonus="rnd"), 250, id="dqn-rnd"),
        pytest.param(lambda: prl.recipes.RND(**DEEP), 2_000, id="rnd"),
        pytest.param(lambda: find_recipe(str(EXAMPLES / "count_bonus.py:CountDQN"))(**DEEP), 250, id="counts"),
    ],
)
def test_what_is_new_leads_to_the_treasure(recipe: Any, episodes: int) -> None:
    assert treasures(recipe(), episodes) > 0.05 * episodes


@pytest.mark.slow
def test_chance_does_not() -> None:
    assert treasures(prl.recipes.DQN(**DEEP), 100) < 3
