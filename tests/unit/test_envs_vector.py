"""The contract of VecEnv: specs, actions, steps, statistics, seeds, errors."""

from __future__ import annotations

import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from protorl import rng
from protorl.data import ProtoRLError
from protorl.envs import Episode, from_vector, make_vec_envs
from protorl.envs.native import CartPoleRows
from protorl.envs.probes import Counter
from protorl.envs.spec import ActionEdge, action_spec, canonical, obs_spec
from protorl.envs.sync import SyncEnv


class Fake(gymnasium.Env):
    """Whatever spaces it is given; keeps the actions it gets."""

    def __init__(self, obs=None, action=None):
        self.observation_space = spaces.Box(-1, 1, (2,), np.float64) if obs is None else obs
        self.action_space = spaces.Discrete(2) if action is None else action
        self.got = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.got.append(action)
        return self.observation_space.sample(), 1.5, False, False, {}


def fake(n=1, **spaces_):
    return SyncEnv(lambda: Fake(**spaces_), n, id="fake")


def test_importing_envs_imports_no_simulator():
    heavy = ("ale_py", "mujoco", "Box2D", "pygame", "cv2", "envpool", "minigrid", "popgym")
    code = f"import sys, protorl.envs; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_step_has_the_types_and_shapes_of_the_contract():
    env = fake(3)
    assert env.reset().dtype == np.float32  # float64 observations become float32
    step = env.step(np.array([0, 1, 1]))
    assert step.obs.shape == step.next_obs.shape == (3, 2)
    dtypes = {"reward": "f4", "discount": "f4", "terminated": "?", "truncated": "?", "first": "?", "valid": "?", "action": "i8"}
    for name, dtype in dtypes.items():
        assert getattr(step, name).dtype == np.dtype(dtype)
        assert getattr(step, name).shape == (3,)
    assert step.first.all()
    assert step.valid.all()
    assert step.extras == {}
    assert not env.step(np.array([0, 0, 0])).first.any()


def test_obs_resets_by_itself_once():
    a, b = fake(), fake()
    np.testing.assert_array_equal(a.obs, b.reset())
    np.testing.assert_array_equal(a.obs, b.obs)


def test_steps_stay_as_they_were_handed_out():
    """An environment that returns one array for ever, and an action array that the caller uses again."""

    class Same(Counter):
        array = np.zeros(1, np.float32)

        def reset(self, **options):
            super().reset(**options)
            self.array[0] = 0
            return self.array, {}

        def step(self, action):
            _, *rest = super().step(action)
            self.array[0] = self.t
            return self.array, *rest

    env = SyncEnv(lambda: Same(length=4), 1, id="same")
    env.reset()
    action, steps = np.array([0]), []
    for t in range(10):
        action[0] = t % 2
        steps.append(env.step(action))
    assert [int(s.obs[0, 0]) for s in steps] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [int(s.next_obs[0, 0]) for s in steps] == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert [int(s.action[0]) for s in steps] == [0, 1] * 5


def test_termination_and_truncation_at_once_is_a_termination():
    class Both(Counter):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, True, True, {}

    for env in (SyncEnv(Both, 1, id="both"), from_vector(SyncVectorEnv([Both]))):
        env.reset()
        step = env.step(np.array([0]))
        assert step.discount[0] == 0
        assert step.terminated[0]
        assert step.truncated[0]


def test_episodes_are_drained_and_summed_in_float64():
    env = SyncEnv(lambda: Counter(length=3), 2, id="counter")
    env.reset()
    for _ in range(4):
        env.step(np.array([0, 0]))
    assert env.episodes() == [Episode(6.0, 3, 0), Episode(6.0, 3, 1)]
    assert env.episodes() == []
    env.reset()  # the unfinished episode is forgotten
    for _ in range(3):
        env.step(np.array([0, 0]))
    assert env.episodes() == [Episode(6.0, 3, 0), Episode(6.0, 3, 1)]

    class Cents(Counter):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, 0.1, *rest

    env = SyncEnv(lambda: Cents(length=10), 1, id="cents")
    for _ in range(10):
        env.step(np.array([0]))
    assert env.episodes()[0].ret == sum([0.1] * 10) != float(np.sum(np.full(10, 0.1, np.float32)))


