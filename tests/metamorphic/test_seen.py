"""What agents act on, and carry, means the same whoever steps the environments and resets them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import protorl as prl
from protorl.data import Act, Seen
from protorl.envs import NormalizeObservation, NormalizeReward, RandomActions
from tests.metamorphic.test_autoreset import backends, fns


def counters(backend: str, num_envs: int = 2) -> Any:
    """`protorl/Counter-v0` (episodes of 3 steps, the observation counts them), stepped in one way or another."""
    if backend in ("sync", "async"):
        return prl.make_vec_envs("protorl/Counter-v0", num_envs, backend=backend)
    makers = [lambda: prl.make_env("protorl/Counter-v0")] * num_envs
    return prl.from_vector(SyncVectorEnv(makers, autoreset_mode=AutoresetMode[backend]))


ASYNC = pytest.param("async", marks=pytest.mark.slow)  # processes take long to start
BACKENDS = ["sync", ASYNC, "NEXT_STEP", "SAME_STEP", "DISABLED"]


class Expected:
    """What should be seen, by what the steps said."""

    def __init__(self, env: Any) -> None:
        self.env, n = env, env.num_envs
        self.first, self.pending = np.ones(n, bool), np.zeros(n, bool)
        self.action, self.reward = np.zeros((n, *env.spec.action.shape)), np.zeros(n)

    def step(self, action: Any) -> Any:
        self.agrees()
        step = self.env.step(action)
        np.testing.assert_array_equal(step.first, self.first)
        np.testing.assert_array_equal(step.valid, ~self.pending)
        resets_later = self.env.pending.any() or not step.valid.all()  # NEXT_STEP
        self.first = ~step.valid if resets_later else step.ended
        self.pending = step.ended if resets_later else np.zeros_like(step.ended)
        self.action = np.where(self.first.reshape(-1, *[1] * (step.action.ndim - 1)), 0, step.action)
        self.reward = np.where(self.first, 0, step.reward)
        return step

    def agrees(self) -> None:
        seen = self.env.seen
        np.testing.assert_array_equal(seen.first, self.first)
        np.testing.assert_array_equal(seen.action, self.action)
        np.testing.assert_array_equal(seen.reward, self.reward)
        assert (seen.action.dtype, seen.reward.dtype) == (self.env.spec.action.dtype, np.float32)
        np.testing.assert_array_equal(np.zeros_like(self.first) if seen.pending is None else seen.pending, self.pending)
        for one, two in zip(prl.data.tree_leaves(seen.obs), prl.data.tree_leaves(self.env.obs)):
            np.testing.assert_array_equal(one, two)


def watched(env: Any, steps: int = 40, seed: int = 0) -> None:
    expected, draw = Expected(env), np.random.default_rng(seed)
    for t in range(steps):
        step = expected.step(env.spec.action.uniform(draw.random((env.num_envs, env.spec.action.numbers))))
        kept = [array.copy() for array in (step.action, step.reward)]
        expected.agrees()
        for array, before in zip((step.action, step.reward), kept):  # what was handed out is not written to
            np.testing.assert_array_equal(array, before)
        if t == steps // 2:
            env.reset()
            expected = Expected(env)


@pytest.mark.parametrize("as_dict", [False, True])
def test_previous_action_and_reward_are_seen_under_every_autoreset_mode(as_dict: bool) -> None:
    for env in backends(as_dict=as_dict).values():
        watched(env)
        env.close()


@pytest.mark.parametrize(
    "wrap",
    [
        NormalizeObservation, lambda env: NormalizeReward(env, gamma=0.9), lambda env: RandomActions(env, 0.5),
        lambda env: NormalizeReward(RandomActions(NormalizeObservation(env), 0.5), gamma=0.9),
    ],
)  # fmt: skip
def test_wrappers_show_what_they_made_of_it(wrap: Any) -> None:
    for mode in AutoresetMode:
        watched(wrap(prl.from_vector(SyncVectorEnv(fns(), autoreset_mode=mode), seed=4)))


@pytest.mark.parametrize(
    ("env", "backend"),
    [("CartPole-v1", "native"), ("Pendulum-v1", "sync"), ("CartPole-v1", "async"), ("ALE/Pong-v5", "native")],
)
def test_fast_backends_show_it_too(env: str, backend: str) -> None:
    made = prl.make_vec_envs(env, 2, backend=backend, time_limit=15)
    watched(made, 34)
    made.close()


@pytest.mark.parametrize("backend", ["sync", "native", ASYNC])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_snapshot_holds_what_is_seen(backend: str, wrapped: bool) -> None:
    def make() -> Any:
        env = prl.make_vec_envs("CartPole-v1", 3, seed=1, backend=backend)
        return NormalizeReward(env, gamma=0.9) if wrapped else env

    one, two = make(), make()
    draw = np.random.default_rng(0)
    for t in range(60):
        one.step(draw.integers(0, 2, 3))
        if t % 4 == 0 or one.seen.first.any():
            two.load_state_dict(one.state_dict())
            for a, b in zip(one.seen[:4], two.seen[:4]):
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype
    one.close()
    two.close()


def test_rebuilt_and_restored_environments_start_episodes() -> None:
    env = prl.make_vec_envs("ALE/Pong-v5", 2)
    for _ in range(3):
        env.step(np.ones(2, np.int64))
    env.rebuild(6)
    Expected(env).agrees()
    other = prl.make_vec_envs("ALE/Pong-v5", 2)
    other.load_state_dict(env.state_dict())
    Expected(other).agrees()


# Carries


class Core(NamedTuple):
    count: Any
    more: dict[str, Any]


class Clocked:
    """Its carry counts the steps of the episode, in every kind of container; it also acts on what it has seen."""

    def __init__(self, in_place: bool = False, torch_too: bool = True) -> None:
        self.in_place, self.torch_too = in_place, torch_too
        self.calls: list[Any] = []

    def initial_carry(self, n: int) -> Core:
        deep = torch.zeros(n, 2) if self.torch_too else np.zeros((n, 2), np.float32)
        return Core(np.zeros(n, np.int64), {"b": (deep, [np.full(n, 7.0)]), "a": np.zeros((n, 1, 3), np.int32)})

    def act(self, seen: Seen, carry: Core, *, explore: bool) -> Act:
        now = carry.count.copy() if self.in_place else carry.count
        self.calls.append((now.copy(), seen.first.copy()))
        deep, (sevens,) = carry.more["b"]
        np.testing.assert_array_equal(np.asarray(deep), np.stack([now, 2 * now], 1))
        np.testing.assert_array_equal(carry.more["a"], np.broadcast_to(now[:, None, None], (len(now), 1, 3)))
        np.testing.assert_array_equal(sevens, 7.0 + now)
        if self.in_place:
            for array, by in ((carry.count, 1), (deep, torch.tensor([1, 2])), (carry.more["a"], 1), (sevens, 1)):
                array += by
            return Act(now % 2, carry, {"count": carry.count, "now": now})
        with torch.inference_mode():
            deep = deep + torch.tensor([1, 2])
        carry = Core(now + 1, {"b": (deep, [sevens + 1]), "a": carry.more["a"] + 1})
        return Act(now % 2, carry, {"count": now + 1, "now": now})


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("actors", [prl.LocalActors, prl.OverlappedActors])
def test_a_carry_begins_anew_with_every_episode(actors: Any, backend: str, in_place: bool) -> None:
    agent = Clocked(in_place)
    made = actors(agent, counters(backend))
    rows = 0
    for _ in range(30):
        for step in [step for chunk in made.poll() for step in chunk.steps()]:
            shown = np.where(step.valid, step.obs[:, 0], 3)
            np.testing.assert_array_equal(step.extras["now"], shown)
            np.testing.assert_array_equal(step.extras["count"], shown + 1)
            rows += int(step.first.sum())
    assert rows >= 14
    made.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_carry_begins_anew_in_evaluation(backend: str) -> None:
    env, agent = counters(backend), Clocked()
    result = prl.evaluate(agent, env, 6)
    assert result.lengths == (3,) * 6
    for count, first in agent.calls:
        assert (count[first] == 0).all()
        assert (count[~first] > 0).all()
        assert count.max() <= 3
    env.close()


@pytest.mark.parametrize("actors", [prl.LocalActors, prl.OverlappedActors])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_carry_survives_a_checkpoint_as_it_was(actors: Any, in_place: bool, tmp_path: Any) -> None:
    checkpoints = prl.Checkpoints(tmp_path)
    one, two = (actors(Clocked(in_place), counters("sync")) for _ in range(2))
    for t in range(8):
        one.poll()
        checkpoints.save(t, one.state_dict())
        two.load_state_dict(checkpoints.load().state)
        assert type(two.carry) is Core
        assert type(two.carry.more["b"]) is tuple
        a, b = one.poll(), two.poll()
        for x, y in zip(a, b, strict=True):
            for name in ("obs", "action", "next_obs"):
                np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
            np.testing.assert_array_equal(x.extras["now"], y.extras["now"])
    one.close()
    two.close()


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
@pytest.mark.parametrize("actors", [prl.LocalActors, prl.OverlappedActors])
def test_a_carry_begins_anew_where_environments_are_rebuilt(actors: Any, mode: str, tmp_path: Any) -> None:
    """Their simulators have no snapshot: at a boundary every row starts an episode, in interrupted runs and others."""
    checkpoints = prl.Checkpoints(tmp_path)
    one, two = (actors(Clocked(), counters(mode)) for _ in range(2))
    for t in range(5):
        one.poll()
        one.rebuild(t)
        checkpoints.save(t, one.state_dict())
        two.load_state_dict(checkpoints.load().state)
        for _ in range(3):
            for x, y in zip(one.poll(), two.poll(), strict=True):
                for name in ("obs", "action", "first", "valid"):
                    np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
                np.testing.assert_array_equal(x.extras["now"], y.extras["now"])
                assert (x.extras["now"][x.first] == 0).all()
    one.close()
    two.close()


def test_what_is_no_carry_is_refused() -> None:
    class Number(Clocked):
        def initial_carry(self, n: int) -> Any:
            return {"count": 0.0}

    with pytest.raises(prl.ProtoRLError, match=r"float 0\.0: a carry is made of arrays or tensors with 2 rows each"):
        prl.LocalActors(Number(), counters("sync"))

    class Changes(Clocked):
        def act(self, seen: Seen, carry: Any, *, explore: bool) -> Act:
            return Act(np.zeros(2, np.int64), tuple(carry))

    actors = prl.LocalActors(Changes(), counters("sync"))
    with pytest.raises(prl.ProtoRLError, match=r"changed its structure \(tuple, Core\)"):
        [actors.poll() for _ in range(4)]
    state = prl.LocalActors(Clocked(), counters("sync", 3)).state_dict()
    state["env"] = actors.env.state_dict()
    with pytest.raises(prl.ProtoRLError, match="use the same agent and num_envs"):
        prl.LocalActors(Clocked(), counters("sync")).load_state_dict(state)
