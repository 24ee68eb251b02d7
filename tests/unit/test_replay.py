"""The memory against a list-based oracle under random operations, and its edges."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from protorl.data import ArraySpec, Chunk, Columns, Field, ProtoRLError, tree_map
from protorl.data import Stream as Reward
from protorl.memory import (
    All,
    Minibatches,
    NStep,
    Prioritized,
    Rate,
    Replay,
    Rollout,
    Sequence,
    Uniform,
    plan_memory,
    storage,
    tables,
    transfer,
)
from protorl.parts import parts
from tests.streams import ACTION, RICH, STREAMS, TAG, ListMemory, Stream, columns, out_of_step


def everything(memory: Replay) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    rows = memory.window.all()
    if not len(rows):
        return {}
    found = memory.view.examples(memory.storage, memory.window, rows, np.ones(len(rows), np.float32))
    lanes = memory.storage.lanes
    return {(row % lanes, row // lanes): {k: v[i].numpy() for k, v in found.items()} for i, row in enumerate(rows)}


def assert_same(memory: Replay, oracle: ListMemory) -> None:
    view = memory.view
    expected = oracle.examples(view.n, view.gamma, view.streams)
    actual = everything(memory)
    assert actual.keys() == expected.keys()
    if not expected:
        return
    names = next(iter(expected.values())).keys() - {"ended"}
    assert all(example.keys() == names | {"weight"} for example in actual.values())
    for name in names:
        ours, theirs = (np.stack([rows[key][name] for key in expected]) for rows in (actual, expected))
        computed = not (name.endswith("obs") or name in ("action", "tag", "gamma", "carry"))  # the others are copies
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 * computed, atol=1e-6 * computed, err_msg=f"{name} of {[*expected]}")


def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: rows wait until somebody reads, or until a few kilobytes do."""
    monkeypatch.setattr(storage, "in_main_memory", lambda device: False)
    for module in (storage, tables):
        monkeypatch.setattr(module, "send", lambda arrays, device: transfer.together(arrays, device, pin=False))
    monkeypatch.setattr(tables, "WAITING", 300)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("stack", [(1, "reset"), (4, "reset"), (4, "zero")])