def test_rows_are_seeded_by_name_and_go_on_with_their_own_generators():
    env = make_vec_envs("CartPole-v1", 2, seed=11, name="eval", first_row=5)
    obs = [env.reset(), env.reset()]
    for row in range(2):
        one = gymnasium.make("CartPole-v1")
        np.testing.assert_array_equal(obs[0][row], one.reset(seed=rng.integer(11, "eval", 5 + row))[0])
        np.testing.assert_array_equal(obs[1][row], one.reset()[0])
    np.testing.assert_array_equal(env.reset(seed=11), obs[0])
    assert not np.array_equal(env.reset(seed=12), obs[0])


def test_cartpole_rows_live_the_single_environments_lives_and_spend_no_step_on_a_reset():
    """Row for row against CartPole with the same seed, over terminations and time limits; NumPy's sines differ by bits."""
    env = from_vector(lambda: CartPoleRows(3, 25), seed=4)
    obs, alone = env.reset(), [gymnasium.make("CartPole-v1", max_episode_steps=25) for _ in range(3)]
    for row, (one, seed) in enumerate(zip(alone, env.row_seeds(), strict=True)):
        np.testing.assert_array_equal(obs[row], one.reset(seed=seed)[0])
    generator, ends = np.random.default_rng(0), {"terminated": 0, "truncated": 0}
    first = np.ones(3, bool)
    for _ in range(300):
        lean = env.obs[:, 2] + env.obs[:, 3] > 0
        action = np.where([True, False, generator.random() < 0.9], lean, generator.integers(0, 2, 3)).astype(np.int64)
        np.testing.assert_array_equal(env.obs, obs)
        step = env.step(action)
        assert step.valid.all()
        assert not env.pending.any()
        np.testing.assert_array_equal(step.obs, obs)
        np.testing.assert_array_equal(step.first, first)
        obs, first = step.next_obs.copy(), step.ended
        for row, one in enumerate(alone):
            next_obs, reward, terminated, truncated, _ = one.step(int(action[row]))
            np.testing.assert_allclose(step.next_obs[row], next_obs, rtol=1e-5, atol=1e-6)
            assert (step.reward[row], step.terminated[row], step.truncated[row]) == (reward, terminated, truncated)
            assert step.discount[row] == 1 - terminated
            ends["terminated"] += terminated
            ends["truncated"] += truncated and not terminated
            if terminated or truncated:
                obs[row] = one.reset()[0]
    assert min(ends.values()) > 5
    lengths = [episode.length for episode in env.episodes()]
    assert len(lengths) == sum(ends.values())
    assert max(lengths) == 25


def test_cartpole_rows_begin_anew_where_asked_and_leave_the_others_alone():
    rows = CartPoleRows(4, 500)
    rows.reset(seed=[1, 2, 3, 4])
    for _ in range(5):
        before, *_ = rows.step(np.ones(4, np.int64))
    kept = before.copy()
    after, _ = rows.reset(options={"reset_mask": np.array([False, True, False, True])})
    np.testing.assert_array_equal(before, kept)  # what was handed out stays
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    for row, seed in ((1, 2), (3, 4)):
        one = gymnasium.make("CartPole-v1")
        one.reset(seed=seed)
        np.testing.assert_array_equal(after[row], one.reset()[0])
    assert rows.steps.tolist() == [5, 0, 5, 0]


def test_cartpole_rows_resume_exactly_at_every_moment_of_an_episode():
    def make():
        return from_vector(lambda: CartPoleRows(2, 12), seed=4)

    def live(env, actions):
        return [[*env.step(action)[:9], env.obs.copy()] for action in actions]

    actions = np.random.default_rng(1).integers(0, 2, (60, 2))
    env, whole = make(), live(make(), actions)
    assert env.exact
    assert sum(step[4].any() or step[5].any() for step in whole[:40]) > 3
    for t in range(40):  # also before the first step, and right after an end
        again = make()
        again.load_state_dict(env.state_dict())
        for one, other in zip(live(again, actions[t : t + 20]), whole[t:], strict=False):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        env.step(actions[t])


