"""The single Atari game against ALE's own C++ vector environment: same seed, same actions, everything equal."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
pytest.importorskip("cv2", reason='OpenCV is not installed: pip install "protorl[atari]"')

from protorl.envs import AtariProtocol, make_vec_envs
from protorl.envs.atari import LifeLoss

# Breakout loses lives, Pong has none, SpaceInvaders gives back lives and ends inside a step.
CASES = [
    ("Breakout", "nature", {}),
    ("Breakout", "machado", {}),
    ("Pong", "machado", {}),
    ("SpaceInvaders", "nature", {}),
    ("Breakout", "nature", {"fire_reset": True}),
    ("Qbert", "nature", {"sticky": 0.25, "max_frames": 402}),
]


def pair(game, protocol, options, num_envs=2):
    return [
        make_vec_envs(f"ALE/{game}-v5", num_envs, seed=3, backend=backend, protocol=protocol, **options)
        for backend in ("sync", "native")
    ]


@pytest.mark.parametrize(("game", "protocol", "options"), CASES)
def test_single_game_equals_ale_vector(game, protocol, options):
    one, many = pair(game, protocol, options)
    assert one.spec == many.spec
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(one.reset(), many.reset())
    discounts, rewards, ends = 0, 0.0, 0
    for _ in range(500):
        action = rng.integers(0, one.spec.action.n, 2)
        a, b = one.step(action), many.step(action)
        for field in ("obs", "reward", "discount", "terminated", "truncated", "next_obs", "first", "valid"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
        discounts += int(((a.discount == 0) & ~a.ended).sum())
        rewards += float(np.abs(a.reward).sum())
        ends += int(a.ended.sum())
        np.testing.assert_array_equal(one.obs, many.obs)
    assert one.episodes() == many.episodes()
    assert rewards > 0
    if game == "Breakout":
        assert ends > 0
        assert (discounts > 0) == (protocol == "nature")  # a lost life counts only where the protocol says so
    if game == "Qbert":
        assert ends >= 2 * (500 // 101)  # the frame cap: 402 frames are 100 steps and a half
    one.close()
    many.close()


@pytest.mark.parametrize("backend", ["sync", "native"])
def test_stack_begins_with_zeros_and_holds_single_frames(backend):
    env = make_vec_envs("ALE/Breakout-v5", 1, seed=1, backend=backend, protocol="nature")
    assert (env.spec.obs.frame_stack, env.spec.obs.stack_padding) == (4, "zero")
    assert env.spec.time_limit == 27_000
    obs = env.reset()
    assert obs.shape == (1, 4, 84, 84)
    assert obs[0, :3].max() == 0  # no frame of the no-ops
    assert obs[0, 3].max() > 0
    frames = list(obs[0])
    for _ in range(5):
        step = env.step(np.array([1]))
        frames.append(step.next_obs[0, 3])
        np.testing.assert_array_equal(step.next_obs[0], np.stack(frames[-4:]))
    env.close()


def test_frame_cap_is_a_truncation():
    env = make_vec_envs("ALE/Pong-v5", 1, protocol=AtariProtocol(noop_max=0), backend="native", time_limit=7)
    env.reset()
    steps = [env.step(np.array([0])) for _ in range(8)]
    assert [bool(s.truncated[0]) for s in steps] == [False] * 6 + [True, False]
    assert all(s.discount[0] == 1 and not s.terminated[0] for s in steps)
    assert steps[7].first[0]
    env.close()


def test_rewards_are_never_clipped():
    """A point of SpaceInvaders is worth 5 at least."""
    env = make_vec_envs("ALE/SpaceInvaders-v5", 2, seed=0, protocol="nature")
    env.reset()
    rewards = {float(r) for t in range(200) for r in env.step(np.array([1, 1 + t % 3])).reward}
    assert max(rewards) >= 5
    env.close()


def test_the_last_life_is_no_lost_life():
    """Qbert shows zero lives for a while before it is over, and games give lives back."""
    loss = LifeLoss()
    loss.reset(np.array([3, 1, 2, 0]))
    assert loss.discount(np.array([2, 0, 3, 0])).tolist() == [0, 1, 1, 1]
    assert loss.discount(np.array([2, 0, 2, 0])).tolist() == [1, 1, 0, 1]


def test_the_games_own_return_counts_every_life():
    env = make_vec_envs("ALE/Breakout-v5", 1, seed=0, backend="sync", protocol="nature")
    env.reset()
    rng, total, lost, episodes = np.random.default_rng(0), 0.0, 0, []
    while not episodes:
        step = env.step(rng.integers(0, 4, 1))
        total += float(step.reward[0])
        lost += int(step.discount[0] == 0)
        episodes = env.episodes()
    assert episodes[0].ret == total
    assert lost == 5  # five lives: four lost and the game's end
    env.close()