@pytest.mark.parametrize("table", ["small", "big", "device"])
def test_every_sampleable_row_equals_the_oracle(
    num_envs: int, n: int, stack: tuple[int, str], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if table == "big":  # rows of bytes and of whole words, gathered by the compiled loop
        monkeypatch.setattr(tables, "SMALL_ROW", 0)
    if table == "device":
        on_a_device(monkeypatch)
    k, padding = stack
    shape, dtype = ((2,), np.float32) if k == 1 else ((k, 2, 2), np.uint8)
    spec = columns(num_envs, shape, dtype, TAG, frame_stack=k, stack_padding=padding)
    memory = Replay(spec, 40, batch_size=1, view=NStep(n, 0.9))
    oracle = ListMemory(num_envs, 40)
    stream = Stream(num_envs, seed=n, holes=num_envs > 1, interruptions=True, stack=k, padding=padding)
    for t in range(150):
        step = stream.step()
        memory.add(Chunk.of(step))
        oracle.add(Chunk.of(step))
        if t % 7 == 0 or t < 15:
            assert_same(memory, oracle)
    assert_same(memory, oracle)


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("stack", [(1, "reset"), (4, "reset"), (4, "zero")])
@pytest.mark.parametrize("table", ["small", "device"])
def test_lanes_out_of_step_in_chunks_of_unequal_length(
    n: int, stack: tuple[int, str], table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if table == "device":
        on_a_device(monkeypatch)
    k, padding = stack
    shape, dtype = ((2,), np.float32) if k == 1 else ((k, 2, 2), np.uint8)
    memory = Replay(columns(3, shape, dtype, TAG, frame_stack=k, stack_padding=padding), 40, batch_size=1, view=NStep(n, 0.9))
    oracle = ListMemory(3, 40)
    stream = Stream(3, seed=n, holes=True, interruptions=True, stack=k, padding=padding)
    longest = [1, 4, 13, 14, 50]  # of the last, a chunk exceeds what the memory holds of a lane
    for i, chunk in zip(range(60), out_of_step(stream, n, longest[n - 1])):
        memory.add(chunk)
        oracle.add(chunk)
        if i % 3 == 0:
            assert_same(memory, oracle)
    assert_same(memory, oracle)
    assert memory.rate.steps == sum(map(len, oracle.lanes))


@pytest.mark.parametrize("n", [1, 3, 5])
@pytest.mark.parametrize("sampler", [Uniform, Prioritized])
@pytest.mark.parametrize(("stack", "table"), [(1, "small"), (4, "big"), (4, "device")])
def test_streams_teams_and_starts_with_a_resume_in_the_middle(
    n: int, sampler: Any, stack: int, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams of reward, of which one flows through ends of episodes; rewards of a team; gammas of the rows; a column for
    starts only: 3 lanes out of step that wrap around several times."""
    if table == "big":
        monkeypatch.setattr(tables, "SMALL_ROW", 0)
    if table == "device":
        on_a_device(monkeypatch)
    shape, dtype = ((2,), np.float32) if stack == 1 else ((stack, 2, 2), np.uint8)
    spec = replace(columns(3, shape, dtype, RICH, frame_stack=stack), reward_shape=(2,))

    def make() -> Replay:
        return Replay(spec, 90, batch_size=4, view=NStep(n, 0.9, streams=STREAMS), sampler=sampler(), seed=1)

    memory, oracle, segments, marks = make(), ListMemory(3, 90), [], [0, 0, 0]
    chunks = out_of_step(Stream(3, n, holes=True, interruptions=True, stack=stack, rich=True), n, 9)
    for i, chunk in zip(range(90), chunks):
        memory.add(chunk)
        oracle.add(chunk)
        if i % 12 == 5:
            assert_same(memory, oracle)
            segments.append(copy.deepcopy(memory.rows([max(both) for both in zip(marks, memory.oldest())])))
            marks = memory.marks()
        if i in (5, 53):
            resumed = make()
            for segment in segments:
                resumed.restore_rows(segment)
            resumed.load_state_dict(memory.state_dict())
            one, two = memory.sample(), resumed.sample()
            assert set(one) == set(two)
            assert all(torch.equal(one.columns[name], two.columns[name]) for name in one)
            memory = resumed
            assert_same(memory, oracle)
    assert_same(memory, oracle)
    assert min(map(len, oracle.lanes)) > 100


def test_a_stream_keeps_its_successor_where_the_reward_is_not_discounted_at_all() -> None:
    memory = Replay(columns(extras=RICH), 60, batch_size=1, view=NStep(3, 0.0, streams=STREAMS[1:]))
    oracle = ListMemory(1, 60)
    stream = Stream(1, 0, rich=True)
    for t in range(40):
        step = stream.step()
        step = step._replace(reward=step.reward[:, 0], extras={**step.extras, "gamma": np.full(1, t % 2, np.float32)})
        memory.add(Chunk.of(step))
        oracle.add(Chunk.of(step))
    rows = oracle.lanes[0]
    for (_, t), example in everything(memory).items():
        last = next(k for k in range(t, t + 3) if k == t + 2 or rows[k]["ended"] or rows[k]["discount"] == 0)
        np.testing.assert_array_equal(example["next_obs"], rows[last]["next_obs"])


def test_steps_in_a_chunk_are_those_it_was_made_of() -> None:
    stream = Stream(3, 0)
    steps = [stream.step() for _ in range(5)]
    steps = [step._replace(obs={"x": step.obs}, next_obs={"x": step.next_obs}) for step in steps]
    chunk = Chunk.stack(steps)
    assert chunk.lanes.tolist() == [0, 1, 2]
    for one in ([*chunk.steps()], [step for step in steps for step in Chunk.of(step).steps()]):
        for a, b in zip(one, steps, strict=True):
            np.testing.assert_equal(a, b)
    assert [len(piece.reward) for piece in chunk.pieces(2)] == [2, 2, 1]
    assert np.shares_memory(Chunk.of(steps[0]).obs["x"], steps[0].obs["x"])


def test_the_side_region_grows_with_very_short_episodes() -> None:
    memory = Replay(columns(extras=TAG), 500, batch_size=1, view=NStep(2, 0.9))
    oracle = ListMemory(1, 500)
    stream = Stream(1, seed=0)
    for _ in range(700):
        step = stream.step()._replace(truncated=np.array([True]), first=np.array([True]))
        memory.add(Chunk.of(step))
        oracle.add(Chunk.of(step))
    assert memory.storage.sides > 500
    assert_same(memory, oracle)


def test_traps_n_step_tails_of_a_terminal_and_a_truncated_chain() -> None:
    # n = 3, gamma = .9, r = 1..5: returns and discounts as worked out by hand.
    for truncated, discounts in ((False, [0.729, 0.729, 0, 0, 0]), (True, [0.729, 0.729, 0.729, 0.81, 0.9])):
        memory = Replay(columns(), 10, batch_size=1, view=NStep(3, 0.9))
        for t in range(5):
            step = Stream(1, 0).step()
            last = t == 4
            memory.add(
                Chunk.of(
                    step._replace(
                        reward=np.array([t + 1], np.float32),
                        discount=np.array([0.0 if last and not truncated else 1.0], np.float32),
                        terminated=np.array([last and not truncated]),
                        truncated=np.array([last and truncated]),
                        first=np.array([t == 0]),
                        extras={},
                    )
                )
            )
        found = everything(memory)
        np.testing.assert_allclose([found[0, t]["reward"] for t in range(5)], [5.23, 7.94, 10.65, 8.5, 5], rtol=1e-6)
        np.testing.assert_allclose([found[0, t]["discount"] for t in range(5)], discounts, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_rewards_are_clipped_one_by_one_before_they_are_scaled_and_summed(scale: float) -> None:
    memory = Replay(columns(), 10, batch_size=1, view=NStep(2, 1.0, clip_reward=1.0, reward_scale=scale))
    stream = Stream(1, 1)
    for t, reward in enumerate((5.0, -0.5, -7.0)):
        step = stream.step()
        quiet = np.array([False])
        memory.add(Chunk.of(
            step._replace(
                reward=np.array([reward], np.float32), discount=np.ones(1, np.float32), terminated=quiet, truncated=quiet,
                first=np.array([t == 0]), extras={},
            )
        ))  # fmt: skip
    found = everything(memory)
    np.testing.assert_allclose([found[0, t]["reward"] for t in range(2)], [0.5 * scale, -1.5 * scale], rtol=1e-6)


def test_dict_observations_are_stored_key_by_key() -> None:
    spec = Columns(
        {"image": ArraySpec((1, 4, 4), np.dtype(np.uint8)), "goal": ArraySpec((3,), np.dtype(np.float32))}, ACTION, 1
    )
    memory = Replay(spec, 8, batch_size=1)
    template = Stream(1, 0).step()
    rng = np.random.default_rng(0)
    obs = [
        {"image": rng.integers(0, 256, (1, 1, 4, 4)).astype(np.uint8), "goal": rng.random((1, 3), np.float32)} for _ in range(6)
    ]
    no = np.array([False])
    for t in range(5):
        memory.add(
            Chunk.of(
                template._replace(
                    obs=obs[t], next_obs=obs[t + 1], terminated=no, truncated=no, first=np.array([t == 0]), extras={}
                )
            )
        )
    columns_ = memory.view.examples(memory.storage, memory.window, np.arange(5), np.ones(5, np.float32))
    for key in ("image", "goal"):
        np.testing.assert_array_equal(columns_["obs"][key].numpy(), np.concatenate([o[key] for o in obs[:5]]))
        np.testing.assert_array_equal(columns_["next_obs"][key].numpy(), np.concatenate([o[key] for o in obs[1:]]))


def test_sampled_examples_never_leave_their_episode_over_three_times_the_capacity() -> None:
    memory = Replay(columns(2, extras=TAG), 60, batch_size=32, view=NStep(3, 0.9), sampler=Prioritized())
    oracle = ListMemory(2, 60)
    stream = Stream(2, 5, holes=True)
    for t in range(180):
        step = stream.step()
        memory.add(Chunk.of(step))
        oracle.add(Chunk.of(step))
        if len(memory) >= 32 and t % 10 == 0:
            batch = memory.sample()
            expected = oracle.examples(3, 0.9)
            for i, row in enumerate(batch.index.tolist()):
                example = expected[row % 2, row // 2]
                np.testing.assert_array_equal(batch.next_obs[i].numpy(), example["next_obs"])
                assert batch.tag[i] == example["tag"]
            memory.feedback(batch, torch.rand(32))


def test_uniform_draws_every_row_of_every_lane_equally_often() -> None:
    memory = Replay(columns(3, extras=TAG), 30, batch_size=30, sampler=Uniform())
    stream = Stream(3, 2, holes=True)
    for _ in range(25):
        memory.add(Chunk.of(stream.step()))
    counts = np.zeros(len(memory))
    rows = memory.window.all()
    draws = 2_000
    for _ in range(draws):
        counts += np.bincount(np.searchsorted(rows, memory.sample().index.numpy()), minlength=len(rows))
    expected = draws * 30 / len(rows)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < len(rows) + 5 * np.sqrt(2 * len(rows))


def test_all_and_minibatches_partition_what_is_stored() -> None:
    memory = Replay(columns(2, extras=TAG), 20, batch_size=1, sampler=All())
    parts = Replay(columns(2, extras=TAG), 20, batch_size=1, sampler=Minibatches(3))
    stream = Stream(2, 3)
    for _ in range(10):
        step = stream.step()
        memory.add(Chunk.of(step))
        parts.add(Chunk.of(step))
    assert memory.sample().index.tolist() == list(range(20))
    epochs = [[parts.sample().index for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(torch.cat(epoch).tolist()) == list(range(20))
        assert [len(part) for part in epoch] == [7, 7, 6]
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_rate_depends_on_agent_steps_alone() -> None:
    def schedule(chunk: int) -> list[int]:
        rate, due = Rate(start=100, every=4, updates=2), []
        for _ in range(240 // chunk):
            rate.count(chunk)
            due.append(rate.take())
        return due

    assert sum(schedule(1)) == sum(schedule(8)) == sum(schedule(60)) == 2 * (240 // 4 - 100 // 4)
    assert schedule(1)[:100] == [0] * 100
    assert schedule(1)[103] == 2


def test_updates_wait_for_a_full_batch_of_complete_windows() -> None:
    memory = Replay(columns(extras=TAG), 50, batch_size=8, view=NStep(3, 0.9), rate=Rate(0, 1, 1))
    stream = Stream(1, 0)
    due = []
    for _ in range(10):
        quiet = np.array([False])
        memory.add(Chunk.of(stream.step()._replace(terminated=quiet, truncated=quiet, first=np.array([not due]))))
        due.append(memory.due())
    assert due[:9] == [0] * 9
    assert due[9] > 0
    with pytest.raises(
        ProtoRLError, match="batch_size 8 exceeds the 0 examples stored: raise warmup_steps or lower batch_size"
    ):
        Replay(columns(), 50, batch_size=8).sample()


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("start", "every", "batch_size", "n"), [(0, 1, 8, 3), (20, 7, 4, 1), (25, 4, 30, 5), (0, 40, 2, 3)])
def test_nothing_is_due_while_there_is_room(num_envs: int, start: int, every: int, batch_size: int, n: int) -> None:
    memory = Replay(
        columns(num_envs, extras=TAG), 60, batch_size=batch_size, view=NStep(n, 0.9), rate=Rate(start, every, 2)
    )  # fmt: skip
    stream, promises, exact = Stream(num_envs, n, holes=True), [], 0
    for _ in range(120):
        promises.append(memory.rate.steps + memory.room())
        memory.add(Chunk.of(stream.step()))
        if memory.due():
            assert memory.rate.steps >= max(promises)
            exact += memory.rate.steps < promises[-1] + num_envs
            assert len(memory) < 30 or memory.room() == every - memory.rate.steps % every
    assert exact == memory.rate.expected(memory.rate.steps) / 2 or every < num_envs or batch_size > 4


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize(
    ("start", "every", "batch_size"), [(0, 1, 40), (10, 1, 40), (0, 16, 40), (39, 4, 40), (40, 4, 40), (90, 4, 40)]
)
def test_nothing_is_owed_for_what_could_not_be_sampled(
    num_envs: int, in_chunks: bool, start: int, every: int, batch_size: int
) -> None:
    """No burst follows a warm-up below the batch size; in chunks as large as there is room, and one step at a time."""
    updates = 2
    memory = Replay(columns(num_envs, extras=TAG), 300, batch_size=batch_size, rate=Rate(start, every, updates))
    stream, made = Stream(num_envs, 3), {}
    while memory.rate.steps < 150:
        vector_steps = -(-memory.room() // num_envs) if in_chunks else 1
        memory.add(Chunk.stack([stream.step() for _ in range(vector_steps)]))
        if due := memory.due():
            made[memory.rate.steps] = due
    owing = [step for step in range(max(start, batch_size - num_envs) + 1, memory.rate.steps + 1) if step % every == 0]
    wanted = {}
    for step in owing:
        at = -(-step // num_envs) * num_envs
        if at >= batch_size:  # the vector step in which the last example came counts whole
            wanted[at] = wanted.get(at, 0) + updates
    assert made == wanted
    assert sum(made.values()) == memory.expected(memory.rate.steps)


def test_a_burst_leaves_room_for_the_next_rollout() -> None:
    memory = Replay(columns(2, extras=TAG), 24, batch_size=6, view=Rollout(lambda batch: batch), rate=Rate(0, 24, 3))
    stream, rooms = Stream(2, 0), []
    for _ in range(30):
        rooms.append(memory.room())
        memory.add(Chunk.of(stream.step()))
        for _ in range(memory.due()):
            memory.sample()
    assert rooms[:26] == [*range(24, 0, -2), *range(24, 0, -2), 24, 22]


def test_copies_on_insert() -> None:
    memory = Replay(columns(), 10, batch_size=1)
    step = Stream(1, 0).step()._replace(extras={})
    kept = step.obs.copy()
    memory.add(Chunk.of(step))
    step.obs[:] = -1
    step.next_obs[:] = -1
    (example,) = everything(memory).values()
    np.testing.assert_array_equal(example["obs"], kept[0])


def test_plan_says_the_bytes_and_refuses_what_does_not_fit() -> None:
    atari = columns(shape=(4, 84, 84), dtype=np.uint8, frame_stack=4)
    plan = plan_memory(atari, 1_000_000)
    assert 7.0e9 < plan.total < 7.2e9
    assert "replay of 1,000,000 steps on cpu: 7.1 GB (obs 7.1 GB" in str(plan)
    carry = replace(atari, num_envs=4, extras={"carry": Field((1_000,), np.dtype(np.float32), starts=True)})
    assert plan_memory(carry, 1_000_000).columns["carry"] == 1_000_016 * 4_000
    assert 100e6 < plan_memory(carry, 1_000_000, starts=Sequence().starts).columns["carry"] < 110e6
    assert plan_memory(replace(atari, reward_shape=(3,)), 100).columns["reward"] == 12 * 104
    with pytest.raises(ProtoRLError, match=r"are free: lower capacity to at most [\d,]+ steps"):
        Replay(atari, 10**9)


def taken(memory: Replay) -> int:
    """Bytes of everything that a memory holds."""
    held = {}
    for _, thing in parts(memory):
        array = thing.numpy() if isinstance(thing, torch.Tensor) else thing
        while isinstance(array, np.ndarray):
            held[array.__array_interface__["data"][0]] = array.nbytes
            array = array.base
    return sum(held.values())


@pytest.mark.parametrize("sampler", [Uniform, Prioritized, lambda: Prioritized(normalise="memory")])
@pytest.mark.parametrize("shape", ["vectors", "frames", "rich"])
def test_what_is_told_is_what_is_taken(shape: str, sampler: Any, caplog: pytest.LogCaptureFixture) -> None:
    of = {
        "vectors": columns(8, (17,), np.float64),
        "frames": columns(2, (4, 12, 12), np.uint8, frame_stack=4),
        "rich": columns(2, extras=RICH),
    }[shape]
    with caplog.at_level("INFO", logger="protorl"):
        memory = Replay(of, 50_000, batch_size=2, sampler=sampler(), view=Sequence(20, 5, 10) if shape == "rich" else None)
    priorities = getattr(memory.sampler, "bytes", None)
    plan = plan_memory(of, 50_000, starts=memory.view.starts, priorities=priorities)
    assert str(plan) in caplog.text
    assert taken(memory) == pytest.approx(plan.total + plan.ends, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 2, "num_envs": 3, "batch_size": 1}, "capacity 2 is less than one step for each of the 3 environments"),
        ({"capacity": 10, "batch_size": 11}, "batch_size 11 exceeds capacity 10"),
        ({"capacity": 10, "batch_size": 0}, "batch_size 0 is too small"),
    ],
)
def test_contradictory_sizes_get_one_sentence(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ProtoRLError, match=message):
        Replay(columns(arguments.pop("num_envs", 1)), arguments.pop("capacity"), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NStep(0), "n_step 0"),
        (lambda: NStep(1, 1.5), "gamma 1.5"),
        (lambda: NStep(1, 0.9, 0.0), "clip_reward 0.0"),
        (lambda: NStep(1, 0.9, reward_scale=0.0), "reward_scale 0.0"),
        (lambda: NStep(streams=(Reward("bonus", 1.5),)), "gamma of the stream 'bonus' 1.5"),
        (lambda: Replay(columns(), 50, view=NStep(streams=STREAMS)), "reads the column 'curious', which the"),
        (
            lambda: Replay(columns(extras=TAG), 50, view=NStep(streams=(Reward("tag"),))),
            "'tag' is a stream of reward: declare it",
        ),
        (
            lambda: Replay(columns(extras={"gamma": TAG["tag"]}), 50),
            "'gamma' is each row's discount: declare it as float32",
        ),
        (lambda: Sequence(0), "length 0 is not a number of steps"),
        (lambda: Sequence(burn_in=-1), "burn_in -1 is not a number of steps"),
        (lambda: Sequence(period=0), "period 0 is not a number of steps"),
        (lambda: Sequence(10, period=11), "period 11 exceeds length 10, so steps in between would never be learned from"),
        (lambda: Sequence(n_step=0), "n_step 0"),
        (lambda: Sequence(gamma=-0.1), "gamma -0.1"),
        (lambda: Replay(columns(), 100, batch_size=22, view=Sequence(8, 6, 4, 3)), "batch_size 22 exceeds the 21 examples"),
        (lambda: Replay(columns(), 100, view=Sequence()), "exceeds the 0 examples that capacity 100 holds of 1"),
        (lambda: Prioritized(-1), "per_alpha -1"),
        (lambda: Prioritized(0.6, 2.0), "per_beta 2.0"),
        (lambda: Prioritized(normalise="all"), "normalise 'all'"),
        (lambda: Rate(every=0), "update_every 0"),
        (lambda: Minibatches(0), "0 minibatches"),
        (lambda: Replay(columns(8), 100, batch_size=97), "batch_size 97 exceeds the 96 examples that capacity 100 holds of 8"),
    ],
)
def test_impossible_settings_get_one_sentence(make, message: str) -> None:
    with pytest.raises(ProtoRLError, match=message):
        make()


@pytest.mark.parametrize("view", [NStep(2, 0.9), Rollout(lambda batch: batch), Sequence(2, 0, 2, 1)])
def test_no_extra_hides_what_every_batch_has(view) -> None:
    memory = Replay(columns(extras=TAG), 8, batch_size=1, view=view, sampler=All(), rate=Rate(0, 8, 1))
    stream = Stream(1, 0)
    for _ in range(8):
        memory.add(Chunk.of(stream.step()))
    batch = memory.sample()
    assert {"action", "reward", "weight"} <= set(batch) - {"tag"}
    for name in {*batch} - {"tag"} | {"replace"}:
        with pytest.raises(ProtoRLError, match=f"a column cannot be called '{name}'"):
            columns(extras={name: TAG["tag"]})


def test_steps_that_do_not_match_are_refused() -> None:
    memory = Replay(columns(2), 10, batch_size=1)
    with pytest.raises(ProtoRLError, match="a step of lane 2 does not fit a memory of lanes 0 to 1"):
        memory.add(Chunk.of(Stream(3, 0).step()))
    memory = Replay(columns(1, extras={"logp": Field((), np.dtype(np.float32))}), 10, batch_size=1)
    with pytest.raises(ProtoRLError, match="column 'logp'"):
        memory.add(Chunk.of(Stream(1, 0).step()))
    with pytest.raises(
        ProtoRLError, match=r"rewards of shape \(2,\) a row do not fit a memory of \(\): declare Columns.reward"
    ):
        memory.add(Chunk.of(Stream(1, 0, rich=True).step()))
    stacked = Replay(columns(1, (4, 2, 2), np.uint8, frame_stack=4, stack_padding="zero"), 10, batch_size=1)
    with pytest.raises(ProtoRLError, match="not padded by 'zero'"):
        stacked.add(Chunk.of(Stream(1, 0, stack=4, padding="reset").step()))


def test_unknown_columns_name_the_known_ones() -> None:
    memory = Replay(columns(extras=TAG), 10, batch_size=1)
    memory.add(Chunk.of(Stream(1, 0).step()))
    with pytest.raises(AttributeError, match="no column 'logp' in this batch; it has: action, discount, index, next_obs, obs"):
        _ = memory.sample().logp


def test_memory_that_is_given_back_keeps_its_contents(tmp_path) -> None:
    numbers = torch.arange(3_000_000, dtype=torch.int64)
    torch.save(numbers, tmp_path / "numbers.pt")
    mapped = torch.load(tmp_path / "numbers.pt", mmap=True, weights_only=True)
    for tensor in (numbers.clone(), mapped, mapped[100_003:], mapped[:3], mapped[:0]):
        before = tensor.clone()
        transfer.page_out(tensor)
        assert torch.equal(tensor, before)


@pytest.mark.parametrize("sampler", [Uniform, Prioritized, lambda: Minibatches(2)])
@pytest.mark.parametrize("stack", [1, 4])
def test_incremental_rows_and_state_bring_everything_back(sampler, stack: int) -> None:
    shape, dtype = ((2,), np.float32) if stack == 1 else ((stack, 2, 2), np.uint8)

    def make() -> Replay:
        spec = columns(2, shape, dtype, TAG, frame_stack=stack)
        return Replay(spec, 40, batch_size=8, view=NStep(3, 0.9), sampler=sampler(), seed=3)

    original, segments, marks = make(), [], [0, 0]
    stream = Stream(2, 7, holes=True, interruptions=True, stack=stack)
    for t in range(130):
        original.add(Chunk.of(stream.step()))
        if t % 13 == 5:
            segments.append(tree(original.rows([max(m, o) for m, o in zip(marks, original.oldest())])))
            marks = original.marks()
        if len(original) >= 8:
            batch = original.sample()
            original.feedback(
                batch,
                torch.rand(
                    8 if not isinstance(original.sampler, Minibatches) else len(batch),
                    generator=torch.Generator().manual_seed(t),
                ),
            )
    segments.append(tree(original.rows([max(m, o) for m, o in zip(marks, original.oldest())])))
    restored = make()
    for segment in segments:
        restored.restore_rows(segment)
    restored.load_state_dict(original.state_dict())
    for _ in range(60):
        step = stream.step()
        original.add(Chunk.of(step))
        restored.add(Chunk.of(step))
        one, two = original.sample(), restored.sample()
        for name in one:
            assert torch.equal(one.columns[name], two.columns[name]), name
        priority = torch.rand(len(one), generator=torch.Generator().manual_seed(1))
        original.feedback(one, priority)
        restored.feedback(two, priority)


def test_a_checkpoint_of_before_sequences_is_read() -> None:
    """Columns for starts lay in a table of their own, which every row had; windows did not say where they ended."""
    extras = {**TAG, "carry": Field((3,), np.dtype(np.float32), starts=True)}
    one, two = (
        Replay(columns(2, extras=extras), 40, batch_size=4, view=NStep(3, 0.9), sampler=Prioritized()) for _ in range(2)
    )
    stream = Stream(2, 7, holes=True)
    for t in range(70):
        step = stream.step()
        one.add(Chunk.of(step._replace(extras={**step.extras, "carry": np.full((2, 3), t, np.float32)})))
    rows, state = one.rows(one.oldest()), one.state_dict()
    for part in rows["lanes"] + rows["wrapped"]:
        part["starts"] = {name: values for name, values in part.pop("kept").items() if name != "which"}
    del state["highs"], state["storage"]["starts"]
    state["storage"]["every"] = 1
    two.restore_rows(rows)
    two.load_state_dict(state)
    assert len(one) == len(two) > 30
    for _ in range(3):
        a, b = one.sample(), two.sample()
        assert all(torch.equal(a.columns[name], b.columns[name]) for name in a)


def tree(segment):
    return tree_map(lambda lanes: [dict(lane) for lane in lanes], segment)


def test_given_priorities_are_used_once_the_window_is_complete() -> None:
    extras = {"priority": Field((), np.dtype(np.float32))}
    memory = Replay(columns(extras=extras), 20, batch_size=2, view=NStep(2, 0.9), sampler=Prioritized(alpha=1.0, epsilon=0.0))
    stream = Stream(1, 0)
    quiet = np.array([False])
    for t in range(6):
        step = stream.step()._replace(terminated=quiet, truncated=quiet, first=np.array([t == 0]))
        memory.add(Chunk.of(step._replace(extras={"priority": np.array([t + 1], np.float32)})))
    leaves = memory.sampler.tree.get(memory.window.slots(memory.window.all()))
    np.testing.assert_allclose(leaves, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(("free", "home"), [(2.0, "cuda"), (1.9, "cpu")])
def test_rows_live_with_the_learner_where_they_leave_half_of_it_free(
    free: float, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = storage.plan_memory(columns(), 100)
    seen = storage.MemoryPlan(100, "cuda", plan.columns, int(free * plan.total))
    monkeypatch.setattr(storage, "plan_memory", lambda *_: seen)
    assert storage.home_of(columns(), 100, torch.device("cuda")).type == home
    assert storage.home_of(columns(), 100, torch.device("cpu")).type == "cpu"


def test_arrays_sent_together_arrive_as_they_were() -> None:
    draw = np.random.default_rng(0)
    floats = draw.normal(size=(2, 3, 4)).astype(np.float32)
    arrays = [
        draw.integers(0, 9, 3),
        floats,
        np.array([True, False, True]),
        floats[:0],
        draw.integers(0, 255, (2, 5, 1), np.uint8),
        floats[0, :, ::2],
        draw.integers(0, 9, (2, 2)),
    ]
    sent = [tensor.numpy() for tensor in transfer.together(arrays, torch.device("cpu"), pin=False)]
    assert [one.dtype for one in sent] == [one.dtype for one in arrays]
    assert all(np.array_equal(one, other) for one, other in zip(arrays, sent, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_examples_are_delivered_to_the_gpu() -> None:
    near, far = (Replay(columns(), 40, batch_size=16, deliver_to=device) for device in (None, "cuda"))
    stream = Stream(1, 3)
    for _ in range(60):
        step = stream.step()
        near.add(Chunk.of(step))
        far.add(Chunk.of(step))
    one, two = near.sample(), far.sample()
    for name in one:
        assert two.columns[name].device.type == ("cpu" if name == "index" else "cuda")
        assert torch.equal(one.columns[name], two.columns[name].cpu()), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_storage_on_a_gpu_gives_the_same_examples() -> None:
    memories = [
        Replay(columns(2, extras=TAG), 40, batch_size=16, view=NStep(3, 0.9), device=device) for device in ("cpu", "cuda")
    ]
    stream = Stream(2, 3, interruptions=True)
    for _ in range(90):
        step = stream.step()
        for memory in memories:
            memory.add(Chunk.of(step))
    one, two = (memory.sample() for memory in memories)
    for name in one:
        assert torch.equal(one.columns[name], two.columns[name].cpu()), name


def test_the_state_between_episodes_holds_no_uninitialised_memory() -> None:
    memory = Replay(columns(), 10, batch_size=1)
    memory.storage.obs.data.fill_(float("nan"))
    memory.storage.clear_zero_frame()
    memory.add(Chunk.of(Stream(1, 0).step()._replace(extras={}, terminated=np.array([True]), discount=np.zeros(1, np.float32))))
    assert memory.state_dict()["storage"]["heads"].tolist() == [[0.0, 0.0]]


def test_an_array_is_read_into_again_only_when_nobody_holds_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SMALL_ROW", 0)
    memory = Replay(columns(1, (4, 2, 2), np.uint8, frame_stack=4), 64, batch_size=16)
    stream = Stream(1, seed=0, stack=4)
    for _ in range(60):
        memory.add(Chunk.of(stream.step()))
    held = [memory.sample().obs[3:] for _ in range(9)]  # a view alone keeps an array
    numbers = [memory.sample().obs.numpy() for _ in range(2)]
    before = [torch.tensor(one) for one in numbers], [obs.clone() for obs in held]
    assert len({obs.data_ptr() for obs in held}) == 9
    for _ in range(9):
        memory.sample()
    assert all(torch.equal(one, torch.from_numpy(two)) for one, two in zip(before[0], numbers))
    assert all(torch.equal(one, two) for one, two in zip(before[1], held))
    del held, numbers
    assert len({memory.sample().obs.data_ptr() for _ in range(20)}) <= 2  # no page is fresh
