"""Prioritized sampling: the paper's numbers, the sum tree's edges, and what a stale index may not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from protorl.data import Chunk, Linear, ProtoRLError
from protorl.memory import NStep, Prioritized, Replay, SumTree
from tests.streams import Stream, columns


def filled(priorities: list[float], sampler: Prioritized, batch_size: int = 4) -> Replay:
    memory = Replay(columns(), 16, batch_size=batch_size, sampler=sampler)
    stream = Stream(1, 0)
    for _ in priorities:
        memory.add(Chunk.of(stream.step()._replace(extras={})))
    rows = memory.window.all()
    memory.sampler.feedback(rows, np.array(priorities))
    return memory


def test_probabilities_and_weights_of_the_paper() -> None:
    memory = filled([1, 2, 3, 4], Prioritized(0.6, 0.4, epsilon=0.0))
    tree = memory.sampler.tree
    slots = memory.window.slots(memory.window.all())
    np.testing.assert_allclose(tree.get(slots) / tree.total, [0.14823, 0.224674, 0.286555, 0.340542], atol=1e-6)
    weight = {}
    for _ in range(50):
        batch = memory.sample()
        if 0 in batch.index:
            weight.update(zip(batch.index.tolist(), batch.weight.tolist()))
    np.testing.assert_allclose([weight[i] for i in range(4)], [1, 0.846745, 0.768229, 0.716978], atol=1e-5)


def test_weights_are_divided_by_the_largest_of_the_batch_or_of_the_memory() -> None:
    for normalise, largest in (("batch", 0.846745 / 0.846745), ("memory", 0.846745)):
        memory = filled([1, 2, 3, 4], Prioritized(0.6, 0.4, epsilon=0.0, normalise=normalise), batch_size=2)
        seen = [memory.sample() for _ in range(200)]
        without_smallest = [batch for batch in seen if 0 not in batch.index and 1 in batch.index]
        assert without_smallest
        for batch in without_smallest:
            assert float(batch.weight.max()) == pytest.approx(largest, abs=1e-5)


def test_a_zero_td_error_can_still_be_drawn_and_new_rows_enter_with_the_largest_priority() -> None:
    memory = filled([0.0, 0.0, 5.0], Prioritized(1.0, 0.4))
    tree = memory.sampler.tree
    assert (tree.get(memory.window.slots(memory.window.all())) > 0).all()
    memory.add(Chunk.of(Stream(1, 3).step()._replace(extras={}, first=np.array([True]))))
    newest = memory.window.slots(memory.window.all()[-1:])
    assert tree.get(newest)[0] == pytest.approx(5.0, abs=1e-5)


def test_distinct_priorities_stay_distinct() -> None:
    memory = filled([1.0, 1.0, 1.0, 1.0], Prioritized(1.0, epsilon=0.0))
    batch = memory.sample()
    memory.feedback(batch, torch.tensor([0.1, 0.2, 0.3, 40.0]))
    leaves = memory.sampler.tree.get(memory.window.slots(batch.index.numpy()))
    np.testing.assert_allclose(np.unique(leaves).max(), 40.0)
    assert len(np.unique(leaves)) == len(np.unique(batch.index))


def test_feedback_for_rows_overwritten_meanwhile_is_dropped() -> None:
    memory = filled([1.0] * 16, Prioritized(1.0, epsilon=0.0))
    batch = memory.sample()
    stream = Stream(1, 9)
    for _ in range(17):
        memory.add(Chunk.of(stream.step()._replace(extras={})))
    before = memory.sampler.tree.sums.copy()
    memory.feedback(batch, torch.full((4,), 1000.0))
    np.testing.assert_array_equal(memory.sampler.tree.sums, before)
    assert memory.sampler.largest == 1.0


def test_draws_are_stratified() -> None:
    memory = filled([1.0] * 16, Prioritized(1.0), batch_size=16)
    for _ in range(20):
        drawn = memory.window.slots(memory.sample().index.numpy())
        assert (np.abs(np.searchsorted(np.sort(memory.window.slots(memory.window.all())), drawn) - np.arange(16)) <= 1).all()


def test_alpha_zero_is_uniform() -> None:
    memory = filled([1, 2, 3, 4], Prioritized(0.0, 1.0))
    tree = memory.sampler.tree
    np.testing.assert_allclose(tree.get(memory.window.slots(memory.window.all())), 1.0)
    np.testing.assert_allclose(memory.sample().weight, 1.0)


def test_beta_follows_its_schedule_over_agent_steps() -> None:
    memory = filled([1, 2, 3, 4], Prioritized(1.0, Linear(0.0, 1.0, 8), epsilon=0.0))
    assert memory.rate.steps == 4
    weight = memory.sampler.draw(0)[1]
    np.testing.assert_allclose(weight, 1.0)
    rows, weight = memory.sampler.draw(8)
    np.testing.assert_allclose(weight, (rows.min() + 1) / (rows + 1), rtol=1e-6)


def test_rows_without_a_complete_window_are_never_drawn() -> None:
    memory = Replay(columns(), 64, batch_size=16, view=NStep(4, 0.9), sampler=Prioritized())
    stream = Stream(1, 4)
    for _ in range(300):
        memory.add(Chunk.of(stream.step()._replace(extras={})))
        leaves = memory.sampler.tree.get(np.arange(memory.storage.slots))
        assert set(np.flatnonzero(leaves)) == set(memory.window.slots(memory.window.all()).tolist())


def test_priorities_that_are_not_finite_get_one_sentence() -> None:
    memory = filled([1.0] * 4, Prioritized())
    with pytest.raises(ProtoRLError, match="a priority is not finite"):
        memory.feedback(memory.sample(), torch.tensor([1.0, float("nan"), 1.0, 1.0]))


def test_tree_sums_do_not_drift_and_every_target_finds_a_positive_leaf() -> None:
    rng = np.random.default_rng(0)
    tree = SumTree(1000, track_min=True)
    reference = np.zeros(1000)
    for _ in range(2_000):
        index = rng.integers(0, 1000, 500)
        value = np.where(rng.random(500) < 0.3, 0.0, rng.random(500) * 10.0 ** rng.integers(-6, 6, 500))
        tree.set(index, value)
        for i, v in zip(index, value):
            reference[i] = v
    assert tree.total == pytest.approx(reference.sum(), rel=1e-12)
    assert tree.smallest == reference[reference > 0].min()
    targets = np.concatenate([rng.random(5_000), [0.0, 1 - 1e-12, np.nextafter(1.0, 0)]]) * tree.total
    found = tree.find(np.minimum(targets, np.nextafter(tree.total, 0)).copy())
    assert (reference[found] > 0).all()


def test_tree_finds_what_the_cumulative_sum_says() -> None:
    values = np.array([1.0, 0.0, 2.0, 3.0, 0.0, 0.5])
    tree = SumTree(6)
    tree.set(np.arange(6), values)
    targets = np.array([0.0, 0.999, 1.0, 2.999, 3.0, 5.999, 6.0, 6.499])
    np.testing.assert_array_equal(tree.find(targets.copy()), [0, 0, 2, 2, 3, 3, 5, 5])


def test_one_leaf_and_capacities_that_are_no_power_of_two() -> None:
    for capacity in (1, 2, 3, 5, 7, 8, 9, 100):
        tree = SumTree(capacity)
        tree.set(np.array([capacity - 1]), np.array([2.0]))
        assert tree.total == 2.0
        assert tree.find(np.array([1.9]))[0] == capacity - 1
