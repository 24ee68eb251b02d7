"""Frame stacks, time in view, running normalisers, and the numbers the probes promise."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from protorl.data import ProtoRLError
from protorl.envs import (
    FrameStack,
    NormalizeObservation,
    NormalizeReward,
    TimeAware,
    from_vector,
    make_vec_envs,
)
from protorl.envs.probes import Chain, Counter, GaussianBandit, MaximizationBias, NoiseCorridor
from protorl.moments import RunningMeanStd

# Frames and time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_frames_are_stacked_oldest_first_and_padded_at_the_start(padding):
    class FromOne(Counter):
        def begin(self):
            return np.array([7], np.float32)

    env = FrameStack(FromOne(length=9), 3, padding)
    first, _ = env.reset()
    assert first.tolist() == ([7, 7, 7] if padding == "reset" else [0, 0, 7])
    assert [env.step(0)[0].tolist() for _ in range(3)][-2:] == [[7, 1, 2], [1, 2, 3]]
    assert env.reset()[0].tolist() == first.tolist()  # nothing of the episode before


def test_images_are_stacked_along_channels():
    class Screen(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (6, 5, 3), np.uint8)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.full((6, 5, 3), 9, np.uint8), {}

    env = make_vec_envs(Screen, 2, frame_stack=4)
    assert env.reset().shape == (2, 12, 6, 5)
    assert (env.spec.obs.frame_stack, env.spec.pixels) == (4, True)


def test_frame_stack_refuses_what_it_cannot_do():
    with pytest.raises(ProtoRLError, match="padding 'mirror' is unknown"):
        FrameStack(Counter(), 2, "mirror")
    with pytest.raises(ProtoRLError, match="cannot be stacked"):
        FrameStack(gymnasium.make("FrozenLake-v1"), 2)


def test_time_is_in_view():
    env = make_vec_envs("protorl/TimeLimitReward-v0", 1, wrappers=(TimeAware,))
    assert env.spec.obs.shape == (2,)
    env.reset()
    steps = [env.step(np.array([0])) for _ in range(11)]
    np.testing.assert_allclose([s.obs[0, 1] for s in steps], [*(np.arange(10) / 10), 0.0], rtol=1e-6)
    assert steps[9].next_obs[0, 1] == 1
    with pytest.raises(ProtoRLError, match="no time limit to show"):
        TimeAware(Counter())


# Normalisers ---------------------------------------------------------------------------------------------------------------


def test_running_statistics_equal_those_of_everything_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 5, (n, 2)) * [1, 100] for n in (1, 7, 0, 3, 50)]
    running = RunningMeanStd((2,))
    assert running.var.tolist() == [1, 1]
    for batch in batches:
        running.update(batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(running.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(running.var, everything.var(0), rtol=1e-12)
    assert running.count == 61


def both(length=3):
    """The same counters, reset in the same step (own loop) and in the next one (Gymnasium's default)."""
    own = make_vec_envs(lambda: Counter(length), 2)
    return own, from_vector(SyncVectorEnv([lambda: Counter(length)] * 2))


def test_observation_normaliser_counts_every_observation_acted_on_once():
    for env, steps in zip(both(), (12, 16), strict=True):
        normal = NormalizeObservation(env)
        normal.reset()
        seen = [normal.step(np.array([0, 0])) for _ in range(steps)]
        statistics = normal.statistics[""]
        # 0 1 2 | 0 1 2 | ... in two rows, and the next episode's 0: 4 episodes of 3, plus one first observation.
        shown = np.array([0, 1, 2] * 4 + [0])
        if env.pending.any():  # not yet reset
            shown = shown[:-1]
        assert statistics.count == 2 * len(shown)
        np.testing.assert_allclose(statistics.mean, shown.mean())
        np.testing.assert_allclose(statistics.var, shown.var())
        for before, after in itertools.pairwise(seen):
            same = ~before.ended & after.valid & before.valid
            np.testing.assert_array_equal(after.obs[same], before.next_obs[same])  # what the agent saw


def test_observation_normaliser_scales_clips_and_freezes():
    env = make_vec_envs(lambda: Counter(1000), 1)
    normal = NormalizeObservation(env, clip=1.2)
    normal.reset()
    for _ in range(100):
        step = normal.step(np.array([0]))
    assert step.next_obs.dtype == np.float32
    assert step.next_obs[0, 0] == np.float32(1.2)
    assert normal.spec.obs.high.tolist() == [np.float32(1.2)]
    shown = np.arange(101)
    np.testing.assert_allclose(normal.normalize(np.array([[60.0]])), (60 - shown.mean()) / shown.std(), rtol=1e-5)
    normal.frozen = True
    normal.step(np.array([0]))
    assert normal.statistics[""].count == 101
    with pytest.raises(ProtoRLError, match="no float observation"):
        NormalizeObservation(make_vec_envs(lambda: _uint8(), 1))


def _uint8():
    env = Counter()
    env.observation_space = gymnasium.spaces.Box(0, 255, (1,), np.uint8)
    return env


def test_reward_normaliser_runs_along_time_and_starts_anew_with_each_episode():
    returns = [1, 1 * 0.5 + 2, (1 * 0.5 + 2) * 0.5 + 3] * 4
    for env, steps in zip(both(), (12, 15), strict=True):
        normal = NormalizeReward(env, gamma=0.5)
        normal.reset()
        seen = [normal.step(np.array([0, 0])) for _ in range(steps)]
        assert normal.statistics.count == 24  # nothing is counted where a row spends a step on its reset
        np.testing.assert_allclose(normal.statistics.mean, np.mean(returns))
        np.testing.assert_allclose(normal.statistics.var, np.var(returns))
        np.testing.assert_allclose(seen[-1].reward, 3 / np.std(returns), rtol=1e-6)
        assert {e.ret for e in normal.episodes()} == {6.0}  # the environment's own


def test_reward_normaliser_clips_and_freezes():
    normal = NormalizeReward(make_vec_envs(lambda: Counter(1000), 1), gamma=0.0, clip=1.5)
    normal.reset()
    rewards = [normal.step(np.array([0])).reward[0] for _ in range(50)]
    assert max(rewards) == 1.5
    normal.frozen, before = True, normal.statistics.count
    normal.step(np.array([0]))
    assert normal.statistics.count == before


# Probes --------------------------------------------------------------------------------------------------------------------


def test_chain_gives_the_n_step_returns_it_promises():
    for truncated in (False, True):
        env = make_vec_envs(lambda truncated=truncated: Chain(truncated), 1)
        env.reset()
        steps = [env.step(np.array([0])) for _ in range(5)]
        assert [s.reward[0] for s in steps] == [1, 2, 3, 4, 5]
        assert [s.discount[0] for s in steps] == [1, 1, 1, 1, float(truncated)]
        table = []
        for t in range(5):
            window = steps[t : t + 3]
            discount = 0.9 ** len(window) * float(np.prod([s.discount[0] for s in window]))
            table += [(sum(0.9**k * s.reward[0] for k, s in enumerate(window)), discount)]
        tail = [0.729, 0.81, 0.9] if truncated else [0, 0, 0]
        np.testing.assert_allclose([r for r, _ in table], [5.23, 7.94, 10.65, 8.5, 5], rtol=1e-6)
        np.testing.assert_allclose([d for _, d in table], [0.729, 0.729, *tail], rtol=1e-6)


def test_the_bandit_pays_most_at_three_tenths_of_the_unit_box():
    env = make_vec_envs(GaussianBandit, 5)
    env.reset()
    rewards = env.step(np.array([[-1.0], [0.0], [0.3], [0.6], [1.0]], np.float32)).reward
    np.testing.assert_allclose(rewards, [-6.76, -0.36, 0, -0.36, -1.96], atol=1e-6)


def test_maximization_bias_is_the_books_example():
    env = make_vec_envs(MaximizationBias, 2, seed=0)
    rewards = []
    for _ in range(2000):
        env.reset()
        step = env.step(np.array([9, 4]))
        assert (bool(step.terminated[0]), bool(step.terminated[1]), step.reward.tolist()) == (True, False, [0, 0])
        rewards.append(env.step(np.array([9, 7])).reward[1])
    assert np.mean(rewards) == pytest.approx(-0.1, abs=3 / 2000**0.5)
    assert np.std(rewards) == pytest.approx(1, abs=0.06)


def test_the_noise_corridor_pays_at_the_shown_end():
    env = make_vec_envs(NoiseCorridor, 64, seed=0)
    obs = env.reset()
    assert set(obs[:, 1]) == {-1, 1}
    assert 70 < obs[:, 2:].std() < 130
    toward = (obs[:, 1] > 0).astype(np.int64)
    steps = [env.step(toward) for _ in range(4)]
    assert steps[-1].terminated.all()
    assert (steps[-1].reward == 1).all()
    away = 1 - (env.obs[:, 1] > 0).astype(np.int64)
    assert sum(float(env.step(away).reward.sum()) for _ in range(4)) == 0
    dither = [env.step(np.full(64, t % 2)) for t in range(50)]
    assert dither[-1].truncated.all()
