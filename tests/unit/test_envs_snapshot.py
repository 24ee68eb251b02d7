"""Exact resume: carry on, or save, load into a fresh environment and carry on, and see the same stream."""

from __future__ import annotations

import io

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from protorl import rng
from protorl.data import ProtoRLError, tree_leaves
from protorl.envs import FrameStack, NormalizeObservation, NormalizeReward, TimeAware, make_vec_envs, snapshot


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def actions_of(env, steps, seed=0):
    generator, spec = np.random.default_rng(seed), env.spec.action
    for _ in range(steps):
        if spec.kind == "discrete":
            yield generator.integers(0, spec.n, env.num_envs)
        else:
            yield generator.uniform(-1, 1, (env.num_envs, *spec.shape)).astype(np.float32)


def stream(env, actions):
    seen = []
    for action in actions:
        step = env.step(action)
        seen += [*tree_leaves(step.obs), step.reward, step.discount, step.terminated, step.truncated]
        seen += [*tree_leaves(step.next_obs), step.first, step.valid, *tree_leaves(env.obs)]
    return seen, env.episodes()


def same(one, other):
    assert one[1] == other[1]
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)


def check(make, before=37, after=60, boundary=None):
    env = make()
    env.reset()
    stream(env, actions_of(env, before))
    if boundary is not None:
        env.rebuild(boundary)
    state = through_disk(env.state_dict())
    again = make()
    again.load_state_dict(state)
    carried, resumed = (stream(e, actions_of(e, after, seed=1)) for e in (env, again))
    env.close()
    again.close()
    same(carried, resumed)
    return carried


CLASSIC = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1"]
TABULAR = ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"]
MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5", "Reacher-v5", "Pusher-v5", "Walker2d-v5", "Swimmer-v5"]
MUJOCO += ["InvertedPendulum-v5", "InvertedDoublePendulum-v5", "HumanoidStandup-v5"]


@pytest.mark.parametrize("id", CLASSIC + TABULAR)
def test_plain_families_resume_exactly(id):
    make = lambda: make_vec_envs(id, 2, seed=5, backend="sync")  # noqa: E731
    assert make().exact
    check(make, before=23, after=230)


