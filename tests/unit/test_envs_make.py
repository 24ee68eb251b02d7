"""From names, classes and old interfaces to environments, and the sentences for what cannot be made."""

from __future__ import annotations

import dataclasses
import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from protorl.data import ProtoRLError
from protorl.envs import AtariProtocol, SyncEnv, make_env, make_vec_envs
from protorl.envs.adapter import AdaptedEnv
from protorl.envs.native import CartPoleRows
from protorl.envs.probes import PROBES, Counter

# Which backend -------------------------------------------------------------------------------------------------------


def test_auto_takes_the_fast_one():
    for rows in (1, 4):
        compiled = make_vec_envs("CartPole-v1", rows, sutton_barto_reward=True)
        assert isinstance(compiled, AdaptedEnv)
        assert isinstance(compiled._vector, CartPoleRows)
    assert isinstance(make_vec_envs("CartPole-v1", 16, wrappers=(gymnasium.wrappers.NormalizeReward,)), SyncEnv)
    assert isinstance(make_vec_envs("Pendulum-v1", 32), SyncEnv)


def test_auto_plays_atari_in_c():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    fast = make_vec_envs("ALE/Pong-v5", 2)
    assert isinstance(fast, AdaptedEnv)
    assert isinstance(make_vec_envs("ALE/Pong-v5", 2, render_mode="rgb_array"), SyncEnv)
    assert isinstance(make_vec_envs("ALE/Pong-v5", 1), SyncEnv)  # threads cost more than one game gains
    fast.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "CartPole-v1", "num_envs": 0}, "num_envs is 0"),
        ({"env": "CartPole-v1", "backend": "ray"}, "backend 'ray' is unknown: use one of auto, sync"),
        ({"env": "Pendulum-v1", "backend": "native"}, "Pendulum-v1 has no native vector implementation"),
        ({"env": "CartPole-v1", "protocol": "nature"}, "is not an Atari game"),
        ({"env": "CartPoel-v1"}, "no environment is registered as 'CartPoel-v1': did you mean CartPole-v"),
        ({"env": "zzzz"}, "no environment is registered as 'zzzz': package_to_import="),
        ({"env": "no_such_package:Env-v0"}, "cannot import 'no_such_package'"),
        ({"env": "CartPole-v1", "package_to_import": "no_such_package"}, "cannot import 'no_such_package'"),
        ({"env": "CartPole-v1", "colour": "red"}, "CartPole-v1 cannot be made: .*colour"),
        ({"env": object}, "is not a gymnasium.Env"),
    ],
)
def test_mistakes_get_one_sentence(arguments, message):
    with pytest.raises(ProtoRLError, match=message):
        make_vec_envs(**arguments)