# Spaces -------------------------------------------------------------------------------------------------------------


def test_actions_of_a_box_go_once_from_the_unit_box_to_the_bounds():
    low, high = np.array([-2.0, 0.0, -np.inf, -np.inf], np.float32), np.array([2.0, 10.0, np.inf, 3.0], np.float32)
    edge = ActionEdge(spaces.Box(low, high), 1)
    kept, answer = edge(np.array([[0.5, -0.5, 7.0, 5.0]], np.float64))
    np.testing.assert_array_equal(answer, [[1.0, 2.5, 7.0, 3.0]])
    np.testing.assert_array_equal(kept, np.array([[0.5, -0.5, 7.0, 5.0]], np.float32))
    for unit in (-1.0, 1.0, 1.7):
        _, answer = edge(np.full((1, 4), unit, np.float32))
        assert spaces.Box(low, high).contains(answer[0])  # rounding or an unsquashed Gaussian must not leave the bounds
    box = spaces.Box(np.float32(-0.4), np.float32(0.4), (17,))
    assert all(box.contains(ActionEdge(box, 1)(np.full((1, 17), u, np.float32))[1][0]) for u in (-1.0, 0.3, 1.0))
    assert ActionEdge(spaces.Box(-2.0, 2.0, (1,), np.float64), 1)(np.ones((1, 1), np.float32))[1].dtype == np.float64


MAX = np.finfo(np.float32).max
INF = np.inf


@pytest.mark.parametrize(
    ("low", "high", "unbounded", "answers"),  # the answers to -1, 0, 1 and 5
    [
        (-INF, INF, True, [-1, 0, 1, 5]),
        (2, INF, True, [2, 3, 4, 8]),
        (-INF, -2, True, [-4, -3, -2, -2]),
        (-5, INF, True, [-1, 0, 1, 5]),
        (-0.5, INF, True, [-0.5, 0.5, 1.5, 5.5]),
        (-MAX, MAX, True, [-1, 0, 1, 5]),
        (-MAX / 2, MAX / 2, False, [-MAX / 2, 0, MAX / 2, MAX / 2]),
        (0, MAX, False, [0, MAX / 2, MAX, MAX]),
        (MAX / 2, MAX, False, [MAX / 2, 0.75 * MAX, MAX, MAX]),  # their sum overflows, their width does not
        (3, 3, False, [3, 3, 3, 3]),
        (MAX, MAX, False, [MAX] * 4),
        (0, 0, False, [0] * 4),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_of_every_kind(low, high, unbounded, answers, dtype):
    edge = ActionEdge(spaces.Box(dtype(low), dtype(high), (1,), dtype), 4)
    assert edge.spec.unbounded.tolist() == [unbounded]
    with np.errstate(over="ignore"):  # 5 times a range that ends where floats end
        _, answer = edge(np.array([[-1.0], [0.0], [1.0], [5.0]], np.float32))
    np.testing.assert_allclose(answer[:, 0], answers, rtol=1e-6)


def test_bounds_beyond_float32_are_none():
    edge = ActionEdge(spaces.Box(-1e300, 1e300, (1,), np.float64), 1)
    assert edge.spec.unbounded.all()
    np.testing.assert_array_equal(edge(np.array([[0.5]], np.float32))[1], [[0.5]])


def test_discrete_starts_are_added():
    env = fake(2, action=spaces.Discrete(3, start=-1))
    env.reset()
    step = env.step(np.array([0, 2]))
    assert [gate.env.got for gate in env._gates] == [[-1], [1]]
    assert step.action.tolist() == [0, 2]
    edge = ActionEdge(spaces.MultiDiscrete([2, 3], start=np.array([1, 5])), 1)
    assert edge(np.array([[1, 2]]))[1].tolist() == [[2, 7]]
    vector = from_vector(SyncVectorEnv([lambda: Fake(action=spaces.Discrete(3, start=4))]))
    vector.reset()
    vector.step(np.array([1]))
    assert vector._vector.envs[0].got == [5]


BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), np.array([0]), r"shape \(2,\).*got int64 of shape \(1,\)"),
        (spaces.Discrete(3), np.array([0.0, 1.0]), "must be integers"),
        (spaces.Discrete(3), np.array([0, 3]), r"\[0, 3\] are not all in 0..2"),
        (spaces.Discrete(3), np.array([-1, 0]), r"are not all in 0..2"),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 0], [0, 3]]), r"n = \[2, 3\]"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 0]), r"shape \(2, 2\)"),
        (BOX, np.zeros((2, 3), np.float32), r"shape \(2, 2\)"),
        (BOX, np.zeros((2, 2), np.int64), "must be floats"),
        (BOX, np.array([[0.0, np.nan], [0.0, 0.0]]), "not all finite"),
        (BOX, np.array([[0.0, np.inf], [0.0, 0.0]]), "not all finite"),
    ],
)
def test_wrong_actions_get_one_sentence(space, action, message):
    env = fake(2, action=space)
    env.reset()
    with pytest.raises(ProtoRLError, match=message) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", [spaces.Tuple([spaces.Discrete(2)]), spaces.MultiBinary(3), spaces.Box(0, 3, (2,), np.int64)])
