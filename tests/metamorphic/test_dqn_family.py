"""Two ways to the same thing: views, samplers and variants that must agree where their definitions do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl
from protorl.data import Chunk
from tests.streams import TAG, Stream, columns

SMALL: dict[str, Any] = {
    "steps": 300, "warmup_steps": 32, "batch_size": 16, "widths": (16,), "update_every": 4, "updates": 1, "target_every": 20,
    "capacity": 200, "epsilon_steps": 200, "lr": 1e-3,
}  # fmt: skip


def filled(view: Any, sampler: Any, seed: int = 0, steps: int = 150) -> prl.Replay:
    memory = prl.Replay(columns(2, extras=TAG), 120, batch_size=16, view=view, sampler=sampler, seed=seed)
    stream = Stream(2, 3)
    for _ in range(steps):
        memory.add(Chunk.of(stream.step()))
    return memory


def assert_same_batch(one: prl.Batch, other: prl.Batch) -> None:
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one.columns[name], other.columns[name]), name


def weights(parts: Any) -> torch.Tensor:
    return parts.agent.online_parameters.buffer.clone()


def trained(cls: Any, **fields: Any) -> Any:
    """The parts after training; torch's own generator does not matter, or this would not repeat."""
    recipe = cls(**{**SMALL, **fields})
    parts = recipe.build()
    prl.train(*parts, steps=recipe.steps)
    parts.actors.close()
    return parts


# Memory


def test_one_step_is_n_step_with_n_one() -> None:
    one, other = filled(prl.OneStep(0.9, 0.5), prl.Uniform()), filled(prl.NStep(1, 0.9, 0.5), prl.Uniform())
    for _ in range(5):
        assert_same_batch(one.sample(), other.sample())


def test_n_step_with_gamma_zero_has_the_reward_of_one_step_and_no_future() -> None:
    one, three = filled(prl.OneStep(0.0), prl.All()), filled(prl.NStep(3, 0.0), prl.All())
    short, long = one.sample(), three.sample()
    kept = torch.isin(short.index, long.index)  # rows whose three steps are complete
    assert kept.sum() > 100
    assert torch.equal(short.reward[kept], long.reward)
    assert not long.discount.any()


def test_prioritized_with_alpha_zero_is_uniform_whatever_the_feedback() -> None:
    memory = filled(prl.NStep(), prl.Prioritized(alpha=0.0, beta=0.7))
    rng, rows = np.random.default_rng(0), memory.window.all()
    counts = np.zeros(len(rows))
    for _ in range(1_500):
        batch = memory.sample()
        assert torch.equal(batch.weight, torch.ones(16))
        counts += np.bincount(np.searchsorted(rows, batch.index.numpy()), minlength=len(rows))
        memory.feedback(batch, torch.from_numpy(rng.exponential(50.0, 16)))
    expected = 1_500 * 16 / len(rows)
    assert ((counts - expected) ** 2 / expected).sum() < 120 + 5 * np.sqrt(240)  # chi-squared, 5 standard deviations


def test_beta_zero_weighs_nothing() -> None:
    memory = filled(prl.NStep(), prl.Prioritized(alpha=1.0, beta=0.0))
    memory.feedback(memory.sample(), torch.arange(16.0))
    assert torch.equal(memory.sample().weight, torch.ones(16))


# Agents


def pair(one: Any, other: Any, **fields: Any) -> tuple[Any, Any, prl.Batch]:
    """Two variants with the same weights (online unlike target), and a batch."""
    a, b = (cls(**{**SMALL, **fields}).build() for cls in (one, other))
    assert torch.equal(weights(a), weights(b))
    for parts in (a, b):
        stirred = torch.Generator().manual_seed(1)
        parts.agent.target_parameters.buffer.add_(torch.randn(weights(a).shape, generator=stirred) * 0.3)
    g = torch.Generator().manual_seed(2)
    batch = prl.Batch(
        {
            "obs": torch.randn(64, 4, generator=g),
            "action": torch.randint(0, 2, (64,), generator=g),
            "reward": torch.randn(64, generator=g),
            "discount": 0.99 * torch.randint(0, 2, (64,), generator=g),
            "next_obs": torch.randn(64, 4, generator=g),
            "weight": torch.rand(64, generator=g),
        }
    )
    return a.agent, b.agent, batch


