"""Environments whose values are known: every recipe of the DQN family must find the numbers, not just a good return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.accelerate import accelerate
from protorl.recipes import RECIPES

FAMILY: dict[str, dict[str, Any]] = {
    "dqn": {},
    "double-dqn": {},
    "d3qn": {"per_alpha": 0.6, "n_step": 3},
    "munchausen-dqn": {},
    "rainbow": {"atoms": 25, "v_min": -12.0, "v_max": 12.0},
    "qr-dqn": {"quantiles": 5},
    "iqn": {"samples": 8, "target_samples": 8, "cosines": 8},
}
GAMMA = 0.9
SMALL: dict[str, Any] = {
    "widths": (16,), "activation": "tanh", "lr": 2e-2, "batch_size": 32, "warmup_steps": 32, "update_every": 1,
    "target_every": 10, "gamma": GAMMA, "capacity": 1_000, "epsilon_start": 1.0, "epsilon_end": 1.0,
}  # fmt: skip


def learned(name: str, probe: str, updates: int, **fields: Any) -> Any:
    """Q after so many updates, as a function of observations [B, O] -> [B, A]; every action is equally likely to be tried."""
    recipe = RECIPES[name](**{**SMALL, **FAMILY[name], "env": f"protorl/{probe}-v0", "steps": updates + 32, **fields})
    agent, memory, actors = recipe.build()
    prl.train(accelerate(agent), memory, actors, steps=recipe.steps)
    return lambda *obs: agent.infer(np.array(obs, np.float32).reshape(len(obs), -1), False).q


def close(q: Any, expected: list[list[float]], tolerance: float = 0.02) -> None:
    np.testing.assert_allclose(q, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FAMILY)
def test_constant_reward(name: str) -> None:
    close(learned(name, "ConstantReward", 150)(0), [[1.0]])


@pytest.mark.parametrize("name", FAMILY)
def test_reward_that_depends_on_the_observation(name: str) -> None:
    close(learned(name, "ObservationReward", 200)(-1, 1), [[-1.0], [1.0]])


@pytest.mark.parametrize("name", FAMILY)
def test_delayed_reward_is_discounted(name: str) -> None:
    close(learned(name, "DelayedReward", 250)(0, 1), [[GAMMA], [1.0]])


# Munchausen adds alpha [tau log pi(a)] clipped at -1 to the reward: 0 for the better action, here -0.9 for the worse one.
WORSE = {name: -1.9 if name == "munchausen-dqn" else -1.0 for name in FAMILY}


@pytest.mark.parametrize("name", FAMILY)
def test_reward_that_depends_on_the_action(name: str) -> None:
    close(learned(name, "ActionReward", 250)(0), [[WORSE[name], 1.0]])


@pytest.mark.parametrize("name", FAMILY)
def test_reward_that_depends_on_the_observation_and_the_action(name: str) -> None:
    close(learned(name, "ObservationActionReward", 350)(0, 1), [[1.0, WORSE[name]], [WORSE[name], 1.0]])


@pytest.mark.parametrize("name", FAMILY)
def test_a_time_limit_is_not_an_end(name: str) -> None:
    """1 / (1 - gamma) = 10; with the limit taken for a termination it would be 5.26."""
    close(learned(name, "TimeLimitReward", 300 if name == "d3qn" else 600)(0), [[10.0]], tolerance=0.1)


def test_a_chain_has_the_returns_of_all_that_follows() -> None:
    """Rewards 1..5 and a termination: Q(t) is the discounted sum of what is left, for any number of steps."""
    expected = np.polynomial.polynomial.polyval(GAMMA, np.arange(1.0, 6.0))
    for n in (1, 3):
        q = learned("dqn", "Chain", 700, n_step=n, widths=(32,), kappa=float("inf"))(0)
        close(q, [[expected]], tolerance=0.15)
