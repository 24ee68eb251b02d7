"""Environments and wrappers by name: a class in a file or a module, with arguments, up to a later evaluation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import protorl as prl
from protorl.cli import main
from protorl.modules import absolute, call_of, module_at
from protorl.recipes.saved import read_recipe
from tests.contract import cases
from tests.contract.wrong_commands import MY_ENV

OWN = f"""{MY_ENV}

class Longer(MyEnv):
    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.t += 1
        return np.full(3, self.t / self.length, np.float32), 1.0, self.t >= self.length, False, {{}}


class Halved(gymnasium.ObservationWrapper):
    def __init__(self, env, times=1, keep=2):
        super().__init__(env)
        self.times, self.keep = times, keep
        self.observation_space = gymnasium.spaces.Box(-1, 1, (keep,), np.float32)

    def observation(self, observation):
        return observation[: self.keep] / 2**self.times


class Old:
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self):
        return np.zeros(3, np.float32)

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, True, {{}}


gymnasium.register("Registered-v0", Longer, max_episode_steps=2)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_env.py").write_text(OWN)
    (tmp_path / "my_own_module.py").write_text(OWN.replace("Registered-v0", "Another-v0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_own_module", None)
    for id in ("Registered-v0", "Another-v0"):
        gymnasium.registry.pop(id, None)


@pytest.mark.parametrize(
    ("place", "backend"),
    [
        ("my_env.py", "sync"),
        ("./my_env.py", "sync"),
        ("{home}/my_env.py", "sync"),
        ("my_own_module", "sync"),
        pytest.param("my_env.py", "async", marks=pytest.mark.slow),
    ],
)
def test_a_class_that_is_registered_nowhere(home: Path, place: str, backend: str) -> None:
    wrappers = [f"{place}:Halved(2, keep=1)".format(home=home)]
    env = prl.make_vec_envs(f"{place}:Longer".format(home=home), 2, backend=backend, wrappers=wrappers, length=4)
    try:
        assert env.spec.obs.shape == (1,)  # type: ignore[union-attr]
        steps = [env.step(np.zeros(2, np.int64)) for _ in range(4)]
        assert [step.next_obs[0, 0] for step in steps] == [t / 4 / 4 for t in (1, 2, 3, 4)]
        assert [step.terminated.all() for step in steps] == [False, False, False, True]
    finally:
        env.close()


def test_an_id_that_a_file_registers_and_a_class_of_the_old_interface(home: Path) -> None:
    made = prl.make_env("my_env.py:Registered-v0")
    assert made.spec is not None
    assert made.spec.max_episode_steps == 2
    old = prl.make_env("my_env.py:Old", apply_api_compatibility=True)
    old.reset(seed=0)
    assert old.step(0)[1:4] == (1.0, True, False)
    limited = prl.make_vec_envs("my_env.py:Longer", length=9, time_limit=2)
    assert limited.spec.time_limit == 2
    assert [limited.step(np.zeros(1, np.int64)).truncated[0] for _ in range(4)] == [False, True, False, True]


def test_wrappers_go_on_in_their_order_and_strings_stand_beside_functions() -> None:
    def doubled(env: Any) -> Any:
        return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)

    made = prl.make_env("CartPole-v1", wrappers=["gymnasium.wrappers:TimeAwareObservation(flatten=True)", doubled])
    made.reset(seed=0)
    obs, reward, *_ = made.step(0)
    assert (obs.shape, reward) == ((5,), 2.0)


def test_a_run_keeps_its_wrappers_and_finds_its_files_from_anywhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = cases.settings("dqn", steps=120, eval_every=60)
    del fields["env"]
    small = [word for key, value in fields.items() for word in ("--set", f"{key}={value}")]
    words = ["--env", "my_env.py:Longer", "--wrappers", "my_env.py:Halved(1)", "--wrappers", "./my_env.py:Halved(times=2)"]
    assert main(["train", "dqn", *small, *words]) == 0
    (run,) = (home / "runs").iterdir()
    assert run.name == "dqn_Longer_seed0"
    config = json.loads((run / "config.json").read_text())["recipe_config"]
    assert config["env"] == f"{home}/my_env.py:Longer"
    assert config["wrappers"] == [f"{home}/my_env.py:Halved(1)", f"{home}/my_env.py:Halved(times=2)"]
    monkeypatch.chdir("/")
    assert main(["resume", str(run), "--steps", "150"]) == 0
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    assert json.loads((run / "eval.json").read_text())["lengths"] == [3, 3]
    env = read_recipe(run).make_eval_env(1)
    assert env.spec.obs.shape == (2,)  # type: ignore[union-attr]


def test_the_command_for_minigrid_works_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("minigrid", reason='minigrid is not installed: pip install "protorl[minigrid]"')
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    (line,) = {line for line in page.splitlines() if line.startswith("protorl train") and "MiniGrid" in line}
    words = line.partition("#")[0].split()[1:]
    small = cases.settings("dqn", steps=80, eval_every=0, device="cpu")
    del small["env"]
    assert main([*words, *(word for key, value in small.items() for word in ("--set", f"{key}={value}"))]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert main(["eval", str(run), "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.b:C", ("a.b", "C", (), {})),
        ("a.b:C()", ("a.b", "C", (), {})),
        (" f.py:C(1, x=[2, 'a:b'], y=None) ", ("f.py", "C", (1,), {"x": [2, "a:b"], "y": None})),
        ("/a b/f.py:C(-1.5)", ("/a b/f.py", "C", (-1.5,), {})),
    ],
)
def test_a_name_with_arguments_is_read_and_nothing_is_run(text: str, parts: Any) -> None:
    assert tuple(call_of(text, "wrapper")) == parts


@pytest.mark.parametrize(
    "text",
    [
        "a:C(open('x'))",
        "a:C(x)",
        "a:C(1)(2)",
        "a:C(1",
        "a:C(**{})",
        "a:C(*[1])",
        "a:C(1);b",
        "C",
        ":C",
        "a:",
        "a:C D",
        "a:C(x=1,x=2)",
    ],
)
def test_what_is_no_name_with_plain_arguments_is_refused(text: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=r"are no plain values: write them as|names no wrapper: write MODULE:CLASS"):
        call_of(text, "wrapper")


def test_names_of_files_become_whole_paths_and_others_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("./a.py:B(x='c.py:d')") == f"{tmp_path}/a.py:B(x='c.py:d')"
    assert absolute(absolute("a.py:B")) == f"{tmp_path}/a.py:B"
    for same in ("CartPole-v1", "ALE/Pong-v5", "package.py_module:B", "a.b:C(1)", ""):
        assert absolute(same) == same


def test_a_file_is_run_once_and_one_that_fails_again(tmp_path: Path) -> None:
    file = tmp_path / "twice.py"
    file.write_text("raise ValueError('not yet')")
    with pytest.raises(prl.ProtoRLError, match=r"twice.py:1: ValueError: not yet"):
        module_at(str(file))
    file.write_text("x = object()")
    assert module_at(str(file)).x is module_at(str(file)).x
