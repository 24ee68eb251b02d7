"""Sequences against an oracle of plain lists: every column of every example, over random episodes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.data import ArraySpec, Chunk, Columns, Field, ProtoRLError, Step, tree_map
from protorl.memory import NStep, Prioritized, Rate, Replay, Sequence, Uniform, storage, tables, transfer
from tests.streams import FLOAT, RICH, STREAMS, TAG, ListMemory, Stream, columns, out_of_step

LONG = (0.93, 0.03, 0.03, 0.01)


def episodes(rows: list[dict[str, Any]]) -> Iterator[tuple[int, int, bool]]:
    """(first row, row after the last, over)."""
    begin = 0
    for t, row in enumerate(rows):
        if row["ended"] or t == len(rows) - 1:
            yield begin, t + 1, row["ended"]
            begin = t + 1


def behind(final: Any, j: int, stack: int) -> Any:
    """The stack j rows behind a final observation: its last frame comes again and again."""
    if stack == 1:
        return final
    return np.concatenate([final, *[final[-1:]] * j])[-stack:]


def summed(rows: list[dict[str, Any]], pay: str, n: int, gamma: float, own: bool, episodic: bool) -> tuple[Any, float, int]:
    """The n-step sum over the first of the rows, which are steps of one episode, its discount, and how many they are."""
    total, g, m = np.zeros(rows[0][pay].shape), 1.0, 0
    for row in rows[:n]:
        total = total + g * row[pay].astype(np.float64)
        g *= float(row["gamma"]) if own else gamma
        m += 1
        if episodic:
            g *= row["discount"]
            if row["discount"] == 0:
                break
    return total, g, m


class Oracle(ListMemory):
    """The examples of a `Sequence`."""

    def __init__(self, num_envs: int, capacity: int, view: Sequence, spec: Columns) -> None:
        super().__init__(num_envs, capacity)
        self.view, self.spec = view, spec

    def sequences(self) -> dict[tuple[int, int], dict[str, Any]]:
        """(lane, serial of the start's row) -> example."""
        view, found = self.view, {}
        for lane, rows in enumerate(self.lanes):
            for begin, end, over in episodes(rows):
                for start in range(begin, end, view.period):
                    whole = start + view.length + view.n_step - 1 <= end
                    nothing_new = start > begin and over and start - view.period + view.length >= end
                    oldest = max(start - view.burn_in - 1, begin)
                    if (whole or over) and not nothing_new and oldest >= len(rows) - self.length:
                        found[lane, start] = self.unroll(rows[begin:end], start - begin, over)
        return found

    def unroll(self, rows: list[dict[str, Any]], start: int, over: bool) -> dict[str, Any]:
        """The example that starts at a row of an episode."""
        view, spec = self.view, self.spec
        size = view.burn_in + view.length + view.n_step
        found: list[dict[str, Any]] = []
        for t in range(size):
            age = start - view.burn_in + t
            real = 0 <= age < len(rows) and t < size - 1
            near = rows[min(max(age, 0), len(rows) - 1, start - view.burn_in + size - 2)]
            previous = rows[min(age, len(rows)) - 1] if age > 0 else None
            example: dict[str, Any] = {
                "first": age <= 0,
                "obs": self.shown(rows, age),
                "previous_action": previous["action"] if previous else np.zeros_like(rows[0]["action"]),
                "previous_reward": previous["reward"] if previous else np.zeros_like(rows[0]["reward"]),
                "action": near["action"],
                "ended": real and near["ended"],
                "mask": float(real and view.burn_in <= t < view.burn_in + view.length),
                **{name: near[name] for name, field in spec.extras.items() if not field.starts},
            }
            ahead = rows[age : age + size - 1 - t] if real else []
            for name, gamma, episodic in (("", view.gamma, True), *((s.name, s.gamma, s.episodic) for s in view.streams)):
                pay, prefix = name or "reward", f"{name}_" if name else ""
                own = not name and "gamma" in spec.extras
                total, g, m = (
                    summed(ahead, pay, view.n_step, gamma, own, episodic) if real else (np.zeros_like(near[pay]), 0.0, 0)
                )
                example |= {pay: total, f"{prefix}discount": g}
                if not name or not episodic:
                    example[f"{prefix}successor"] = t + m
            found.append(example)
        unrolled = {name: [example[name] for example in found] for name in found[0]}
        for name, field in spec.extras.items():
            if field.starts:
                unrolled[name] = rows[start - view.burn_in][name] if start >= view.burn_in else np.zeros(field.shape)
        return unrolled

    def shown(self, rows: list[dict[str, Any]], age: int) -> Any:
        def leaf(spec: ArraySpec, *values: Any) -> Any:
            first, final, there = values
            if age < 0 and spec.frame_stack > 1 and spec.stack_padding == "zero":
                return np.zeros_like(first)
            if age < 0:
                return first
            return there if age < len(rows) else behind(final, age - len(rows), spec.frame_stack)

        there = rows[min(max(age, 0), len(rows) - 1)]["obs"]
        return tree_map(leaf, self.spec.obs, rows[0]["obs"], rows[-1]["next_obs"], there)


def everything(memory: Replay) -> tuple[list[tuple[int, int]], prl.Batch]:
    """All examples, and where they start."""
    rows, window = memory.window.all(), memory.window
    found = memory.view.examples(memory.storage, window, rows, np.ones(len(rows), np.float32))
    starts = window.begins(window.slots(rows))
    lanes, newest = starts // window.ring, memory.storage.counts[starts // window.ring] - 1
    serials = newest - (newest - starts % window.ring) % window.ring
    return [*zip(lanes.tolist(), serials.tolist())], memory.view.batch(found)


def assert_same(memory: Replay, oracle: Oracle) -> int:
    expected = oracle.sequences()
    if not len(memory):
        assert not expected
        return 0
    keys, batch = everything(memory)
    assert sorted(keys) == sorted(expected)
    assert all(one == sorted(one) for one in ([key for key in keys if key[0] == lane] for lane in range(len(oracle.lanes))))
    seen = batch.seen
    assert seen.pending is None
    given = {
        **batch.columns,
        "first": seen.first,
        "previous_action": seen.action,
        "previous_reward": seen.reward,
        "obs": seen.obs,
    }
    del given["seen"], given["weight"]
    assert given.keys() == next(iter(expected.values())).keys()
    for name in given:
        per_example = [expected[key][name] for key in keys]
        axis = 0 if name in oracle.spec.extras and oracle.spec.extras[name].starts else 1

        def stacked(*values: Any, axis: int = axis) -> Any:
            return np.stack(values, axis)

        def compare(ours: Any, theirs: Any, name: str = name) -> None:
            np.testing.assert_array_equal(ours.numpy(), theirs.astype(ours.numpy().dtype), err_msg=name)

        if axis == 0:
            compare(given[name], np.stack(per_example))
        elif name == "obs":
            wanted = [tree_map(lambda *rows: np.stack(rows), *one) for one in per_example]
            tree_map(lambda ours, *theirs: compare(ours, stacked(*theirs)), given[name], *wanted)
        else:
            compare(given[name], np.stack([np.stack(one) for one in per_example], 1))
    return len(expected)


def on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "in_main_memory", lambda device: False)
    for module in (storage, tables):
        monkeypatch.setattr(module, "send", lambda arrays, device: transfer.together(arrays, device, pin=False))
    monkeypatch.setattr(tables, "WAITING", 300)