def test_double_dqn_is_dqn_when_both_networks_are_equal() -> None:
    single, double, batch = pair(prl.recipes.DQN, prl.recipes.DoubleDQN)
    assert not torch.equal(single.td_error(batch), double.td_error(batch))
    for agent in (single, double):
        agent.target_parameters.copy_(agent.online_parameters)
    assert torch.equal(single.td_error(batch), double.td_error(batch))
    single.learn(batch)
    double.learn(batch)
    assert torch.equal(single.online_parameters.buffer, double.online_parameters.buffer)


def test_munchausen_without_bonus_and_nearly_without_temperature_is_dqn() -> None:
    cold = {"munchausen_alpha": 0.0, "munchausen_tau": 1e-5}
    munchausen = prl.recipes.MunchausenDQN(**{**SMALL, **cold}).build().agent
    single, usual, batch = pair(prl.recipes.DQN, prl.recipes.MunchausenDQN)
    for agent in (munchausen, usual):
        agent.online_parameters.copy_(single.online_parameters)
        agent.target_parameters.copy_(single.target_parameters)
    assert_close(munchausen.td_error(batch), single.td_error(batch), atol=1e-4, rtol=0)
    assert (usual.td_error(batch) - single.td_error(batch)).abs().max() > 0.1


def test_a_copy_every_update_is_no_target_network() -> None:
    single, double, batch = pair(prl.recipes.DQN, prl.recipes.DoubleDQN, target_every=1)
    for agent in (single, double):
        agent.target_parameters.copy_(agent.online_parameters)
        for _ in range(4):
            agent.update(batch)
    assert torch.equal(single.online_parameters.buffer, double.online_parameters.buffer)


def test_weights_scale_like_the_step_of_plain_losses() -> None:
    """A weight of 2 is the same example twice."""
    agent, _, batch = pair(prl.recipes.DQN, prl.recipes.DQN)
    first = {name: column[:2] for name, column in batch.columns.items()}
    twice = prl.Batch({name: torch.cat([column[:1], column]) for name, column in first.items()} | {"weight": torch.ones(3)})
    heavy = prl.Batch({**first, "weight": torch.tensor([2.0, 1.0])})
    flat, gradients = agent.optimizer.flat, []
    agent.optimizer.step = lambda loss: gradients.append(flat.gradient(loss))
    agent.learn(twice)
    agent.learn(heavy)
    assert_close(3 * gradients[0], 2 * gradients[1])


# The loop


def test_training_repeats_whatever_the_global_generators_do() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - as somebody's script might
    one = weights(trained(prl.recipes.D3QN, per_alpha=0.6, n_step=3))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(one, weights(trained(prl.recipes.D3QN, per_alpha=0.6, n_step=3)))


@pytest.mark.slow
def test_workers_train_what_the_loop_trains() -> None:
    kind = {"num_envs": 2, "per_alpha": 0.6, "n_step": 3}
    results = [trained(prl.recipes.D3QN, backend=backend, **kind) for backend in ("sync", "async")]
    assert results[0].agent.updates > 50
    assert torch.equal(weights(results[0]), weights(results[1]))


def test_updates_take_turns_with_their_feedback() -> None:
    parts = prl.recipes.DQN(**{**SMALL, "steps": 64, "updates": 3, "per_alpha": 0.6}).build()
    calls: list[str] = []
    for owner, name in ((parts.memory, "sample"), (parts.agent, "update"), (parts.memory, "feedback")):
        method = getattr(owner, name)
        setattr(owner, name, lambda *a, method=method, name=name: (calls.append(name), method(*a))[1])
    prl.train(*parts, steps=64)
    assert len(calls) == 3 * 3 * (64 - 32) // 4
    assert calls == ["sample", "update", "feedback"] * (len(calls) // 3)


def explored(num_envs: int, steps: int) -> list[prl.Step]:
    """What environments see under a purely exploring agent."""
    recipe = prl.recipes.DQN(**{**SMALL, "num_envs": num_envs, "epsilon_start": 1.0, "epsilon_end": 1.0})
    _, _, actors = recipe.build()
    return [step for _ in range(steps) for step in actors.poll()[0].steps()]


def test_a_rows_exploration_does_not_depend_on_the_number_of_environments() -> None:
    few, many = explored(2, 80), explored(5, 80)
    for step, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(step.action, other.action[:2])
        np.testing.assert_array_equal(step.obs, other.obs[:2])
        np.testing.assert_array_equal(step.first, other.first[:2])
    actions = np.stack([step.action for step in many])
    assert len({tuple(row) for row in actions.T}) == 5  # and every row has its own