@pytest.mark.parametrize("id", MUJOCO)
def test_mujoco_resumes_exactly(id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves its log of warnings in the working directory
    pytest.importorskip("mujoco", reason='mujoco is not installed: pip install "protorl[mujoco]"')
    make = lambda: make_vec_envs(id, 1, seed=5)  # noqa: E731
    assert make().exact
    check(make, before=17, after=60)


@pytest.mark.parametrize("protocol", ["nature", "machado"])
def test_single_atari_game_resumes_exactly(protocol):
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    make = lambda: make_vec_envs("ALE/Breakout-v5", 1, seed=2, backend="sync", protocol=protocol)  # noqa: E731
    assert make().exact
    carried = check(make, before=60, after=250)
    assert carried[1]  # an episode ended, so resets were compared too


def test_the_screens_of_a_game_cut_inside_a_step_are_part_of_its_state():
    """At the frame cap the observation is made of the step before's screens."""
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    options = {"seed": 2, "backend": "sync", "protocol": "machado", "max_frames": 122}
    check(lambda: make_vec_envs("ALE/Breakout-v5", 1, **options), before=30, after=5)


def test_plain_ale_environment_resumes_exactly_only_without_sticky_actions():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    options = {"backend": "sync", "protocol": "raw", "obs_type": "ram", "seed": 2}
    assert not make_vec_envs("ALE/Breakout-v5", **options).exact
    check(lambda: make_vec_envs("ALE/Breakout-v5", repeat_action_probability=0.0, **options), before=60, after=250)


def test_native_atari_is_rebuilt():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    make = lambda: make_vec_envs("ALE/Breakout-v5", 2, seed=2, protocol="nature")  # noqa: E731
    assert not make().exact
    check(make, before=20, after=100, boundary=4)


def test_box2d_is_rebuilt():
    pytest.importorskip("Box2D", reason='Box2D is not installed: pip install "protorl[box2d]"')
    make = lambda: make_vec_envs("LunarLander-v3", 2, seed=2)  # noqa: E731
    assert not make().exact
    check(make, before=20, after=150, boundary=1)


def test_native_cartpole_resumes_exactly():
    make = lambda: make_vec_envs("CartPole-v1", 5, seed=2, backend="native")  # noqa: E731
    assert make().exact
    check(make, before=33, after=100)


PROBES = ["ConstantReward", "ObservationReward", "DelayedReward", "ActionReward", "ObservationActionReward"]
PROBES += ["TimeLimitReward", "Chain", "Counter", "MaximizationBias", "GaussianBandit", "NoiseCorridor"]


@pytest.mark.parametrize("probe", PROBES)
def test_probes_resume_exactly(probe):
    make = lambda: make_vec_envs(f"protorl/{probe}-v0", 3, seed=1)  # noqa: E731
    assert make().exact
    check(make, before=7, after=60)


def test_wrappers_resume_with_what_they_wrap():
    def make():
        wrappers = (lambda env: TimeAware(env, 200), lambda env: FrameStack(env, 3), gymnasium.wrappers.FlattenObservation)
        inner = make_vec_envs("Pendulum-v1", 2, seed=1, wrappers=wrappers)
        return NormalizeReward(NormalizeObservation(inner), gamma=0.9)

    assert make().exact
    check(make, before=150, after=120)


def test_normalisers_resume_around_rebuilt_environments():
    pytest.importorskip("Box2D", reason='Box2D is not installed: pip install "protorl[box2d]"')
    make = lambda: NormalizeReward(NormalizeObservation(make_vec_envs("LunarLander-v3", 2)), gamma=0.9)  # noqa: E731
    check(make, before=20, after=100, boundary=1)


def test_gymnasium_wrappers_resume():
    wrappers = (lambda env: gymnasium.wrappers.FrameStackObservation(env, 4),)
    make = lambda: make_vec_envs("CartPole-v1", 1, seed=3, wrappers=wrappers)  # noqa: E731
    assert make().exact
    check(make, before=12, after=80)


class Remembering(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.secret = 0


class Forgetful(gymnasium.Wrapper):
    def step(self, action):
        return self.env.step(action)


def test_a_wrapper_nobody_knows_makes_it_inexact():
    assert not make_vec_envs("CartPole-v1", 1, wrappers=(Remembering,)).exact
    assert make_vec_envs("CartPole-v1", 1, wrappers=(Forgetful,)).exact


class Secret(gymnasium.Env):
    """No snapshot; draws from its own generator."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.random(1, np.float32), {}

    def step(self, action):
        number = self.np_random.random(1, np.float32)
        return number, float(number[0]), bool(number < 0.1), False, {}


def test_rebuild_seeds_rows_by_boundary_and_forgets_unfinished_episodes():
    env = make_vec_envs(Secret, 2, seed=7, name="eval", first_row=3)
    assert not env.exact
    env.reset()
    for _ in range(3):
        env.step(np.array([0, 0]))
    env.episodes()
    env.rebuild(9)
    for row in range(2):
        one = Secret()
        first, _ = one.reset(seed=rng.integer(7, "eval", 3 + row, "boundary", 9))
        np.testing.assert_array_equal(env.obs[row], first)
    step = env.step(np.array([0, 0]))
    assert step.first.all()
    lengths = {}
    while len(lengths) < 2:
        for episode in env.episodes():
            lengths.setdefault(episode.env, episode.length)
        env.step(np.array([0, 0]))
    check(lambda: make_vec_envs(Secret, 2, seed=7), boundary=3)
    check(lambda: make_vec_envs(Secret, 2, seed=7), before=0)  # before any boundary: from the first seeds


def test_rebuild_leaves_exact_environments_alone():
    env, other = (make_vec_envs("CartPole-v1", 2, seed=1) for _ in range(2))
    env.reset()
    other.reset()
    same(stream(env, actions_of(env, 12)), stream(other, actions_of(other, 12)))
    env.rebuild(1)
    same(stream(env, actions_of(env, 40)), stream(other, actions_of(other, 40)))


def test_statistics_are_part_of_the_state():
    env = make_vec_envs("CartPole-v1", 2, seed=1)
    stream(env, ())
    for action in actions_of(env, 60):
        env.step(action)
    again = make_vec_envs("CartPole-v1", 2, seed=8)
    again.load_state_dict(through_disk(env.state_dict()))
    assert env.episodes() == again.episodes() != []


def test_a_state_of_another_shape_is_refused():
    one, two = (make_vec_envs("CartPole-v1", n, seed=1) for n in (1, 2))
    one.reset()
    with pytest.raises(ProtoRLError, match="1 environments"):
        two.load_state_dict(one.state_dict())


def test_a_state_of_another_backend_is_refused():
    compiled, loop = (make_vec_envs("CartPole-v1", 1, seed=1, backend=b) for b in ("native", "sync"))
    loop.reset()
    state = loop.state_dict()
    with pytest.raises(ProtoRLError, match="is of SyncEnv and these environments of CartPoleRows: use the same backend"):
        compiled.load_state_dict(state)


def test_freeze_keeps_every_type():
    from collections import deque

    value = [
        None, True, 3, 0.1, "s", np.float32(0.1), np.arange(4, dtype=np.uint8), (1, (2.5,)), deque([np.ones(2)], maxlen=3),
        {"a": 1, 2: np.int64(3)},
    ]  # fmt: skip
    back = snapshot.thaw(through_disk(snapshot.freeze(value)))
    assert [type(v) for v in back] == [type(v) for v in value]
    assert back[:5] == value[:5]
    assert back[5] == value[5]
    assert back[6].dtype == np.uint8
    assert back[7] == value[7]
    assert back[8].maxlen == 3
    assert back[9] == value[9]
    with pytest.raises(TypeError, match="no plain form"):
        snapshot.freeze(object())
