"""What environments return: taken where it is unambiguous, refused by environment, row and field where it is not."""

from __future__ import annotations

import logging
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from protorl.data import ProtoRLError
from protorl.envs import from_vector, make_vec_envs
from protorl.envs.gate import Gate
from protorl.envs.sync import SyncEnv

GOOD = {"observation": np.zeros(4, np.float32), "reward": 1.5, "terminated": False, "truncated": False, "info": {}}


class Answering(gymnasium.Env):
    """Answers what it is told to; `first` besides, in place of what `reset` returns."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=None, first=None, closing=None, **answers):
        self.observation_space = spaces.Box(-1, 1, (4,), np.float32) if space is None else space
        self.answers, self.closing = {**GOOD, **answers}, closing
        self.first = (self.answers["observation"], {}) if first is None else first

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        whole = self.answers.get("whole")
        return tuple(self.answers[name] for name in GOOD) if whole is None else whole

    def close(self):
        if self.closing is not None:
            raise self.closing


WRONG = {
    "reward": (None, "1.5", [1.5], np.zeros(2), np.array([]), 1j, object(), {}, np.array(["a"]), np.array(None)),
    "terminated": (None, [False], [], "False", np.zeros(2, bool), 0.5, 2, np.array(None)),
    "truncated": (None, [False], (True,), "no", np.zeros(2, bool), -1, float("nan")),
    "info": (None, [], "info", 3, ({},)),
    "observation": (
        None, 0.5, np.float32(0), np.zeros(3), np.zeros((1, 4)), np.zeros((4, 1)), np.zeros(4, complex), np.array([None] * 4),
        object(), "abcd", ["a"] * 4, [[1], [1, 2]], {}, np.array(["1"] * 4), (np.zeros(4), {}),
    ),
}  # fmt: skip
CASES = [(name, value) for name, values in WRONG.items() for value in values]


def named(case):
    return re.sub(r"\W+", "-", "object" if type(case) is object else repr(case))[:40]


@pytest.mark.parametrize(("field", "value"), CASES, ids=named)
def test_a_step_that_is_no_step_is_refused_by_environment_row_and_field(field, value):
    """In the second of two environments; the first is in order."""
    fine = np.zeros(4, np.float32)
    makers = iter([Answering, lambda: Answering(first=(fine, {}), **{field: value})])
    env = SyncEnv(lambda: next(makers)(), 2, id="Mine-v0", first_row=6)
    env.reset()
    with pytest.raises(ProtoRLError, match=rf"^Mine-v0, step\(\) of row 7: {field} "):
        env.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("value", WRONG["observation"], ids=named)
def test_a_first_observation_that_belies_its_space_is_refused(value):
    env = SyncEnv(lambda: Answering(observation=value, first=(value, {})), 1, id="Mine-v0")
    with pytest.raises(ProtoRLError, match=r"^Mine-v0, reset\(\) of row 0: observation "):
        env.reset()


@pytest.mark.parametrize("info", WRONG["info"], ids=named)
def test_an_info_of_reset_that_is_none_is_refused(info):
    with pytest.raises(ProtoRLError, match=r"^Mine-v0, reset\(\) of row 0: info "):
        SyncEnv(lambda: Answering(first=(GOOD["observation"], info)), 1, id="Mine-v0").reset()


SAME = {
    "reward": (1.5, np.float64(1.5), np.float32(1.5), np.float16(1.5), np.array(1.5), np.array([1.5]), torch.tensor(1.5)),
    "terminated": (True, np.True_, np.array(True), np.array([True]), 1, 1.0, np.int64(1), torch.tensor(True)),
    "truncated": (True, np.True_, np.array([[1]])),
    "observation": (
        [1, 0, 0, 0],
        (1, 0, 0, 0),
        np.array([1, 0, 0, 0]),
        np.array([1, 0, 0, 0], bool),
        torch.tensor([1, 0, 0, 0]),
    ),
}


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in SAME.items() for value in values], ids=named)
def test_what_is_unambiguous_is_taken(field, value):
    env = SyncEnv(lambda: Answering(**{field: value}), 1, id="Mine-v0")
    env.reset()
    step = env.step(np.zeros(1, np.int64))
    expected = {"reward": 1.5, "terminated": True, "truncated": True, "observation": [1, 0, 0, 0]}
    got = {"reward": step.reward, "terminated": step.terminated, "truncated": step.truncated, "observation": step.next_obs}
    np.testing.assert_array_equal(got[field][0], expected[field])


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (np.full((3, 8, 8), 200, np.int64), True),
        (np.ones((3, 8, 8), bool), True),
        (np.full((3, 8, 8), 256, np.int64), False),
        (np.full((3, 8, 8), -1, np.int16), False),
        (np.full((3, 8, 8), 0.5), False),  # would all become 0
    ],
)
def test_images_are_bytes(value, fits):
    space = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    gate = Gate(Answering(space, observation=value), "Mine-v0", 0)
    if fits:
        np.testing.assert_array_equal(gate.step(0)[0], value)
    else:
        with pytest.raises(ProtoRLError, match=rf"observation is {value.dtype} where its space says uint8"):
            gate.step(0)


CANONICAL = {
    "choices": (spaces.Discrete(4, start=1), 2, (0, 5, 1.5, None, "2", [1, 9])),
    "colours": (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), (None, 3, np.zeros((8, 3), np.uint8))),
    "map": (spaces.Box(0, 1, (8, 8, 3), np.bool_), np.zeros((8, 8, 3), np.bool_), (None, np.zeros((8, 8), np.bool_))),
    "dict": (
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
        {"a": np.zeros(2, np.float32), "b": 1, "more": 0},
        (
            None,
            {},
            {"a": np.zeros(2)},
            {"a": np.zeros(3), "b": 1},
            {"a": None, "b": 1},
            {"a": np.zeros(2), "b": 3},
            np.zeros(2),
        ),
    ),
}


@pytest.mark.parametrize("kind", CANONICAL)
def test_observations_that_are_converted_pass_the_same_gate(kind):
    space, good, bad = CANONICAL[kind]
    for value in (good, *bad):
        env = make_vec_envs(Answering, 1, space=space, observation=value, first=(good, {}))
        env.reset()
        if value is good:
            env.step(np.zeros(1, np.int64))
            continue
        with pytest.raises(ProtoRLError, match=r"^Answering, step\(\) of row 0: observation"):
            env.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("discount", [0, np.float32(0), np.array([0.0])])
def test_a_discount_that_is_announced_is_checked_too(discount):
    env = SyncEnv(lambda: Answering(info={"discount": discount}), 1, id="Mine-v0")
    assert env.step(np.zeros(1, np.int64)).discount == 0
    env = SyncEnv(lambda: Answering(info={"discount": [discount]}), 1, id="Mine-v0")
    with pytest.raises(ProtoRLError, match=r"Mine-v0, step\(\) of row 0: info\['discount'\] "):
        env.step(np.zeros(1, np.int64))


OLD_RESETS = (np.zeros(4, np.float32), np.zeros(2, np.float32), [0.0] * 4, (0.0,) * 4, (None,), {"obs": 0})


@pytest.mark.parametrize("first", OLD_RESETS, ids=named)
@pytest.mark.parametrize("limit", [None, 10])
def test_the_old_interface_is_recognised_by_its_reset(first, limit):
    env = make_vec_envs(lambda: Answering(first=first), 1, time_limit=limit)
    with pytest.raises(ProtoRLError, match=r"reset\(\) of row 0.*apply_api_compatibility"):
        env.reset()


@pytest.mark.parametrize("limit", [None, 10])
@pytest.mark.parametrize(
    "whole", [tuple(GOOD.values())[:4], tuple(GOOD.values()) * 2, 3, None], ids=["four", "ten", "none", "no"]
)
def test_the_old_interface_is_recognised_by_its_step(whole, limit):
    env = make_vec_envs(lambda: Answering(whole=(whole,) if whole is None else whole), 1, time_limit=limit)
    env.reset()
    with pytest.raises(ProtoRLError, match=r"failed in step\(\) of row 0: .*apply_api_compatibility"):
        env.step(np.zeros(1, np.int64))


def test_the_old_interface_needs_a_seedless_reset_to_be_told_of():
    class Old(Answering):
        def reset(self):
            return self.first[0]

    with pytest.raises(ProtoRLError, match=r"reset\(\) of row 0: TypeError.*apply_api_compatibility"):
        make_vec_envs(Old, 1).reset()


@pytest.mark.parametrize("done", WRONG["terminated"], ids=named)
def test_an_old_environments_done_is_one_too(done):
    class Old(Answering):
        def step(self, action):
            return GOOD["observation"], 1.0, done, {}

    env = make_vec_envs(Old, 1, apply_api_compatibility=True)
    env.reset()
    with pytest.raises(ProtoRLError, match=r"^Old, step\(\) of row 0: done "):
        env.step(np.zeros(1, np.int64))


def test_a_reward_that_no_float_holds_is_told_of():
    env = SyncEnv(lambda: Answering(reward=10**400), 1, id="Mine-v0")
    env.reset()
    with pytest.raises(ProtoRLError, match=r"Mine-v0 failed in step\(\) of row 0: OverflowError"):
        env.step(np.zeros(1, np.int64))


def test_an_environment_that_exits_fails():
    class Exits(Answering):
        def step(self, action):
            raise SystemExit(3)

    env = SyncEnv(Exits, 1, id="Mine-v0")
    env.reset()
    with pytest.raises(ProtoRLError, match=r"Mine-v0 failed in step\(\) of row 0: SystemExit\(3\)"):
        env.step(np.zeros(1, np.int64))


def test_an_environment_that_cannot_be_seen_is_named():
    class Dark(Answering):
        render_mode = "rgb_array"

        def render(self):
            raise OSError("no display")

    with pytest.raises(ProtoRLError, match=r"Mine-v0 failed in render\(\) of row 0: OSError"):
        SyncEnv(Dark, 1, id="Mine-v0").render()


class Rows(VectorEnv):
    """Two rows that answer what they are told to."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    num_envs = 2
    single_observation_space = spaces.Box(-1, 1, (4,), np.float32)
    single_action_space = spaces.Discrete(2)
    observation_space, action_space = batch_space(single_observation_space, 2), batch_space(single_action_space, 2)
    good = {
        "observation": np.zeros((2, 4), np.float32),
        "reward": np.ones(2),
        "terminated": np.zeros(2, bool),
        "truncated": np.zeros(2, bool),
        "info": {},
    }

    def __init__(self, first=None, **answers):
        self.answers = {**self.good, **answers}
        self.first = self.good["observation"] if first is None else first

    def reset(self, *, seed=None, options=None):
        return self.first, {}

    def step(self, actions):
        return tuple(self.answers.values())

    def close_extras(self, **kwargs):
        raise OSError("the cable is loose")