def with_goal(chunk: Chunk) -> Chunk:
    """The same with dict observations, of a stack of frames and a vector."""

    def both(obs: Any) -> Any:
        return {"image": obs, "goal": obs[:, :, -1, 0].astype(np.float32)}

    return chunk._replace(obs=both(chunk.obs), next_obs=both(chunk.next_obs))


@pytest.mark.parametrize(("kinds", "lanes"), [((0.75, 0.1, 0.1, 0.05), 1), (LONG, 3)])
@pytest.mark.parametrize(
    ("view", "stack", "padding", "table"),
    [
        (Sequence(1, 0, 1, 1, 0.9), 1, "reset", "small"),
        (Sequence(1, 0, 1, 3, 0.9), 4, "zero", "big"),
        (Sequence(4, 3, 2, 2, 0.9), 4, "reset", "small"),
        (Sequence(5, 5, 5, 3, 0.9, streams=STREAMS), 1, "reset", "big"),
        (Sequence(6, 2, 4, 1, 0.9, streams=STREAMS), 4, "zero", "device"),
        (Sequence(3, 7, 3, 4, 0.9), 4, "reset", "dict"),
    ],
)  # fmt: skip
def test_every_column_of_every_example_equals_the_oracle_with_a_resume_in_the_middle(
    view: Sequence, stack: int, padding: str, table: str, kinds: Any, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes out of step, chunks of several steps (some hold more than the memory), invalid rows, interruptions, ends of every
    kind, several times around."""
    if table in ("big", "dict"):
        monkeypatch.setattr(tables, "SMALL_ROW", 0)
    if table == "device":
        on_a_device(monkeypatch)
    shape, dtype = ((2,), np.float32) if stack == 1 else ((stack, 2, 2), np.uint8)
    rich = bool(view.streams)
    extras = RICH if rich else TAG
    spec = columns(lanes, shape, dtype, extras, frame_stack=stack, stack_padding=padding)
    if rich:
        spec = replace(spec, reward_shape=(2,))
    if table == "dict":
        spec = replace(spec, obs={"image": spec.obs, "goal": ArraySpec((2,), FLOAT)})

    def make() -> Replay:
        return Replay(spec, 40 * lanes, batch_size=3, view=view, sampler=Prioritized(), seed=1)

    memory, oracle, segments, marks, most = make(), Oracle(lanes, 40 * lanes, view, spec), [], [0] * lanes, 0
    stream = Stream(lanes, 3, holes=True, interruptions=True, stack=stack, padding=padding, rich=rich, kinds=kinds)
    for i, chunk in zip(range(70), out_of_step(stream, 5, 45 if table == "small" else 11)):
        chunk = with_goal(chunk) if table == "dict" else chunk
        memory.add(chunk)
        oracle.add(chunk)
        if i % 10 == 3:
            most = max(most, assert_same(memory, oracle))
            segments.append(copy.deepcopy(memory.rows([max(both) for both in zip(marks, memory.oldest())])))
            marks = memory.marks()
        if len(memory) >= 3:
            memory.feedback(memory.sample(), torch.rand(3, generator=torch.Generator().manual_seed(i)))
        if i in (13, 43):
            resumed = make()
            for segment in segments:
                resumed.restore_rows(segment)
            resumed.load_state_dict(memory.state_dict())
            assert_same(resumed, oracle)
            one, two = memory.sample(), resumed.sample()
            assert torch.equal(one.index, two.index)
            assert torch.equal(one.weight, two.weight)
            memory = resumed
    assert_same(memory, oracle)
    assert most >= 5
    assert min(map(len, oracle.lanes)) > 80


def one(t: int, reward: float = 0.0, *, first: bool, terminated: bool = False, truncated: bool = False, **extras: Any) -> Chunk:
    """A step of one lane, whose observation is t."""

    def row(value: Any, dtype: Any = np.bool_) -> Any:
        return np.array([value], dtype)

    obs, after = (np.full((1, 2), time, np.float32) for time in (t, t + 1))
    step = Step(
        obs, row(t % 4, np.int64), row(reward, np.float32), row(not terminated, np.float32), row(terminated), row(truncated),
        after, row(first), row(True), {name: np.asarray([value]) for name, value in extras.items()},
    )  # fmt: skip
    return Chunk.of(step)


@pytest.mark.parametrize(
    ("truncated", "discounts"), [(False, [0.729, 0.729, 0, 0, 0]), (True, [0.729, 0.729, 0.729, 0.81, 0.9])]
)
def test_traps_a_short_episode_is_learned_from_to_its_end(truncated: bool, discounts: list[float]) -> None:
    # n = 3, gamma = .9, r = 1..5: returns and discounts as worked out by hand.
    memory = Replay(columns(), 40, batch_size=1, view=Sequence(7, 2, 4, 3, 0.9))
    for t in range(5):
        memory.add(one(t, t + 1, first=t == 0, terminated=t == 4 and not truncated, truncated=t == 4 and truncated))
    batch = memory.sample()
    assert len(memory) == len(batch) == 1  # the start at 4 would train nothing new
    np.testing.assert_allclose(batch.reward[:, 0], [0, 0, 5.23, 7.94, 10.65, 8.5, 5, 0, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(batch.discount[:, 0], [0, 0, *discounts, 0, 0, 0, 0, 0], rtol=1e-6)
    assert batch.successor[:, 0].tolist() == [0, 1, 5, 6, 7, 7, 7, 7, 8, 9, 10, 11]
    assert batch.mask[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.ended[:, 0].tolist() == [t == 6 for t in range(12)]
    assert batch.seen.obs[:, 0, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert batch.seen.first[:, 0].tolist() == [True] * 3 + [False] * 9
    assert batch.seen.reward[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert batch.seen.action[:, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0]
    assert batch.action[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 4])
def test_sequences_of_one_step_train_on_what_n_step_transitions_do(n: int) -> None:
    spec = columns(2, (4, 2, 2), np.uint8, TAG, frame_stack=4)
    one, many = (
        Replay(spec, 120, batch_size=1, view=view) for view in (NStep(n, 0.9, 1.0, 0.5), Sequence(1, 0, 1, n, 0.9, 1.0, 0.5))
    )
    stream = Stream(2, 1, holes=True, interruptions=True, stack=4)
    for _ in range(150):
        chunk = Chunk.of(stream.step())
        one.add(chunk)
        many.add(chunk)
    keys, batch = everything(many)
    rows = np.array([serial * 2 + lane for lane, serial in keys])
    assert set(one.window.all()) - set(rows) <= {row for row in one.window.all() if row // 2 in one.window.lows}
    wanted = one.view.batch(one.view.examples(one.storage, one.window, rows, np.ones(len(rows), np.float32)))
    for name in ("action", "reward", "discount", "tag"):
        assert torch.equal(batch.columns[name][0], wanted.columns[name]), name
    assert torch.equal(batch.seen.obs[0], wanted.obs)
    assert torch.equal(batch.seen.obs[batch.successor[0], torch.arange(len(rows))], wanted.next_obs)
    assert batch.mask[0].all()
    assert not batch.mask[1:].any()


def test_an_unroll_from_the_stored_carry_repeats_what_the_actor_saw_and_did() -> None:
    """The carry is the one before row 0; previous actions and rewards belong to the row in which they are seen."""
    extras = {"carry": Field((2,), FLOAT, starts=True), "heard": Field((2,), FLOAT)}
    memory = Replay(columns(extras=extras), 60, batch_size=1, view=Sequence(5, 3, 2, 2))
    rng, t, kept = np.random.default_rng(0), 0, 0
    for length in rng.integers(1, 30, 12):
        carry, action, reward = np.zeros(2, np.float32), 0, 0.0
        for age in range(length):
            heard = (0.5 * carry + t + action + np.float32(reward)).astype(np.float32)
            reward = float(rng.normal())
            memory.add(one(t, reward, first=age == 0, truncated=age == length - 1, carry=carry, heard=heard))
            carry, action, t = heard, t % 4, t + 1
        t += 1
        if not len(memory):
            continue
        _, batch = everything(memory)
        state = batch.carry
        for row in range(3 + 5):
            seen = batch.seen
            state = torch.where(seen.first[row, :, None], torch.zeros(1), state)
            state = 0.5 * state + seen.obs[row] + (seen.action[row].float() + seen.reward[row])[:, None]
            real = batch.mask[row].bool() if row >= 3 else ~seen.first[row]
            torch.testing.assert_close(state[real], batch.heard[row][real], rtol=1e-5, atol=1e-4)
            kept += int(real.sum())
    assert kept > 300


def test_columns_for_starts_grow_with_very_short_episodes() -> None:
    extras = {"carry": Field((3,), FLOAT, starts=True), **TAG}
    view = Sequence(4, 0, 4, 1)
    memory = Replay(columns(extras=extras), 300, batch_size=1, view=view)
    planned = memory.storage.kept.rows
    assert planned < 110
    for t in range(700):
        memory.add(one(t, first=True, terminated=True, carry=np.full(3, t, np.float32), tag=t))
    assert memory.storage.kept.rows >= len(memory) == 300
    _, batch = everything(memory)
    assert torch.equal(batch.carry[:, 0], batch.tag[0].float())
    for t in range(700, 1_000):  # and long ones give the room back
        memory.add(one(t, first=t == 700, carry=np.full(3, t, np.float32), tag=t))
    _, batch = everything(memory)
    assert torch.equal(batch.carry[:, 0], batch.tag[0].float())
    kept = memory.storage.kept
    assert kept.count + (kept.at >= 0).sum() == kept.rows
    assert len(set(kept.free[: kept.count]) | set(kept.at[kept.at >= 0])) == kept.rows


@pytest.mark.parametrize("starts", [False, True])
def test_given_priorities_are_those_of_the_rows_that_start(starts: bool) -> None:
    extras = {"priority": Field((), FLOAT, starts), **TAG}
    sampler = Prioritized(alpha=1.0, epsilon=0.0)
    memory = Replay(columns(2, extras=extras), 120, batch_size=2, view=Sequence(6, 2, 3, 2), sampler=sampler)
    stream = Stream(2, 0, kinds=LONG)
    for t in range(140):
        step = stream.step()
        memory.add(Chunk.of(step._replace(extras={"priority": np.array([t + 1, 1_001 + t], np.float32), "tag": np.full(2, t)})))
    rows = memory.window.all()
    _, batch = everything(memory)
    np.testing.assert_array_equal(sampler.tree.get(memory.window.slots(rows)), batch.tag[2] + 1 + rows % 2 * 1_000)
    sampler.tree.set(memory.window.slots(rows), np.zeros(len(rows)))
    assert sampler.tree.total == 0  # nothing else has a share


def test_feedback_for_sequences_that_have_left_is_ignored() -> None:
    memory = Replay(columns(2, extras=TAG), 80, batch_size=8, view=Sequence(4, 2, 2, 1), sampler=Prioritized())
    stream = Stream(2, 0)
    for _ in range(60):
        memory.add(Chunk.of(stream.step()))
    batch = memory.sample()
    assert memory.window.alive(batch.index.numpy()).all()
    for _ in range(60):
        memory.add(Chunk.of(stream.step()))
    assert not memory.window.alive(batch.index.numpy()).any()
    before = memory.sampler.tree.sums.copy()
    memory.feedback(batch, torch.full((8,), 100.0))
    np.testing.assert_array_equal(memory.sampler.tree.sums, before)


def test_every_sequence_is_drawn_equally_often() -> None:
    memory = Replay(columns(3, extras=TAG), 150, batch_size=40, view=Sequence(6, 2, 3, 1), sampler=Uniform())
    stream = Stream(3, 2, kinds=LONG)
    for _ in range(70):
        memory.add(Chunk.of(stream.step()))
    rows, draws = memory.window.all(), 500
    drawn = np.concatenate([memory.sampler.draw(0)[0] for _ in range(draws)])
    counts, expected = np.bincount(np.searchsorted(rows, drawn), minlength=len(rows)), draws * 40 / len(rows)
    assert set(drawn) == set(rows)
    assert ((counts - expected) ** 2 / expected).sum() < len(rows) + 5 * np.sqrt(2 * len(rows))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("kinds", [LONG, (0.4, 0.3, 0.3, 0.0), (1.0, 0.0, 0.0, 0.0)])
def test_nothing_is_due_while_there_is_room(num_envs: int, kinds: tuple[float, ...]) -> None:
    memory = Replay(columns(num_envs, extras=TAG), 150, batch_size=4, view=Sequence(6, 4, 3, 2), rate=Rate(10, 7, 2))
    stream, promises, made = Stream(num_envs, 0, holes=True, kinds=kinds), [], 0
    for _ in range(130):
        promises.append(memory.rate.steps + memory.room())
        memory.add(Chunk.of(stream.step()))
        if due := memory.due():
            assert memory.rate.steps >= max(promises)
            assert len(memory) >= 4
            made += due
    assert made >= memory.expected(memory.rate.steps) > 0  # short episodes have more starts
    assert kinds[0] < 1 or num_envs > 1 or made == memory.expected(memory.rate.steps)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (Sequence(6, 4, 3, 2), "start at every 2 rows of an episode, with 4 before, of this one at every 3, with 4: resume"),
        (NStep(2), "start at every 2 rows of an episode, with 4 before, of this one at every 1, with 0: resume"),
        (Sequence(6, 4, 2, 5), r"has \d+ examples and this one's view finds \d+ in it: resume with the same view"),
    ],
)
def test_another_view_is_refused_on_resume(view: Any, message: str) -> None:
    one, two = (Replay(columns(extras=TAG), 60, batch_size=1, view=view) for view in (Sequence(6, 4, 2, 2), view))
    stream = Stream(1, 0, kinds=(1.0, 0.0, 0.0, 0.0))
    for _ in range(40):
        one.add(Chunk.of(stream.step()))
    two.restore_rows(one.rows([0]))
    with pytest.raises(ProtoRLError, match=message):
        two.load_state_dict(one.state_dict())


def test_frames_that_travel_become_the_same_stacks() -> None:
    memory = Replay(columns(2, (8, 3, 3), np.uint8, TAG, frame_stack=4), 80, batch_size=5, view=Sequence(5, 3, 2, 2))
    rng, first = np.random.default_rng(0), np.ones(2, bool)
    stack = rng.integers(0, 255, (2, 2, 3, 3), np.uint8).repeat(4, 0).reshape(2, 8, 3, 3)
    stack = np.concatenate([stack[:, :2]] * 4, 1)
    for t in range(60):
        after = np.concatenate([stack[:, 2:], rng.integers(0, 255, (2, 2, 3, 3), np.uint8)], 1)
        over = np.full(2, t % 17 == 16)
        step = Stream(2, 0).step()._replace(obs=stack, next_obs=after, first=first, truncated=over, terminated=~first & False)
        memory.add(Chunk.of(step))
        first, stack = over, np.concatenate([after[:, :2]] * 4, 1) if over.all() else after
    _, here = everything(memory)
    memory.storage.stacks = False
    _, there = everything(memory)
    assert here.seen.obs.shape[2:] == (8, 3, 3)
    assert torch.equal(here.seen.obs, there.seen.obs)
    assert here.seen.obs.is_contiguous()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_sequences_from_and_for_a_gpu_are_the_same() -> None:
    spec = columns(2, (4, 2, 2), np.uint8, RICH, frame_stack=4)
    places: list[dict[str, Any]] = [{}, {"device": "cuda"}, {"deliver_to": "cuda"}]
    memories = [
        Replay(replace(spec, reward_shape=(2,)), 80, batch_size=6, view=Sequence(5, 3, 2, 2), **place) for place in places
    ]
    stream = Stream(2, 0, stack=4, rich=True, kinds=LONG)
    for _ in range(100):
        chunk = Chunk.of(stream.step())
        for memory in memories:
            memory.add(chunk)
    wanted, *others = (memory.sample() for memory in memories)
    for other in others:
        for name in wanted:
            for a, b in (
                zip(wanted.seen[:4], other.seen[:4]) if name == "seen" else [(wanted.columns[name], other.columns[name])]
            ):
                assert b.device.type == ("cpu" if name == "index" else "cuda")
                assert torch.equal(a, b.cpu()), name
