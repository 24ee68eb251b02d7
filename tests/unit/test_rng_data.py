"""Random streams have names; what travels between the parts says what it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from protorl import rng
from protorl.data import (
    ActionSpec,
    ArraySpec,
    Batch,
    Constant,
    EnvSpec,
    Linear,
    Stateful,
    Step,
    as_schedule,
    tree_leaves,
    tree_map,
)

# Streams


def test_a_stream_follows_from_root_and_name_alone() -> None:
    one = {name: rng.generator(7, name).random(8).tolist() for name in ("a", "b", "c")}
    other = {name: rng.generator(7, name).random(8).tolist() for name in ("c", "a", "b")}
    assert one == other
    assert rng.integer(7, "env", 3) == rng.integer(7, "env", "3") == rng.integer(7, "env/3")


def test_names_and_roots_are_independent() -> None:
    names = [(root, *name) for root in (0, 1, 2**40) for name in (("a",), ("b",), ("a", 0), ("a", 1), ("a", 10), ("sampler",))]
    draws = np.stack([rng.generator(*name).random(4_000) for name in names])
    correlation = np.corrcoef(draws) - np.eye(len(names))
    assert np.abs(correlation).max() < 0.08  # 5 standard deviations
    seeds = [rng.integer(0, "env", row) for row in range(2_000)]
    assert len(set(seeds)) == 2_000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_streams_stay_the_same_between_releases() -> None:
    assert rng.integer(0, "env", 0) == 1555671015
    assert rng.generator(0, "sampler").random(2).tolist() == [0.6662870195389855, 0.31824576495440937]


def test_torch_stream_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with rng.torch_stream(0, "networks"):
        inside = torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(RuntimeError, match="inside"), rng.torch_stream(0, "networks"):
        raise RuntimeError("inside")
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(10)
    with rng.torch_stream(0, "networks"):
        assert torch.equal(inside, torch.rand(4))
    with rng.torch_stream(0, "other"):
        assert not torch.equal(inside, torch.rand(4))


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.SFC64, np.random.Philox])
def test_pack_is_exact_text(bits: Any) -> None:
    gen = np.random.Generator(bits(5))
    gen.random(37)
    gen.integers(0, 9, 3, dtype=np.int32)  # leaves half of a 64-bit number behind
    text = rng.pack(gen)
    expected = gen.integers(0, 1000, 20, dtype=np.int32).tolist(), gen.normal(size=20).tolist()
    fresh = np.random.Generator(bits(0))
    rng.unpack(fresh, text)
    assert isinstance(text, str)
    assert (fresh.integers(0, 1000, 20, dtype=np.int32).tolist(), fresh.normal(size=20).tolist()) == expected


# Row streams


def draw(streams: rng.RowStreams, calls: int, k: int) -> np.ndarray[Any, Any]:
    return np.concatenate([streams.take(k).copy() for _ in range(calls)], axis=1)


def test_a_row_gets_its_numbers_whoever_its_neighbours_are() -> None:
    together = draw(rng.RowStreams(1, "x", range(5), 16), 30, 3)
    assert together.shape == (5, 90)
    assert together.min() >= 0
    assert together.max() < 1
    for rows in ([3], [4, 0], [1, 2, 3]):
        np.testing.assert_array_equal(draw(rng.RowStreams(1, "x", rows, 16), 30, 3), together[rows])
    assert len(np.unique(together)) == together.size
    assert not np.array_equal(draw(rng.RowStreams(1, "y", [0], 16), 30, 3), together[:1])


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("calls", range(23))
def test_row_streams_resume_at_any_cursor(k: int, calls: int) -> None:
    streams = rng.RowStreams(2, "x", range(3), 10)
    for _ in range(calls):
        streams.take(k)
    state = pickle.loads(pickle.dumps(streams.state_dict()))
    resumed = rng.RowStreams(99, "another", range(3), 10)
    resumed.take(2)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(draw(resumed, 12, k), draw(streams, 12, k))


def test_row_streams_are_uniform() -> None:
    numbers = draw(rng.RowStreams(0, "x", range(4), 64), 500, 4)
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * numbers.size)


# What travels


def test_a_batch_is_a_view_by_name() -> None:
    columns = {"obs": torch.zeros(3, 2), "weight": torch.ones(3), "reward": torch.arange(3.0)}
    batch = Batch(columns)
    assert batch.reward is columns["reward"]
    assert len(batch) == 3
    assert sorted(batch) == ["obs", "reward", "weight"]
    with pytest.raises(AttributeError, match="no column 'rewards' in this batch; it has: obs, reward, weight"):
        _ = batch.rewards
    changed = batch.replace(reward=torch.ones(3), extra=torch.zeros(3))
    assert changed.reward.sum() == 3
    assert batch.reward.sum() == 3
    assert "extra" not in batch.columns
    assert changed.obs is batch.obs
    assert repr(batch) == "Batch(obs=(3, 2), weight=(3,), reward=(3,))"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_a_batch_can_be_copied_and_sent(duplicate: Any) -> None:
    other = duplicate(Batch({"weight": torch.ones(3)}))
    assert torch.equal(other.weight, torch.ones(3))


def test_linear_is_a_straight_line_between_two_plateaus() -> None:
    line = Linear(1.0, 0.1, 1_000)
    assert [line(step) for step in (-5, 0, 500, 1_000, 10**9)] == pytest.approx([1.0, 1.0, 0.55, 0.1, 0.1])
    assert line(1_000) == 0.1  # exactly
    assert Linear(0.4, 1.0, 10)(5) == pytest.approx(0.7)
    assert Linear(1.0, 0.5, 0)(0) == 0.5
    later = Linear(1.0, 0.0, 100, begin=50)
    assert [later(step) for step in (0, 50, 100, 150, 200)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_a_number_is_a_schedule() -> None:
    assert as_schedule(3)(10**6) == 3.0
    assert Constant(0.2)(0) == 0.2
    line = Linear(1.0, 0.0, 5)
    assert as_schedule(line) is line


def test_trees_are_arrays_or_dicts_of_them() -> None:
    one, two = {"a": np.ones(2), "b": np.zeros(3)}, {"b": np.ones(3), "a": np.ones(2)}
    assert {key: value.sum() for key, value in tree_map(np.add, one, two).items()} == {"a": 4, "b": 3}
    assert tree_map(np.add, np.ones(2), np.ones(2)).tolist() == [2, 2]
    assert [leaf.shape for leaf in tree_leaves(one)] == [(2,), (3,)]
    assert len(tree_leaves(np.ones(2))) == 1


def test_a_step_ends_where_it_terminates_or_is_truncated() -> None:
    row = np.zeros(4, np.float32)
    terminated, truncated = np.array([0, 1, 0, 1], bool), np.array([0, 0, 1, 1], bool)
    step = Step(row, row, row, row, terminated, truncated, row, terminated, truncated)
    assert step.ended.tolist() == [False, True, True, True]


def test_specs_say_what_is_an_image() -> None:
    image = ArraySpec((4, 84, 84), np.dtype(np.uint8), low=np.zeros(1))
    action = ActionSpec("discrete", (), np.dtype(np.int64), n=2)
    assert image.pixels
    assert image.size == 4 * 84 * 84
    assert not ArraySpec((4, 84, 84), np.dtype(np.float32)).pixels
    assert not ArraySpec((4,), np.dtype(np.uint8)).pixels
    assert ArraySpec((), np.dtype(np.float32)).size == 1
    assert image == ArraySpec((4, 84, 84), np.dtype(np.uint8))  # bounds do not count
    assert EnvSpec("x", image, action, 1).pixels
    assert not EnvSpec("x", {"camera": image}, action, 1).pixels


def test_what_has_a_state_dict_is_stateful() -> None:
    assert isinstance(torch.nn.Linear(1, 1), Stateful)
    assert isinstance(rng.RowStreams(0, "x", [0]), Stateful)
    assert not isinstance(Linear(0, 1, 2), Stateful)
