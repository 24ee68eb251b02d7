"""One Atari game, ALE's own C++ vector environment, Gymnasium's wrappers and EnvPool: where they must agree, everything is
equal; where they differ, the difference is shown. docs/atari.md has the table."""

from __future__ import annotations

import importlib.util
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

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


@pytest.mark.parametrize(
    ("game", "protocol", "options"), [*CASES[:2], *[pytest.param(*case, marks=pytest.mark.slow) for case in CASES[2:]]]
)
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


# Gymnasium's wrappers and EnvPool ----------------------------------------------------------------------------------------

needs_envpool = pytest.mark.skipif(
    importlib.util.find_spec("envpool") is None, reason='EnvPool is not installed: pip install "protorl[envpool]"'
)
FIELDS = ("obs", "action", "reward", "discount", "terminated", "truncated", "next_obs", "first")


class ZeroDiscountOnLifeLoss(gymnasium.Wrapper):
    """A lost life as the protocols here have it: no bootstrap, and the game goes on."""

    def reset(self, **arguments):
        obs, info = self.env.reset(**arguments)
        self.lives = info["lives"]
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        if 0 < info["lives"] < self.lives:
            info = {**info, "discount": 0.0}
        self.lives = info["lives"]
        return obs, reward, terminated, truncated, info


def by_gymnasium(game, padding="zero", noops=0, life_loss=True, terminal_on_life_loss=False, **options):
    """Gymnasium's own pipeline, through the arguments that any user has."""
    wrappers = [
        partial(AtariPreprocessing, noop_max=noops, terminal_on_life_loss=terminal_on_life_loss),
        partial(FrameStackObservation, stack_size=4, padding_type=padding),
    ]
    if life_loss:
        wrappers.append(ZeroDiscountOnLifeLoss)
    plain = {"frameskip": 1, "repeat_action_probability": 0.0, **options}
    return make_vec_envs(f"ALE/{game}-v5", 2, seed=3, protocol="raw", wrappers=wrappers, **plain)


def lives(env, steps=300):
    """What each row lives through in its first `steps` valid steps; its actions are its own, however others reset."""
    env.reset()
    actions = np.random.default_rng(0).integers(0, env.spec.action.n, (env.num_envs, steps + 1))
    rows = [[] for _ in range(env.num_envs)]
    while min(map(len, rows)) < steps:
        step = env.step(np.array([actions[i, min(len(row), steps)] for i, row in enumerate(rows)]))
        for i, row in enumerate(rows):
            if step.valid[i]:
                row.append({name: getattr(step, name)[i] for name in FIELDS})
    env.close()
    return [row[:steps] for row in rows]


def assert_same_lives(one, two, final_frame=True):
    """final_frame: also the screen of a game's last step."""
    for i, (mine, theirs) in enumerate(zip(one, two, strict=True)):
        for t, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            for name in FIELDS:
                if name != "next_obs" or final_frame or not a["terminated"]:
                    np.testing.assert_array_equal(a[name], b[name], err_msg=f"{name} of step {t}, row {i}")


@pytest.mark.parametrize(
    "game", ["Breakout", *[pytest.param(game, marks=pytest.mark.slow) for game in ("Pong", "SpaceInvaders", "Qbert")]]
)
def test_gymnasiums_wrappers_give_the_same(game):
    cap = {"max_frames": 402} if game == "Qbert" else {}
    arguments = {"seed": 3, "protocol": "nature", "noop_max": 0, **cap}
    ours = [make_vec_envs(f"ALE/{game}-v5", 2, backend=backend, **arguments) for backend in ("sync", "native")]
    one, many = map(lives, ours)
    theirs = lives(by_gymnasium(game, **({"max_num_frames_per_episode": 402} if cap else {})))
    assert_same_lives(one, many)
    assert_same_lives(one, theirs)
    steps = [step for row in one for step in row]
    assert any(step["reward"] for step in steps)
    if game == "Breakout":
        assert any(step["terminated"] for step in steps)
        assert any(step["discount"] == 0 and not step["terminated"] for step in steps)
    assert any(step["truncated"] for step in steps) == bool(cap)


