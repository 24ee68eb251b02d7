"""The benchmarks' own code, `value_bias.py`, `corridor.py` and `state_staleness.py`, where the answers are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl

FOLDER = Path(__file__).parents[2] / "benchmarks" / "learning"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_believed_is_the_value_of_the_first_observation_and_what_was_received_its_own_return() -> None:
    recipe = prl.recipes.DQN(env="protorl/TimeLimitReward-v0", num_envs=3, widths=(4,), capacity=200)
    agent, env = recipe.build().agent, recipe.make_env(name="eval")
    believed, received = script("value_bias").believed_and_received(agent, env, 0.9, seed=1)
    env.reset(1)
    with torch.no_grad():
        expected = agent.network(torch.from_numpy(env.seen.obs)).q.amax(-1)
    np.testing.assert_allclose(believed, expected, rtol=1e-6)
    np.testing.assert_allclose(received, [(1 - 0.9**10) / (1 - 0.9)] * 3)  # of one episode, though the others go on


def test_a_curve_is_measured_while_it_trains() -> None:
    small = {
        "env": "protorl/TimeLimitReward-v0",
        "steps": 60,
        "gamma": 0.9,
        "warmup_steps": 8,
        "batch_size": 8,
        "accelerate": "eager",
    }
    module = script("value_bias")
    curve = module.train("double-dqn", 0, every=20, **small)
    assert [point["step"] for point in curve] == [20, 40, 60]
    assert [point["received"] for point in curve] == pytest.approx([(1 - 0.9**10) / (1 - 0.9)] * 3)
    assert len({point["believed"] for point in curve}) == 3
    assert module.bias([{"believed": 9.0, "received": 0.0}, {"believed": 3.0, "received": 1.0}]) == 2.0


def test_the_verdict_of_the_bias_is_certain_only_where_the_seeds_agree() -> None:
    difference = script("value_bias").difference
    low, high, below = difference(np.array([5.0, 6.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    assert (low < -4 < high < 0, below) == (True, 1.0)
    low, high, below = difference(np.array([0.0, 10.0]), np.array([1.0, 8.0]))
    assert low < 0 < high
    assert 0.3 < below < 0.7


@pytest.mark.parametrize("actions", [5, 20])
def test_the_corridors_values_solve_their_equations(actions: int) -> None:
    corridor = script("corridor")
    best, true = corridor.optimal_and_true(actions)
    start, last, gamma = corridor.START, corridor.LAST, corridor.GAMMA
    assert best.shape == true.shape == (70, actions)
    assert best[start, 0] == pytest.approx(gamma ** (last - start - 1))  # up
    assert best[start, 1] == 0.1  # down
    np.testing.assert_allclose(best[start, 4:], gamma * best[start, 0])  # waiting
    policy = np.full(best.shape, corridor.EPSILON / actions)
    policy[np.arange(70), best.argmax(1)] += 1 - corridor.EPSILON
    value = (policy * true).sum(1)
    after = corridor.moves(actions)
    for state in range(start, last):
        for action in range(actions):
            following = int(after[state, action])
            expected = corridor.PAYS[following] if following in corridor.PAYS else gamma * value[following]
            assert true[state, action] == pytest.approx(expected)
    assert (true <= best + 1e-12).all()


def test_the_corridor_is_learned_by_either_network() -> None:
    corridor = script("corridor")
    for dueling in (False, True):
        first, last = corridor.squared_errors(5, dueling, seed=0, points=(1, 300))
        assert last < 0.8 * first


def test_nothing_is_stale_before_anything_is_learned() -> None:
    """The stored states are then those of the network of now, and a start from zeros is the further off the later it is."""
    small = {"steps": 3_000, "warmup_steps": 10_000, "widths": (8,), "core_size": 8, "core_span": 20}
    point = script("state_staleness").train("memory", 0, points=1, **small)[0]
    assert point["step"] == 3_000
    for reference in ("acted", "unrolled"):
        for start in ("stored", "stored + burn-in"):
            assert max(point[f"{start}, {reference}"]) < 1e-4
        for zero, burnt in zip(point[f"zero, {reference}"], point[f"burn-in only, {reference}"], strict=True):
            assert zero > 1.5 * burnt > 1e-2
    assert point["zero, acted"] == pytest.approx(point["zero, unrolled"], abs=1e-4)
