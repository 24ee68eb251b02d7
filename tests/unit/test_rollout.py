"""Rollouts: laid out as they happened, prepared once, drawn as partitions, never seen again, resumed exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from protorl.data import Batch, Chunk, Columns, ProtoRLError, Step, tree_leaves, tree_map
from protorl.functional import gae
from protorl.memory import All, Minibatches, Prioritized, Rate, Replay, Rollout
from tests.streams import RICH, STREAMS, TAG, ListMemory, Stream, columns

GAMMA = 0.9
KINDS = ["vector", "reset", "zero", "dict"]  # stacks of frames padded in either way


def make_stream(kind: str, n: int, seed: int, **options: Any) -> Any:
    stack, padding = (4, kind) if kind in ("reset", "zero") else (1, "reset")
    stream = Stream(n, seed, stack=stack, padding=padding, **options)

    def step() -> Step:
        one = stream.step()
        if kind != "dict":
            return one
        obs, next_obs = ({"where": x, "twice": 2 * x} for x in (one.obs, one.next_obs))
        return one._replace(obs=obs, next_obs=next_obs)

    return step


def make_columns(kind: str, n: int) -> Columns:
    if kind in ("reset", "zero"):
        return columns(n, (4, 2, 2), np.uint8, TAG, frame_stack=4, stack_padding=kind)
    plain = columns(n, extras=TAG)
    return Columns({"where": plain.obs, "twice": plain.obs}, plain.action, n, TAG) if kind == "dict" else plain


class Prepare:
    """Remembers what it was given, and hands it on with a column of its own."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def __call__(self, rollout: Batch) -> Batch:
        self.seen.append(rollout)
        t, n = rollout.reward.shape[:2]
        return rollout.replace(place=torch.arange(t * n).reshape(t, n))


def make(
    kind: str, n: int, t: int, minibatches: int = 3, epochs: int = 2, slack: int = 0, **options: Any
) -> tuple[Replay, Prepare]:
    prepare = Prepare()
    memory = Replay(
        make_columns(kind, n), (t + slack) * n, batch_size=2, view=Rollout(prepare, GAMMA, **options),
        sampler=Minibatches(minibatches), rate=Rate(0, t * n, minibatches * epochs), seed=1,
    )  # fmt: skip
    return memory, prepare


def row_of(obs: Any, i: int) -> Any:
    return tree_map(lambda x: x[i].copy(), obs)


class Lanes:
    """The oracle: since the last burst, the valid rows of each environment in a list."""

    def __init__(self, n: int) -> None:
        self.n, self.carries_on = n, [False] * n
        self.before: list[tuple[Any, Any]] = [(0, 0.0)] * n
        self.clear()

    def clear(self) -> None:
        self.rows: list[list[dict[str, Any]]] = [[] for _ in range(self.n)]

    def add(self, step: Step) -> None:
        for i in np.flatnonzero(step.valid).tolist():
            if step.first[i] and self.carries_on[i] and self.rows[i]:
                self.rows[i][-1]["ended"] = True  # interrupted: a truncation
            self.carries_on[i] = not step.ended[i]
            last = (0, 0.0) if step.first[i] else self.before[i]
            self.before[i] = (step.action[i], step.reward[i])
            row = {
                "obs": row_of(step.obs, i), "next_obs": row_of(step.next_obs, i),
                "action": step.action[i], "reward": step.reward[i], "discount": np.float32(GAMMA) * step.discount[i],
                "first": step.first[i], "ended": step.ended[i], "tag": step.extras["tag"][i], "weight": 1.0,
                "last_action": last[0], "last_reward": last[1], "raw_reward": step.reward[i],
            }  # fmt: skip
            self.rows[i].append(row)


def assert_rollout(rollout: Batch, lanes: list[list[dict[str, Any]]]) -> None:
    length = max(map(len, lanes))
    assert rollout.reward.shape == (length, len(lanes))
    for i, rows in enumerate(lanes):
        start = length - len(rows)
        assert (rollout.weight[:start, i] == 0).all()
        assert (rollout.reward[:start, i] == 0).all()
        for t, row in enumerate(rows, start):
            for name, expected in row.items():
                found = tree_leaves(tree_map(lambda x, t=t, i=i: x[t, i].numpy(), rollout.columns[name]))
                for one, other in zip(found, tree_leaves(expected), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=f"{name} of row {t} of environment {i}")
    assert set(rollout) == {*lanes[-1][0]}


