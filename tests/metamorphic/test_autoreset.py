"""One stream of steps, whoever resets the environments, when, and in which process."""

from __future__ import annotations

import multiprocessing
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from protorl.checkpoint import Checkpoints
from protorl.data import ProtoRLError, tree_map
from protorl.envs import from_vector, make_vec_envs
from protorl.envs.probes import Counter
from protorl.envs.sync import SyncEnv
from protorl.processes import Worker
from tests.contract.faults_of_envs import ID

LENGTHS = (3, 5)


class Row(Counter):
    """A counter whose length is known by its row's construction order, and that shows a Dict where asked to."""

    def __init__(self, length, truncated=False, as_dict=False, discount_at=None):
        super().__init__(length, truncated)
        self.as_dict, self.discount_at = as_dict, discount_at
        if as_dict:
            self.observation_space = spaces.Dict({"t": self.observation_space, "draw": spaces.Box(0, 1, (2,), np.float32)})

    def show(self, obs):
        return {"t": obs, "draw": self.np_random.random(2, np.float32)} if self.as_dict else obs

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return self.show(obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        info = {"discount": 0.0} if self.t == self.discount_at else {}
        return self.show(obs), reward + 10 * action, terminated, truncated, info


class Makers:
    """Makes rows of different lengths, in turn."""

    def __init__(self, **options):
        self.options, self.made = options, 0

    def __call__(self):
        self.made += 1
        return Row(LENGTHS[(self.made - 1) % 2], **self.options)


def fns(**options):
    return [partial(Row, length, **options) for length in LENGTHS]


class Dense(SyncVectorEnv):
    """`final_obs` as environments in C++ give it: an array over all rows, of which only those that ended mean anything."""

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        if "final_obs" in info:
            dense = tree_map(lambda array: np.full_like(array, 77), obs)
            for i in np.flatnonzero(info["_final_obs"]).tolist():
                last = info["final_obs"][i]
                for key in last if isinstance(last, dict) else [...]:
                    (dense[key] if isinstance(last, dict) else dense)[i] = last[key]
            info["final_obs"] = dense
        return obs, reward, terminated, truncated, info


def backends(**options):
    envs = {"own": SyncEnv(Makers(**options), 2, id="rows", seed=4)}
    for mode in AutoresetMode:
        envs[mode.name] = from_vector(SyncVectorEnv(fns(**options), autoreset_mode=mode), id="rows", seed=4)
        shared = SyncVectorEnv(fns(**options), autoreset_mode=mode, copy=False)
        envs[f"{mode.name} shared array"] = from_vector(shared, id="rows", seed=4)
    dense = Dense(fns(**options), autoreset_mode=AutoresetMode.SAME_STEP)
    return {**envs, "dense final_obs": from_vector(dense, id="rows", seed=4)}


def streams(env, steps=40):
    """Each row's valid steps, with everything a memory would store, and its episodes."""
    env.reset()
    rows = [[] for _ in range(env.num_envs)]
    for _ in range(steps):
        # The action depends on what is seen, so that rows stay comparable when some spend steps on resets.
        seen = env.obs["t"] if isinstance(env.obs, dict) else env.obs
        step = env.step((seen[:, 0] % 2).astype(np.int64))
        kept = tree_map(np.copy, step.obs)
        for i in range(env.num_envs):
            if step.valid[i]:
                at = lambda array, i=i: np.array(array[i]).tolist()  # noqa: E731
                rows[i].append(
                    [
                        at(x) if not isinstance(x, dict) else {k: at(v) for k, v in x.items()}
                        for x in (
                            kept,
                            step.action,
                            step.reward,
                            step.discount,
                            step.terminated,
                            step.truncated,
                            step.next_obs,
                            step.first,
                        )
                    ]
                )
            else:
                assert not step.ended[i]
                assert step.reward[i] == 0
    episodes = env.episodes()
    env.close()
    return rows, [[(e.ret, e.length) for e in episodes if e.env == i] for i in range(env.num_envs)]


def assert_same(one, other, least=30):
    for a, b in zip(one[0], other[0], strict=True):
        n = min(len(a), len(b))
        assert n >= least
        assert a[:n] == b[:n]
    for a, b in zip(one[1], other[1], strict=True):
        n = min(len(a), len(b))
        assert n >= 5
        assert a[:n] == b[:n]


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("as_dict", [False, True])
def test_every_autoreset_mode_gives_the_same_stream(truncated, as_dict):
    envs = backends(truncated=truncated, as_dict=as_dict)
    results = {name: streams(env) for name, env in envs.items()}
    for result in results.values():
        assert_same(results["own"], result)


def test_announced_discounts_survive_every_mode():
    results = {name: streams(env) for name, env in backends(discount_at=2).items()}
    own = results["own"][0]
    assert [step[3] for step in own[1][:5]] == [1.0, 0.0, 1.0, 1.0, 0.0]
    for result in results.values():
        assert_same(results["own"], result)


def test_a_discount_announced_in_the_last_step_of_a_truncated_episode_survives():
    results = {name: streams(env) for name, env in backends(truncated=True, discount_at=3).items()}
    assert results["own"][0][0][2][3] == 0.0
    for result in results.values():
        assert_same(results["own"], result)


@pytest.mark.parametrize("truncated", [False, True])
def test_no_successor_is_a_reset_observation(truncated):
    """Probe P8: s' = s + 1 always, and 0 is never a successor."""
    for name, env in backends(truncated=truncated).items():
        for row, length in zip(streams(env)[0], LENGTHS, strict=True):
            for obs, _, _, discount, terminated, cut, next_obs, first in row:
                assert next_obs[0] == obs[0] + 1, name
                assert first == (obs[0] == 0), name
                assert (terminated or cut) == (next_obs[0] == length), name
                assert discount == (0.0 if terminated else 1.0), name


def test_counted_steps_are_the_environments_steps():
    """Stored transitions are the steps taken less those spent on resets; lengths and returns are the episodes' own."""
    env = from_vector(SyncVectorEnv(fns()), id="rows")
    rows, episodes = streams(env, steps=24)
    assert [len(row) for row in rows] == [24 - 24 // 4, 24 - 24 // 6]
    assert {length for _, length in episodes[0]} == {3}
    assert set(episodes[0]) == {(1 + 2 + 3 + 10.0, 3)}  # the action is 1 where t is odd


TIME_LIMITED = {"wrappers": (partial(gymnasium.wrappers.TimeLimit, max_episode_steps=12),)}
SLOW_BOX = pytest.param("Pendulum-v1", TIME_LIMITED, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("id", "options"), [pytest.param("CartPole-v1", TIME_LIMITED, marks=pytest.mark.slow), (ID, {}), SLOW_BOX]
)
def test_worker_processes_give_the_stream_of_the_loop(id, options, tmp_path, monkeypatch):
    """Bit for bit, and either goes on where the other was, from a checkpoint too."""
    loop, workers = (make_vec_envs(id, 2, seed=3, backend=backend, **options) for backend in ("sync", "async"))
    assert loop.spec == workers.spec
    assert workers.exact
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(loop.reset(), workers.reset())
    for t in range(60):
        action = loop.spec.action.uniform(generator.random((2, loop.spec.action.numbers)))
        for a, b in zip(loop.step(action), workers.step(action), strict=True):
            assert a == b == {} if isinstance(a, dict) else a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        for a, b in zip(loop.seen[:4], workers.seen[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        if t == 29:
            assert loop.episodes() == workers.episodes() != []
            Checkpoints(tmp_path).save(0, {"loop": loop.state_dict(), "workers": workers.state_dict()})
            state = Checkpoints(tmp_path).load().state
            loop.load_state_dict(state["workers"])
            workers.load_state_dict(state["loop"])
    assert loop.episodes() == workers.episodes() != []

    def interrupted(self, seconds):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.step(action)
    assert multiprocessing.active_children() == []
    with pytest.raises(ProtoRLError, match="have ended"):  # an answer that came late is for no other question
        workers.step(action)
    workers.close()


def test_async_vector_env_in_next_step_mode_gives_the_same_stream():
    env = from_vector(AsyncVectorEnv(fns(), context="forkserver"), id="rows", seed=4)
    assert_same(streams(SyncEnv(Makers(), 2, id="rows", seed=4)), streams(env))


def test_native_cartpole_gives_the_stream_of_the_loop():
    """Equal up to the last bits: NumPy rounds the sines and cosines of a scalar and of an array differently."""
    loop, native = (make_vec_envs("CartPole-v1", 3, seed=3, backend=b) for b in ("sync", "native"))
    assert loop.spec == native.spec
    rows = []
    for env in (loop, native):
        env.reset()
        kept = [[] for _ in range(3)]
        for _ in range(150):
            action = (env.obs[:, 2] + env.obs[:, 3] > 0.1).astype(np.int64)
            step = env.step(action)
            for i in range(3):
                if step.valid[i]:
                    kept[i].append(
                        np.concatenate([step.obs[i], step.next_obs[i], [step.reward[i], step.discount[i], step.first[i]]])
                    )
        rows.append(kept)
    for a, b in zip(*rows, strict=True):
        n = min(len(a), len(b))
        assert n > 100
        np.testing.assert_allclose(a[:n], b[:n], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["sync", "native"])
def test_rows_do_not_depend_on_how_they_are_split(backend):
    """Law 8: four rows in one process, or two and two, or in another order: the same lives."""
    whole = make_vec_envs("CartPole-v1", 4, seed=9, backend=backend)
    halves = [make_vec_envs("CartPole-v1", 2, seed=9, first_row=row, backend=backend) for row in (2, 0)][::-1]
    np.testing.assert_array_equal(whole.reset(), np.concatenate([half.reset() for half in halves]))
    for t in range(80):
        action = np.array([t % 2, 0, 1, t % 3 == 0], np.int64)
        one = whole.step(action)
        parts = [half.step(action[2 * i : 2 * i + 2]) for i, half in enumerate(halves)]
        np.testing.assert_allclose(one.next_obs, np.concatenate([part.next_obs for part in parts]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(one.first, np.concatenate([part.first for part in parts]))
    assert len({tuple(row) for row in whole.reset().tolist()}) == 4  # four rows, four lives


def test_atari_rows_in_c_threads_do_not_depend_on_how_they_are_split():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    whole = make_vec_envs("ALE/Breakout-v5", 3, seed=9)
    last = make_vec_envs("ALE/Breakout-v5", 1, seed=9, first_row=2)
    np.testing.assert_array_equal(whole.reset()[2:], last.reset())
    for t in range(60):
        action = np.array([1, 2, t % 4])
        np.testing.assert_array_equal(whole.step(action).next_obs[2:], last.step(action[2:]).next_obs)
    whole.close()
    last.close()


def test_envpool_rows_follow_the_contract():
    pytest.importorskip("envpool", reason='EnvPool is not installed: pip install "protorl[envpool]"')
    env = make_vec_envs("CartPole-v1", 3, seed=1, backend="envpool")
    first = env.reset().copy()
    seen = ended = 0
    for t in range(150):
        before, pending = env.obs, env.pending
        step = env.step(np.full(3, t % 2))
        np.testing.assert_array_equal(step.valid, ~pending)
        np.testing.assert_array_equal(step.obs, before)
        moved = np.abs(step.next_obs - step.obs)[step.valid]
        assert (moved[:, 0] < 0.1).all()  # no jump back to the start inside an episode
        seen, ended = seen + int(step.valid.sum()), ended + int(step.ended.sum())
    assert ended > 0
    assert seen == 450 - ended + int(env.pending.sum())
    assert sum(e.length for e in env.episodes()) <= seen
    np.testing.assert_array_equal(env.reset(seed=1), first)
    env.close()
