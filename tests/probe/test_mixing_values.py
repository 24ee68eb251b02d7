"""Games for teams whose values are known: VDN must find the nearest sum, QMIX what is monotone, and neither more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.recipes import RECIPES
from tests.probe.test_value_experiments import script
from tests.probe.test_values import GAMMA, SMALL

two_step = script("two_step")

QUICK: dict[str, Any] = {"widths": (16,), "lr": 1e-2, "batch_size": 32, "target_every": 50, "epsilon_start": 1.0}
BOTH = pytest.mark.parametrize("name", ["vdn", "qmix"])


@pytest.mark.parametrize(("recipe", "best"), [("vdn", 7), ("qmix", 8)])
def test_two_step_game(recipe: str, best: float) -> None:
    """The table of 2B that a sum comes nearest to is [[-1.5, 2.5], [2.5, 6.5]], which is less than 2A's 7."""
    np.testing.assert_allclose(two_step.additive(two_step.true_tables("two-step")["2B"]), [[-1.5, 2.5], [2.5, 6.5]])
    found = two_step.trained(recipe, "two-step", 0, steps=1_000, **QUICK)
    assert found["return"] == best
    assert found["error_of_the_sum" if recipe == "vdn" else "error"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("game", ["climbing", "penalty"])
@BOTH
def test_matrix_games(name: str, game: str) -> None:
    """A sum finds the additive table; what is monotone comes nearer to the pay-offs, and cannot reach them."""
    found = two_step.trained(name, game, 0, steps=2_000, **QUICK)
    table, payoff = np.array(found["tables"][""]), np.array(two_step.GAMES[game][1]["payoff"])
    nearest = two_step.additive(payoff)
    if name == "vdn":
        np.testing.assert_allclose(table, nearest, atol=1.5)
    else:
        assert np.square(table - payoff).mean() < np.square(nearest - payoff).mean()
    assert found["error"] > 5


def learned(name: str, game: str, updates: int, **fields: Any) -> Any:
    """Parts after so many updates of a recipe that acts at random."""
    short: dict[str, Any] = {"sequence_length": 1, "period": 1, "core": "none"}
    known = {key: SMALL[key] for key in SMALL if key not in fields}
    recipe = RECIPES[name](**{**known, **short, "env": f"protorl/{game}-v0", "steps": updates + 32, **fields})
    agent, memory, actors = recipe.build()
    prl.train(accelerate(agent), memory, actors, steps=recipe.steps)
    return agent


def seen(*numbers: float) -> Any:
    """What teams of two observe that see one number each."""
    obs = np.array([[[number, *one] for one in np.eye(2)] for number in numbers], np.float32)
    state = np.array([[number, number] for number in numbers], np.float32)
    return {"obs": obs, "alive": np.ones((len(numbers), 2), np.uint8), "state": state}


@torch.no_grad()
def q_tot(agent: Any, obs: Any, action: Any) -> Any:
    """Q_tot of joint actions [B, M]."""
    tensors = {name: torch.from_numpy(array) for name, array in obs.items()}
    q = agent.network(tensors).q.gather(-1, torch.tensor(action).unsqueeze(-1)).squeeze(-1)
    return agent.network.mix(q, tensors).numpy()


JOINT = [[0, 0], [0, 1], [1, 0], [1, 1]]


@BOTH
def test_agents_with_opposed_targets(name: str) -> None:
    """Agent i is paid 1 for action i and -1 for the other: 2 for [0, 1], 0 where one errs, -2 for [1, 0]."""
    agent = learned(name, "OpposedTargets", 400)
    np.testing.assert_allclose(q_tot(agent, seen(0, 0, 0, 0), JOINT), [0, 2, -2, 0], atol=0.2)


@BOTH
def test_what_the_other_one_is_paid_for_counts_for_the_team(name: str) -> None:
    """Each is paid what the other one does: alone an action is worth nothing, to the team 1."""
    agent = learned(name, "OthersReward", 400)
    np.testing.assert_allclose(q_tot(agent, seen(0, 0, 0, 0), JOINT), [0, 1, 1, 2], atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "core"), [("vdn", "none"), ("vdn", "gru"), ("qmix", "gru")])
def test_the_team_is_worth_what_those_that_live_will_get(name: str, core: str) -> None:
    """EarlyDeath: 2 a step while both live, 1 while one does. Read off where a team plays an episode."""
    rest = {"core": "gru", "core_size": 8, "sequence_length": 4, "period": 4} if core == "gru" else {}
    agent = learned(name, "EarlyDeath", 800, widths=(32,), lr=5e-3, **rest)
    env, carry, found = prl.make_vec_envs("protorl/EarlyDeath-v0", 1, as_teams=True), agent.initial_carry(1), []
    for _ in range(4):
        out, carry = agent.recall(env.seen, carry, False)
        q = torch.as_tensor(out.q)[..., 0]
        obs: Any = env.seen.obs
        found.append(float(agent.network.mix(q, {key: torch.from_numpy(array) for key, array in obs.items()}).detach()))
        env.step(np.zeros((1, 2), np.int64))
    left = np.array([4, 3, 2, 1])
    wanted = (1 - GAMMA**left) / (1 - GAMMA) + np.array([1 + GAMMA, 1, 0, 0])
    np.testing.assert_allclose(found, wanted, atol=0.3)


@pytest.mark.slow
@BOTH
def test_a_time_limit_of_the_team_is_no_end(name: str) -> None:
    """2 a step for ever is 2 / (1 - gamma) = 20."""
    agent = learned(name, "TeamTimeLimit", 1_500, lr=1e-2)
    np.testing.assert_allclose(q_tot(agent, seen(0), [[0, 1]]), [20.0], atol=0.8)


def test_tables_are_read_off_for_every_joint_action() -> None:
    agent = RECIPES["vdn"](env="protorl/MatrixGame-v0").build().agent
    (table,) = two_step.learned_tables(agent, "climbing").values()
    assert table.shape == (3, 3)
    np.testing.assert_allclose(table, two_step.additive(table), atol=1e-5)