def key(obs: Any, i: int) -> bytes:
    return b"".join(leaf[i].numpy().tobytes() for leaf in tree_leaves(obs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "t"), [(3, 5), (1, 12), (4, 2)])
def test_a_rollout_is_what_happened_and_is_used_up(kind: str, n: int, t: int) -> None:
    memory, prepare = make(kind, n, t)
    step, lanes, orders = make_stream(kind, n, 3), Lanes(n), []
    for vector_step in range(1, 6 * t + 1):
        one = step()
        memory.add(Chunk.of(one))
        lanes.add(one)
        assert len(memory) == sum(map(len, lanes.rows))
        due = memory.due()
        assert due == (6 if vector_step % t == 0 else 0)
        if not due:
            continue
        batches = [memory.sample() for _ in range(due)]
        assert len(prepare.seen) == vector_step // t  # once a burst
        rollout = prepare.seen[-1]
        assert_rollout(rollout, lanes.rows)
        flat = tree_map(lambda x: x.flatten(0, 1), rollout.obs)
        for epoch in (batches[:3], batches[3:]):
            places = torch.cat([batch.place for batch in epoch])
            assert sorted(places.tolist()) == list(range(t * n))  # each row once
            orders.append(places.tolist())
            assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
            for batch in epoch:
                assert (batch.weight == 1).all()
                for i, place in enumerate(batch.place.tolist()):
                    assert key(batch.obs, i) == key(flat, place)
                    assert batch.tag[i] == rollout.tag.flatten()[place]
        lanes.clear()
    assert len({tuple(order) for order in orders}) == len(orders) == 12  # a new order each time