@pytest.mark.parametrize(
    ("id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("PongNoFrameskip-v4", "ale_py", "atari"),
        ("LunarLander-v3", "Box2D", "box2d"),
        ("Hopper-v5", "mujoco", "mujoco"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
        ("popgym-RepeatFirstEasy-v0", "popgym", "popgym"),
    ],
)
def test_a_missing_extra_is_named_with_its_command(id, module, extra, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == module or n.startswith(f"gymnasium.envs.{extra}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for known in [k for k in gymnasium.registry if k == id and extra in ("atari", "minigrid", "popgym")]:
        monkeypatch.delitem(gymnasium.registry, known)
    with pytest.raises(ProtoRLError, match=rf'pip install "protorl\[{extra}\]"'):
        make_vec_envs(id)


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_an_environment_without_spaces_is_told_so(name):
    class Bare(Counter):
        def __init__(self, space):
            super().__init__()
            delattr(self, name)
            if space is not None:
                setattr(self, name, space)

    for space in (None, "Box"):
        with pytest.raises(ProtoRLError, match=rf"Bare.* has the {name} {space!r}: it must be one of gymnasium.spaces"):
            make_vec_envs(Bare, 1, space=space)


def test_mujoco_tells_of_a_models_faults_once(monkeypatch, tmp_path, caplog):
    """Evaluations read the models anew every time."""
    mujoco = pytest.importorskip("mujoco", reason='mujoco is not installed: pip install "protorl[mujoco]"')
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write its own log
    monkeypatch.setattr("protorl.envs.gate.TOLD", set())
    warn = []
    monkeypatch.setattr(mujoco, "set_mju_user_warning", warn.append)

    def make(*_, **__):
        warn[-1]("the model is heavy\n\n")
        return Counter()

    monkeypatch.setattr(gymnasium, "make", make)
    for _ in range(3):
        make_vec_envs("HalfCheetah-v5", 2)
    assert caplog.messages == ["MuJoCo: the model is heavy"]
    assert warn[-1] is None  # the handler of before
    assert not list(tmp_path.iterdir())


def test_a_missing_envpool_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ProtoRLError, match=r'pip install "protorl\[envpool\]"'):
        make_vec_envs("CartPole-v1", backend="envpool")


# What is made --------------------------------------------------------------------------------------------------------


def test_classes_callables_and_arguments():
    env = make_vec_envs(Counter, 2, length=4, truncated=True)
    assert env.spec.id == "Counter"
    env.reset()
    steps = [env.step(np.array([0, 0])) for _ in range(4)]
    assert steps[3].truncated.all()
    assert make_vec_envs(lambda: Counter(2), 1).num_envs == 1


def test_time_limits():
    assert make_vec_envs("CartPole-v1").spec.time_limit == 500
    assert make_vec_envs("CartPole-v1", 16, time_limit=7).spec.time_limit == 7
    for env in (make_vec_envs("Pendulum-v1", time_limit=5), make_vec_envs(Counter, time_limit=5, length=99)):
        env.reset()
        action = np.zeros((1, *env.spec.action.shape), env.spec.action.dtype)
        ends = [bool(env.step(action).truncated[0]) for _ in range(6)]
        assert ends == [False] * 4 + [True, False]
    assert make_vec_envs("protorl/TimeLimitReward-v0").spec.time_limit == 10


def test_make_env_is_seeded():
    one, other = (make_env("CartPole-v1", seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.reset()[0], other.reset()[0])


@pytest.mark.parametrize("probe", PROBES)
def test_probes_have_ids(probe):
    env = make_vec_envs(f"protorl/{probe.__name__}-v0", 2)
    env.reset()
    action = np.zeros((2, *env.spec.action.shape), env.spec.action.dtype)
    assert env.step(action).valid.all()


def test_toy_text_becomes_one_hot():
    env = make_vec_envs("FrozenLake-v1", 2)
    assert env.spec.obs.shape == (16,)
    np.testing.assert_array_equal(env.reset(), np.eye(16, dtype=np.float32)[[0, 0]])


def test_wrappers_come_before_frames_are_stacked():
    env = make_vec_envs(
        "CartPole-v1", wrappers=(lambda e: gymnasium.wrappers.TransformReward(e, lambda r: 2 * r),), frame_stack=3
    )
    assert env.spec.obs.shape == (12,)
    assert (env.spec.obs.frame_stack, env.spec.obs.stack_padding) == (3, "reset")
    obs = env.reset()
    np.testing.assert_array_equal(obs[0, :4], obs[0, 8:])
    assert env.step(np.array([0])).reward[0] == 2


def test_atari_protocols_and_their_fields():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    protocol_of = lambda id, **options: make_env(id, **options).unwrapped.protocol  # noqa: E731
    assert protocol_of("ALE/Pong-v5") == AtariProtocol(sticky=0.25, noop_max=0, life_loss=False)
    assert protocol_of("PongNoFrameskip-v4") == AtariProtocol(sticky=0.0, noop_max=30, life_loss=True)
    assert protocol_of("ALE/Pong-v5", protocol="nature", frame_stack=1, time_limit=9).max_frames == 36
    assert protocol_of("ALE/Pong-v5", full_action_space=True).full_action_space
    assert make_env("ALE/Pong-v5", full_action_space=True).action_space.n == 18
    assert make_env("ALE/Pong-v5").action_space.n == 6
    assert make_env("ALE/Pong-v5", frame_stack=1).observation_space.shape == (1, 84, 84)
    assert make_env("ALE/Pong-v5", protocol="raw").observation_space.shape == (3, 210, 160)
    with pytest.raises(ProtoRLError, match="protocol 'nautre' is unknown"):
        make_env("ALE/Pong-v5", protocol="nautre")
    with pytest.raises(ProtoRLError, match=r"options \['sticki'\] are unknown; an AtariProtocol has sticky"):
        make_env("ALE/Pong-v5", sticki=0.5)


def test_atari_knows_its_frames_per_step():
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    for arguments, frames in (({}, 4), ({"backend": "sync"}, 4), ({"frame_skip": 3}, 3)):
        env = make_vec_envs("ALE/Pong-v5", 2, **arguments)
        assert env.spec.frame_skip == frames
        assert dataclasses.replace(env.spec, num_envs=1).frame_skip == frames
        env.close()
    for other in (make_vec_envs("CartPole-v1"), make_vec_envs("ALE/Pong-v5", protocol="raw")):
        assert other.spec.frame_skip is None


# Third parties and the old interface -----------------------------------------------------------------------------------


class OldDiscrete:
    def __init__(self, n):
        self.n = n


class OldBox:
    def __init__(self, low, high, shape, dtype):
        self.low, self.high, self.shape, self.dtype = np.full(shape, low), np.full(shape, high), shape, dtype


class OldDict:
    def __init__(self, **spaces):
        self.spaces = spaces


class OldEnv:
    """Never heard of Gymnasium: four values from step, the observation alone from reset, `seed`, its own spaces."""

    def __init__(self, limit=4, ends=99):
        self.observation_space = OldBox(-1.0, 1.0, (1,), np.float64)
        self.action_space = OldDiscrete(2)
        self.random, self.limit, self.ends = np.random.default_rng(0), limit, ends

    def seed(self, seed=None):
        self.random = np.random.default_rng(seed)
        return [seed]

    def reset(self):
        self.t = 0
        return self.random.random(1)

    def step(self, action):
        self.t += 1
        cut, over = self.t == self.limit, self.t == self.ends
        return self.random.random(1), float(action), cut or over, {"TimeLimit.truncated": cut and not over}

    def render(self, mode="human"):
        return np.zeros((2, 2, 3), np.uint8) if mode == "rgb_array" else None


@pytest.fixture
def my_pkg(monkeypatch):
    package = types.ModuleType("my_pkg")
    package.OldEnv = OldEnv
    monkeypatch.setitem(sys.modules, "my_pkg", package)
    for id, entry in (("MyCounter-v0", Counter), ("MyOld-v0", OldEnv)):
        monkeypatch.delitem(gymnasium.registry, id, raising=False)
        gymnasium.register(id, entry_point=entry, max_episode_steps=3 if entry is OldEnv else None, kwargs={})
    yield package
    for id in ("MyCounter-v0", "MyOld-v0"):
        del gymnasium.registry[id]


def test_third_party_ids(my_pkg):
    assert make_vec_envs("MyCounter-v0", package_to_import="my_pkg").spec.id == "MyCounter-v0"
    assert make_vec_envs("my_pkg:MyCounter-v0").reset().shape == (1, 1)


@pytest.mark.parametrize(
    ("env", "package"), [(OldEnv, None), ("my_pkg:OldEnv", None), ("OldEnv", "my_pkg"), ("MyOld-v0", "my_pkg")]
)
def test_the_old_interface(my_pkg, env, package):
    vec = make_vec_envs(env, 2, seed=5, package_to_import=package, apply_api_compatibility=True)
    assert vec.spec.obs.dtype == np.float32
    assert vec.spec.action.n == 2
    obs = vec.reset()
    assert obs[0, 0] != obs[1, 0]  # each row seeded
    np.testing.assert_array_equal(obs, make_vec_envs(OldEnv, 2, seed=5, apply_api_compatibility=True).reset())
    limit = 3 if env == "MyOld-v0" else 4
    steps = [vec.step(np.array([0, 1])) for _ in range(limit)]
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()
    assert steps[-1].discount.all()
    assert [e.length for e in vec.episodes()] == [limit] * 2
    assert not vec.exact


def test_the_old_interface_terminates_and_takes_gymnasium_wrappers():
    wrappers = (lambda e: gymnasium.wrappers.TransformReward(e, lambda r: r + 1),)
    options = {"apply_api_compatibility": True, "wrappers": wrappers, "render_mode": "rgb_array"}
    vec = make_vec_envs(OldEnv, 1, ends=2, time_limit=7, **options)
    assert vec.spec.time_limit == 7
    vec.reset()
    steps = [vec.step(np.array([1])) for _ in range(2)]
    assert steps[0].reward[0] == 2
    assert steps[1].terminated[0]
    assert not steps[1].truncated[0]
    assert vec.render().shape == (2, 2, 3)


def test_old_spaces_are_read_by_their_attributes():
    from protorl.envs.compat import convert_space

    class Nvec:
        nvec = [2, 3]

    class MultiBinary:
        n = 4

    assert convert_space(OldDiscrete(3)) == spaces.Discrete(3)
    assert convert_space(Nvec()) == spaces.MultiDiscrete([2, 3])
    assert convert_space(MultiBinary()) == spaces.MultiBinary(4)
    box = convert_space(OldBox(0, 255, (4, 4, 3), np.uint8))
    assert box == spaces.Box(0, 255, (4, 4, 3), np.uint8)
    assert convert_space(OldDict(a=OldDiscrete(2))) == spaces.Dict(a=spaces.Discrete(2))
    gymnasium_space = spaces.Discrete(5)
    assert convert_space(gymnasium_space) is gymnasium_space
    with pytest.raises(ProtoRLError, match="cannot read the space"):
        convert_space(object())


def test_a_new_environment_is_not_harmed_by_the_compatibility():
    vec = make_vec_envs(Counter, 1, seed=1, apply_api_compatibility=True, length=2, truncated=True)
    vec.reset()
    assert [bool(vec.step(np.array([0])).truncated[0]) for _ in range(2)] == [False, True]
    assert vec.exact  # it offers its own state