@needs_envpool
@pytest.mark.parametrize(
    "game", ["Breakout", *[pytest.param(game, marks=pytest.mark.slow) for game in ("Pong", "SpaceInvaders")]]
)
def test_envpool_gives_the_same_from_the_same_start(game):
    """EnvPool makes at least one no-op and repeats the first frame: so do Gymnasium's wrappers when asked."""
    pool = lives(make_vec_envs(f"ALE/{game}-v5", 2, seed=3, backend="envpool", protocol="nature", noop_max=1))
    theirs = lives(by_gymnasium(game, padding="reset", noops=1))
    assert_same_lives(theirs, pool, final_frame=False)
    steps = [step for row in pool for step in row]
    assert any(step["reward"] for step in steps)
    assert any(step["terminated"] for step in steps) == (game == "Breakout")


# Where they differ -------------------------------------------------------------------------------------------------------


def first_obs(env):
    """[N, 4, 84, 84]; the environment is closed."""
    obs = env.reset()
    env.close()
    return obs


@needs_envpool
def test_no_ops_and_stacks_begin_differently():
    none, one = (first_obs(by_gymnasium("Pong", padding="reset", noops=n))[0] for n in (0, 1))
    assert (none != one).any()
    arguments = {"seed": 3, "protocol": "nature", "noop_max": 1}
    ours, pool = (first_obs(make_vec_envs("ALE/Pong-v5", 6, backend=b, **arguments)) for b in ("native", "envpool"))
    drawn = [[(obs[3] == start[3]).all() for start in (none, one)] for obs in ours]
    assert np.array(drawn).any(0).all()  # ours: none or one
    assert np.array(drawn).any(1).all()
    assert (pool[:, 3] == one[3]).all()  # EnvPool: never none
    assert not ours[:, :3].any()  # ours begins with zeros
    assert (pool == one).all()  # EnvPool repeats the first frame


@needs_envpool
def test_sticky_actions_of_envpool_are_of_another_generator():
    arguments = {"seed": 3, "protocol": "machado"}
    ours, pool = (lives(make_vec_envs("ALE/SpaceInvaders-v5", 1, backend=b, **arguments), 60)[0] for b in ("native", "envpool"))
    assert any((a["next_obs"][3] != b["next_obs"][3]).any() for a, b in zip(ours, pool, strict=True))


def test_gymnasiums_terminal_on_life_loss_begins_a_new_game():
    """Which is why the protocols here do not use it: ours lives through the later lives too."""
    cut = lives(by_gymnasium("Breakout", life_loss=False, terminal_on_life_loss=True))[0]
    ours = lives(make_vec_envs("ALE/Breakout-v5", 2, seed=3, backend="native", protocol="nature", noop_max=0))[0]
    lost = next(t for t, step in enumerate(ours) if step["discount"] == 0)
    assert cut[lost]["terminated"]
    assert not ours[lost]["terminated"]
    assert cut[lost + 1]["first"]
    np.testing.assert_array_equal(cut[lost + 1]["obs"][3], cut[0]["obs"][3])  # a full set of lives again
    assert (ours[lost + 1]["obs"][3] != cut[0]["obs"][3]).any()


@needs_envpool
def test_the_last_screen_of_a_game_that_ends_inside_a_step_differs():
    """Nothing is bootstrapped from it."""
    pool = lives(make_vec_envs("ALE/SpaceInvaders-v5", 2, seed=3, backend="envpool", protocol="nature", noop_max=1), 900)
    theirs = lives(by_gymnasium("SpaceInvaders", padding="reset", noops=1), 900)
    last = [(a, b) for rows in zip(pool, theirs, strict=True) for a, b in zip(*rows, strict=True) if a["terminated"]]
    assert last
    assert any((a["next_obs"] != b["next_obs"]).any() for a, b in last)
    assert all(a["discount"] == b["discount"] == 0 for a, b in last)


def test_the_example_of_the_docs_keeps_single_frames():
    wrappers = [partial(AtariPreprocessing, noop_max=0)]
    arguments = {"seed": 3, "protocol": "raw", "frameskip": 1, "repeat_action_probability": 0.0}
    env = make_vec_envs("ALE/Breakout-v5", 2, wrappers=wrappers, frame_stack=4, **arguments)
    assert (env.spec.obs.frame_stack, env.spec.obs.shape) == (4, (4, 84, 84))
    assert_same_lives(lives(env, 20), lives(by_gymnasium("Breakout", padding="reset", life_loss=False), 20))