@pytest.mark.parametrize("interruptions", [False, True])
@pytest.mark.parametrize("slack", [0, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_environments_with_fewer_steps_are_padded_at_the_front(kind: str, slack: int, interruptions: bool) -> None:
    """Without slack, an environment that outruns the others loses what exceeds its share of the capacity: its oldest rows."""
    n, t = 3, 8
    memory, prepare = make(kind, n, t, slack=slack)
    for leaf in memory.storage.leaves:  # what nobody wrote must not reach anyone
        leaf.data.fill_(float("nan") if leaf.data.is_floating_point() else 99)
    memory.storage.clear_zero_frame()
    step, lanes, bursts, ragged = make_stream(kind, n, 5, holes=True, interruptions=interruptions), Lanes(n), 0, 0
    while bursts < 6:
        one = step()
        memory.add(Chunk.of(one))
        lanes.add(one)
        due = memory.due()
        if not due:
            continue
        bursts += 1
        kept = [rows[-(t + slack) :] for rows in lanes.rows]
        ragged += len({len(rows) for rows in kept}) > 1
        batches = [memory.sample() for _ in range(due)]
        rollout = prepare.seen[-1]
        assert_rollout(rollout, kept)
        real = torch.nonzero(rollout.weight.flatten())[:, 0].tolist()
        for epoch in (batches[:3], batches[3:]):
            assert sorted(torch.cat([batch.place for batch in epoch]).tolist()) == real  # padding is never drawn
        assert all(torch.isfinite(leaf.float()).all() for leaf in tree_leaves(rollout.obs) + tree_leaves(rollout.next_obs))
        assert_advantages(rollout, kept)
        lanes.clear()
    assert ragged >= 3


def assert_advantages(rollout: Batch, lanes: list[list[dict[str, Any]]]) -> None:
    """As if each environment were alone, and had no padding."""
    value, next_value = (torch.randn(rollout.reward.shape, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    advantage = gae(rollout.reward, rollout.discount, rollout.ended, value, next_value, 0.95)
    for i, rows in enumerate(lanes):
        if rows:
            alone = [torch.tensor(np.array([row[name] for row in rows])) for name in ("reward", "discount", "ended")]
            mine = gae(*alone, value[-len(rows) :, i], next_value[-len(rows) :, i], 0.95)
            assert_close(advantage[-len(rows) :, i], mine)


def test_an_environment_without_a_single_step_is_all_padding() -> None:
    memory, prepare = make("vector", 3, 1, minibatches=1, epochs=1, slack=3)
    for leaf in memory.storage.leaves:
        leaf.data.fill_(float("nan"))
    step, lanes, bursts = make_stream("vector", 3, 0), Lanes(3), 0
    while bursts < 4:
        one = step()._replace(valid=np.array([True, False, True]))
        memory.add(Chunk.of(one))
        lanes.add(one)
        if memory.due():
            bursts += 1
            assert memory.sample().obs[:, 0].unique().tolist() == [0.0, 2.0]
            assert_rollout(prepare.seen[-1], lanes.rows)
            assert torch.isfinite(prepare.seen[-1].obs).all()
            lanes.clear()


@pytest.mark.parametrize("holes", [False, True])
def test_streams_of_a_rollout_and_advantages_through_ends_of_episodes(holes: bool) -> None:
    n, t, prepare = 3, 8, Prepare()
    spec = replace(columns(n, extras=RICH), reward_shape=(2,))
    memory = Replay(
        spec, (t + 30) * n, batch_size=2, view=Rollout(prepare, GAMMA, streams=STREAMS), sampler=Minibatches(2),
        rate=Rate(0, t * n, 2),
    )  # fmt: skip
    stream, lanes, since = Stream(n, 4, holes=holes, rich=True), ListMemory(n, 10_000), [0] * n
    for _ in range(60):
        chunk = Chunk.stack([stream.step() for _ in range(2)])
        memory.add(chunk)
        lanes.add(chunk)
        if not memory.due():
            continue
        memory.sample()
        rollout = prepare.seen[-1]
        value = rollout.obs.sum(-1)
        following = torch.cat([value[1:], rollout.next_obs[-1:].sum(-1)])  # as `Rollout` says
        never = torch.zeros_like(rollout.ended)
        advantage = gae(rollout.curious, rollout.curious_discount, never, value, following, 0.95)
        for lane, rows in enumerate(lanes.lanes):
            mine, carry = rows[since[lane] :], 0.0
            since[lane] = len(rows)
            for k in range(1, len(mine) + 1):
                row = mine[-k]
                for name in ("reward", "bonus", "carry", "gamma"):
                    assert_close(rollout.columns[name][-k, lane], torch.tensor(row[name], dtype=torch.float32))
                assert_close(rollout.discount[-k, lane].item(), float(row["gamma"] * row["discount"]))
                assert_close(rollout.bonus_discount[-k, lane].item(), 0.7 * row["discount"])
                after = row["next_obs"] if k == 1 else mine[1 - k]["obs"]
                delta = row["curious"] + 0.8 * after.sum() - row["obs"].sum()
                carry = delta + 0.8 * 0.95 * carry
                assert_close(advantage[-k, lane].item(), float(carry), rtol=1e-4, atol=1e-3)
            padding = rollout.weight[: len(rollout.weight) - len(mine), lane]
            assert (padding == 0).all()
            for name in ("reward", "bonus", "curious"):
                assert (rollout.columns[name][: len(padding), lane] == 0).all()
    assert len(prepare.seen) >= 6


def test_a_method_is_asked_for_by_name_so_that_a_faster_one_is_used() -> None:
    class Agent:
        def prepare(self, rollout: Batch) -> Batch:
            raise AssertionError

    agent, faster = Agent(), Prepare()
    memory = Replay(columns(1, extras=TAG), 8, batch_size=1, view=Rollout(agent.prepare), rate=Rate(0, 4, 1))
    agent.prepare = faster  # type: ignore[method-assign]
    step = make_stream("vector", 1, 0)
    for _ in range(4):
        memory.add(Chunk.of(step()))
    assert memory.due()
    memory.sample()
    assert len(faster.seen) == 1


def test_with_all_a_rollout_is_one_batch_in_the_order_of_time() -> None:
    prepare = Prepare()
    memory = Replay(
        columns(3, extras=TAG), 12, batch_size=1, view=Rollout(prepare, GAMMA), sampler=All(), rate=Rate(0, 12, 1)
    )  # fmt: skip
    step = make_stream("vector", 3, 2)
    for _ in range(3):
        for _ in range(4):
            memory.add(Chunk.of(step()))
        assert memory.due() == 1
        assert memory.sample().place.tolist() == list(range(12))
    assert len(prepare.seen) == 3


def test_nothing_is_prepared_again_inside_a_burst_and_everything_after_it() -> None:
    memory, prepare = make("vector", 2, 4, epochs=5)
    step = make_stream("vector", 2, 0)
    for burst in range(1, 4):
        for _ in range(4):
            memory.add(Chunk.of(step()))
        for _ in range(memory.due()):
            memory.sample()
            assert len(prepare.seen) == burst
    memory.add(Chunk.of(step()))
    assert len(memory) == 2
    assert memory.due() == 0
    memory.batch_size = 3
    with pytest.raises(ProtoRLError, match="batch_size 3 exceeds the 2 examples stored"):
        memory.sample()


def test_an_epoch_that_a_burst_left_unfinished_is_not_finished_with_the_next_rollout() -> None:
    memory, _ = make("vector", 2, 6)
    memory.rate.updates = 4  # of three minibatches
    step = make_stream("vector", 2, 0)
    for _ in range(3):
        for _ in range(6):
            memory.add(Chunk.of(step()))
        batches = [memory.sample() for _ in range(memory.due())]
        assert sorted(torch.cat([batch.place for batch in batches[:3]]).tolist()) == list(range(12))
        assert len(batches) == 4


def test_forgotten_rows_leave_every_sampler() -> None:
    memory = Replay(columns(2, extras=TAG), 20, batch_size=2, sampler=Prioritized())
    step = make_stream("vector", 2, 0)
    for _ in range(6):
        memory.add(Chunk.of(step()))
    assert memory.sampler.tree.total == 12
    memory.forget()
    assert len(memory) == memory.sampler.tree.total == 0
    new = step()
    memory.add(Chunk.of(new))
    drawn = {tuple(obs) for _ in range(20) for obs in memory.sample().obs.tolist()}
    assert drawn == {tuple(obs) for obs in new.obs.tolist()}


def test_rewards_are_clipped_where_asked() -> None:
    memory, prepare = make("vector", 2, 4, clip_reward=0.5)
    step, rewards = make_stream("vector", 2, 0), []
    for _ in range(4):
        one = step()
        rewards.append(one.reward)
        memory.add(Chunk.of(one))
    assert memory.due()
    memory.sample()
    assert_close(prepare.seen[0].reward, torch.from_numpy(np.array(rewards)).clamp(-0.5, 0.5))
    assert np.abs(rewards).max() > 0.5


@pytest.mark.parametrize(("arguments", "message"), [((1.5,), "gamma 1.5"), ((0.9, 0.0), "clip_reward 0.0")])
def test_impossible_settings_get_one_sentence(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ProtoRLError, match=message):
        Rollout(lambda rollout: rollout, *arguments)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_saved_at_any_time_goes_on_as_if_it_had_not_been(kind: str, holes: bool) -> None:
    """In the middle of a rollout, right after a burst, before the first one; rows are saved as a checkpoint saves them."""
    n, t = 2, 6
    for saved_at in (2, t - 1, t, t + 1, 2 * t, 3 * t + 4):
        original, seen = make(kind, n, t, slack=6)
        step = make_stream(kind, n, 9, holes=holes)
        segments, marks = [], [0] * n
        for k in range(saved_at):
            turn(original, step())
            if k % 4 == 1:
                segments.append(original.rows([max(*both) for both in zip(marks, original.oldest())]))
                marks = original.marks()
        segments.append(original.rows([max(*both) for both in zip(marks, original.oldest())]))
        restored, seen_again = make(kind, n, t, slack=6)
        for segment in segments:
            restored.restore_rows(segment)
        restored.load_state_dict(original.state_dict())
        assert len(restored) == len(original)
        seen.seen.clear()
        for _ in range(4 * t):
            one = step()
            ours, theirs = turn(original, one), turn(restored, one)
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs):
                assert_same(a, b)
        assert len(seen.seen) == len(seen_again.seen) >= 3
        for a, b in zip(seen.seen, seen_again.seen):
            assert_same(a, b)


def turn(memory: Replay, step: Step) -> list[Batch]:
    memory.add(Chunk.of(step))
    return [memory.sample() for _ in range(memory.due())]


def assert_same(one: Batch, two: Batch) -> None:
    assert set(one) == set(two)
    for name in one:
        for a, b in zip(tree_leaves(one.columns[name]), tree_leaves(two.columns[name]), strict=True):
            assert torch.equal(a, b), name