VECTORS = {
    "reward": (None, 1.0, np.ones(3), np.ones((2, 1)), ["a", "b"], np.ones(2, complex), np.array([1.0, None])),
    "terminated": (None, False, np.zeros(3, bool), np.zeros((2, 1), bool), np.array(["a", "b"]), np.array([False, None])),
    "truncated": (None, np.array([0.5, 0]), np.array([0, 2])),
    "observation": (None, np.float32(0), np.zeros(4), np.zeros((2, 3)), np.zeros((2, 4), complex), np.full((2, 4), None)),
}


@pytest.mark.parametrize(("field", "value"), [(name, v) for name, values in VECTORS.items() for v in values], ids=named)
def test_a_vector_environment_passes_the_same_gate(field, value):
    env = from_vector(Rows(**{field: value}), id="Many-v0", first_row=4)
    env.reset()
    with pytest.raises(ProtoRLError, match=rf"^Many-v0, step\(\) of rows 4..5: {field} "):
        env.step(np.zeros(2, np.int64))
    if field == "observation" and value is not None:
        with pytest.raises(ProtoRLError, match=r"^Many-v0, reset\(\) of rows 4..5: observation "):
            from_vector(Rows(first=value), id="Many-v0", first_row=4).reset()


def test_the_row_of_a_vector_environment_is_named_where_it_is_known():
    env = from_vector(Rows(reward=np.array([1.0, None])), id="Many-v0", first_row=4)
    with pytest.raises(ProtoRLError, match="reward of row 5 is None, and must be one number"):
        env.step(np.zeros(2, np.int64))


def test_numbers_for_flags_are_taken_of_a_vector_environment_too():
    env = from_vector(Rows(reward=[1, 2], terminated=[0, 1], truncated=np.array([1.0, 0.0])), id="Many-v0")
    step = env.step(np.zeros(2, np.int64))
    assert (step.reward.tolist(), step.terminated.tolist(), step.truncated.tolist()) == ([1, 2], [False, True], [True, False])


@pytest.mark.parametrize("error", [OSError("the cable is loose"), SystemExit(1)])
def test_a_close_that_fails_is_told_once_and_hides_nothing(error, caplog, monkeypatch):
    monkeypatch.setattr("protorl.envs.gate.TOLD", set())
    env = SyncEnv(lambda: Answering(closing=error), 2, id="Mine-v0")
    env.reset()
    with caplog.at_level(logging.WARNING, "protorl"):
        env.close()
        env.close()
    assert len(caplog.messages) == 1
    assert f"Mine-v0 failed in close() of row 0: {error!r}" in caplog.messages[0]
    with caplog.at_level(logging.WARNING, "protorl"):
        from_vector(Rows(), id="Many-v0").close()
    assert "Many-v0 failed in close() of rows 0..1: OSError('the cable is loose')" in caplog.messages[1]