def test_unsupported_action_spaces_are_refused(space):
    with pytest.raises(ProtoRLError, match=r"action space .* is not supported: use Discrete"):
        action_spec(space)


@pytest.mark.parametrize(
    "space", [spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3), spaces.Dict(a=spaces.Dict(b=BOX)), spaces.Sequence(BOX)]
)
def test_unsupported_observation_spaces_are_refused(space):
    with pytest.raises(ProtoRLError, match=r"observation space .* is not supported: use Box"):
        obs_spec(canonical(space)[0])


def test_images_become_channels_first_and_discrete_one_hot():
    space, convert = canonical(spaces.Box(0, 255, (8, 6, 3), np.uint8))
    image = np.arange(144, dtype=np.uint8).reshape(8, 6, 3)
    assert space.shape == (3, 8, 6)
    assert obs_spec(space).pixels
    np.testing.assert_array_equal(convert(image), image.transpose(2, 0, 1))
    np.testing.assert_array_equal(convert(np.stack([image] * 2))[1], image.transpose(2, 0, 1))  # batches too
    assert canonical(spaces.Box(0, 255, (3, 8, 6), np.uint8))[1] is None
    assert canonical(spaces.Box(0, 255, (8, 6), np.uint8))[0].shape == (1, 8, 6)
    assert canonical(spaces.Box(0, 255, (128,), np.uint8))[1] is None
    space, convert = canonical(spaces.Discrete(3, start=1))
    np.testing.assert_array_equal(convert(np.array([1, 3])), [[1, 0, 0], [0, 0, 1]])
    dictionary = spaces.Dict(picture=spaces.Box(0, 255, (8, 6, 3), np.uint8), where=spaces.Discrete(4), v=BOX)
    space, convert = canonical(dictionary)
    spec = obs_spec(space)
    assert {k: (v.shape, str(v.dtype)) for k, v in spec.items()} == {
        "picture": ((3, 8, 6), "uint8"),
        "where": ((4,), "float32"),
        "v": ((2,), "float32"),
    }
    sample = dictionary.sample()
    np.testing.assert_array_equal(convert(sample)["picture"], sample["picture"].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", [*AutoresetMode, None])
def test_images_and_dicts_through_every_backend(mode):
    dictionary = spaces.Dict(picture=spaces.Box(0, 255, (8, 6, 3), np.uint8), where=spaces.Discrete(4))
    if mode is None:
        env = make_vec_envs(Fake, 2, obs=dictionary)
    else:
        env = from_vector(SyncVectorEnv([lambda: Fake(obs=dictionary)] * 2, autoreset_mode=mode))
    assert env.reset()["picture"].shape == (2, 3, 8, 6)
    step = env.step(np.array([0, 1]))
    assert step.next_obs["where"].sum() == 2
    assert step.next_obs["picture"].dtype == np.uint8


def test_spec_tells_everything():
    env = make_vec_envs("Pendulum-v1", 3)
    assert (env.spec.id, env.spec.num_envs, env.num_envs, env.spec.time_limit) == ("Pendulum-v1", 3, 3, 200)
    assert (env.spec.obs.shape, env.spec.obs.frame_stack) == ((3,), 1)
    assert (env.spec.action.kind, env.spec.action.shape, env.spec.action.high.tolist()) == ("box", (1,), [2.0])


# Errors -------------------------------------------------------------------------------------------------------------


class Breaks(Counter):
    def __init__(self, where="step"):
        super().__init__()
        self.where = where

    def reset(self, **options):
        if self.where == "reset":
            raise ValueError("no power")
        return super().reset(**options)

    def step(self, action):
        raise ValueError("gear stuck")


@pytest.mark.parametrize(("where", "words"), [("step", "gear stuck"), ("reset", "no power")])
def test_a_failing_environment_is_named(where, words):
    makers = iter([Counter, lambda: Breaks(where)])
    env = SyncEnv(lambda: next(makers)(), 2, id="Broken-v0", first_row=6)
    with pytest.raises(ProtoRLError, match=rf"Broken-v0 failed in {where}\(\) of row 7: ValueError\('{words}'\)") as caught:
        env.step(np.array([0, 0]))
    assert isinstance(caught.value.__cause__, ValueError)


def test_rewards_of_another_shape_are_refused():
    class Odd(SyncVectorEnv):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward[:, None], *rest

    env = from_vector(Odd([Counter, Counter]), id="Odd-v0")
    with pytest.raises(ProtoRLError, match=r"Odd-v0, step\(\) of rows 0..1: reward is .* must be an array of shape \(2,\)"):
        env.step(np.zeros(2, np.int64))


def test_a_failing_vector_environment_is_named():
    env = from_vector(SyncVectorEnv([Counter, Breaks]), id="Broken-v0")
    with pytest.raises(ProtoRLError, match=r"Broken-v0 failed in step\(\) of rows 0..1: ValueError") as caught:
        env.step(np.array([0, 0]))
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_cannot_go_to_another_process_is_refused():
    with pytest.raises(ProtoRLError, match=r'backend="async" sends Breaks to other processes, .*cannot pickle .*lock'):
        make_vec_envs(Breaks, 1, backend="async", where=threading.Lock())
    with pytest.raises(ProtoRLError, match="worker_timeout is 0: "):
        make_vec_envs(Breaks, 1, backend="async", worker_timeout=0)


def test_a_failing_worker_is_named():
    env = make_vec_envs(Breaks, 1, backend="async", first_row=3)
    with pytest.raises(ProtoRLError, match=r"Breaks failed in step\(\) of row 3: ValueError\('gear stuck'\)"):
        env.step(np.array([0]))
    env.close()


def test_an_observation_that_belies_its_space_is_refused():
    class Liar(Counter):
        def begin(self):
            return np.zeros(2, np.float32)

    with pytest.raises(ProtoRLError, match=r"shape \(2,\) where its space says \(1,\)"):
        SyncEnv(Liar, 1, id="liar").reset()

    class Scalar(Counter):
        def step(self, action):
            return 0.5, *super().step(action)[1:]

    env = SyncEnv(Scalar, 1, id="scalar")
    env.reset()
    with pytest.raises(
        ProtoRLError, match=r"scalar, step\(\) of row 0: observation has shape \(\) where its space says \(1,\)"
    ):
        env.step(np.array([0]))


def test_a_vector_environment_must_say_how_it_resets():
    vector = SyncVectorEnv([Counter])
    vector.metadata = {}
    with pytest.raises(ProtoRLError, match="does not say how it resets"):
        from_vector(vector)
    from_vector(vector, autoreset_mode="NextStep").reset()


def test_render_needs_its_mode():
    with pytest.raises(ProtoRLError, match="rgb_array"):
        make_vec_envs("CartPole-v1").render()


def test_render_gives_a_picture():
    pytest.importorskip("pygame", reason='pygame is not installed: pip install "protorl[video]"')
    env = make_vec_envs("CartPole-v1", render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (400, 600, 3)
    assert env.render().dtype == np.uint8
    env.close()
