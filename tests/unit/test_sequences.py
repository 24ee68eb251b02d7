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
from protorl.data import ArraySpec, Chunk, Columns, tree_map
from protorl.memory import Prioritized, Replay, Sequence, storage, tables, transfer
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
    """Lanes out of step, chunks of several steps, invalid rows, interruptions, ends of every kind, several times around."""
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
    for i, chunk in zip(range(100), out_of_step(stream, 5, 9)):
        chunk = with_goal(chunk) if table == "dict" else chunk
        memory.add(chunk)
        oracle.add(chunk)
        if i % 8 == 3:
            most = max(most, assert_same(memory, oracle))
            segments.append(copy.deepcopy(memory.rows([max(both) for both in zip(marks, memory.oldest())])))
            marks = memory.marks()
        if len(memory) >= 3:
            memory.feedback(memory.sample(), torch.rand(3, generator=torch.Generator().manual_seed(i)))
        if i in (11, 59):
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
