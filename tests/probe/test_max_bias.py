"""Sutton and Barto's example 6.7: the maximum over noisy estimates is too high, and Double DQN leaves the bias out."""

from __future__ import annotations

from typing import Any

import numpy as np

import protorl as prl
from protorl.accelerate import accelerate


def biased(recipe_class: Any, seed: int) -> tuple[float, float]:
    """Over a training: how often it went left at A (optimally 5 %), and Q(A, left) - Q(A, right), truly -0.1."""
    recipe = recipe_class(
        env="protorl/MaximizationBias-v0", steps=4_000, seed=seed, num_envs=8, widths=(), base="mlp", gamma=1.0, batch_size=16,
        optimizer="rmsprop", lr=4e-2, max_grad_norm=None, kappa=float("inf"), warmup_steps=16, update_every=8,
        target_every=200, capacity=64, epsilon_start=0.1, epsilon_end=0.1,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    accelerate(agent)
    went_left: list[float] = []
    excess: list[float] = []
    start = np.eye(3, dtype=np.float32)[:1]

    def observe(step: prl.Step) -> None:
        at_a = step.obs[:, 0] == 1  # type: ignore[call-overload]
        went_left.extend(step.action[at_a] < 5)
        q = agent.infer(start, False).q[0]
        excess.append(q[:5].max() - q[5:].max())

    agent.observe = observe
    prl.train(agent, memory, actors, steps=recipe.steps)
    return float(np.mean(went_left)), float(np.mean(excess))


def test_double_dqn_leaves_the_maximization_bias_out() -> None:
    single_left, single_excess = np.mean([biased(prl.recipes.DQN, seed) for seed in range(3)], axis=0)
    double_left, double_excess = np.mean([biased(prl.recipes.DoubleDQN, seed) for seed in range(3)], axis=0)
    assert single_left > 0.5  # believes in the noise
    assert double_left < 0.3
    assert single_excess > 0.1
    assert -0.25 < double_excess < 0.0
