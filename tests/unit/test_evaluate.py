"""Evaluation is a function of weights and seed, in any environment; it ends, and it can be stopped."""

from __future__ import annotations

import itertools
import signal
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import protorl as prl
from protorl.accelerate import accelerate
from protorl.checkpoint import Checkpoints
from protorl.data import Act, ProtoRLError
from protorl.loops.evaluate import Stopped, evaluate
from protorl.recipes.saved import load, resume
from protorl.recipes.start import Examiner, start
from protorl.rng import integer
from protorl.runs import Interrupted, Run
from protorl.runs.metrics import read_metrics
from tests.contract.cases import small
from tests.contract.test_resume import assert_equal, final_state


class Weather(gymnasium.Env):
    """A walk with a wind that grows with every step and that no reset calms: an environment that remembers."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.wind, self.t = 0.0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.place = 0, self.np_random.normal()
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        self.wind += 0.01
        self.place += (1 if action == 1 else -1) + self.wind * self.np_random.normal()
        return self.seen(), float(self.place), False, self.t == 20, {}

    def seen(self):
        return np.array([self.place, self.wind], np.float32)


class Endless(Weather):
    """It ends when it is told to, in none of its own steps. `ends`: the length of each row's episodes; 0: for ever."""

    def __init__(self, ends=(0,), made=None):
        super().__init__()
        self.length = ends[0 if made is None else next(made)]

    def step(self, action):
        self.t += 1
        return self.seen(), 1.0, self.t == self.length, False, {}


gymnasium.register("Weather-v0", Weather)
gymnasium.register("Endless-v0", Endless)


class Linear:
    """An agent of few lines: a random linear map of the observations."""

    def __init__(self, spec, seed):
        self.action, self.seed = spec.action, seed
        leaves = spec.obs.values() if isinstance(spec.obs, dict) else [spec.obs]
        outputs = self.action.n if self.action.kind == "discrete" else self.action.numbers
        self.weights = np.random.default_rng(seed).normal(size=(sum(leaf.size for leaf in leaves), outputs))

    def initial_carry(self, n):
        return ()

    def act(self, seen, carry=(), *, explore):
        leaves = seen.obs.values() if isinstance(seen.obs, dict) else [seen.obs]
        out = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1) @ self.weights
        action = out.argmax(-1) if self.action.kind == "discrete" else np.tanh(out).reshape(len(out), *self.action.shape)
        return Act(action.astype(self.action.dtype), carry, {})


FAMILIES: dict[str, dict[str, Any]] = {
    "user": {"env": "Weather-v0"},
    "probe": {"env": "protorl/NoiseCorridor-v0"},
    "classic": {"env": "Acrobot-v1"},
    "classic-native": {"env": "CartPole-v1"},
    "classic-box": {"env": "Pendulum-v1"},
    "toy-text": {"env": "Taxi-v4"},
    "box2d-walker": {"env": "BipedalWalker-v3"},
    "box2d-lander": {"env": "LunarLander-v3"},
    "mujoco": {"env": "Hopper-v5"},
    "minatar-invaders": {"env": "MinAtar/SpaceInvaders-v0"},
    "minatar-seaquest": {"env": "MinAtar/Seaquest-v0"},
    "atari": {"env": "PongNoFrameskip-v4", "backend": "sync"},
    "atari-sticky": {"env": "ALE/Breakout-v5", "backend": "sync"},
    "atari-native": {"env": "ALE/Breakout-v5"},
    "atari-random": {"env": "ALE/Breakout-v5", "eval_epsilon": 0.1},
    "workers": {"env": "tests.unit.test_evaluate:Weather-v0", "backend": "async"},
}
NEEDS = {"box2d": "Box2D", "mujoco": "mujoco", "minatar": "minatar", "atari": "ale_py"}
SLOW = ("atari-random", "atari-sticky", "workers")


@pytest.mark.parametrize("family", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FAMILIES])
def test_an_evaluation_is_a_function_of_weights_and_seed(family: str) -> None:
    """After others, of other weights and another seed, and before any: what the environments remember is nobody's business."""
    pytest.importorskip(NEEDS.get(family.partition("-")[0], "numpy"))
    size = {"eval_max_steps": 30, "eval_episodes": 2} if "atari" in family or family == "workers" else {
        "eval_max_steps": 300, "eval_episodes": 6,
    }  # fmt: skip
    with closing(prl.recipes.DQN(**FAMILIES[family]).make_env(1)) as env:
        one, other = (Linear(env.spec, seed) for seed in (1, 2))

    with closing(Examiner(prl.recipes.DQN(**FAMILIES[family], **size), one)) as examiner:
        first = examiner(lambda: False)
        examiner.agent = other
        examiner(lambda: False)
        examiner.agent = one
        assert examiner(lambda: False) == first
        assert (examiner.kept is None) == (family != "workers")


@pytest.mark.parametrize("breaks", [False, True])
def test_the_environments_of_an_evaluation_are_closed_after_it(breaks: bool, monkeypatch) -> None:
    made, closed = [], []

    class Counted(Weather):
        def __init__(self):
            super().__init__()
            made.append(self)

        def step(self, action):
            if breaks and self.t == 5:
                raise OSError("the storm")
            return super().step(action)

        def close(self):
            closed.append(self)

    recipe = prl.recipes.DQN(env="Counted-v0", eval_episodes=3)
    monkeypatch.setitem(gymnasium.registry, "Counted-v0", gymnasium.envs.registration.EnvSpec("Counted-v0", Counted))
    with closing(recipe.make_env(1)) as env:
        examiner = Examiner(recipe, Linear(env.spec, 1))
    for n in (4, 7):
        if breaks:
            with pytest.raises(ProtoRLError, match="the storm"):
                examiner(lambda: False)
        else:
            examiner(lambda: False)
        assert len(made) == len(closed) == n
    assert set(made) == set(closed)


def test_what_is_checked_is_worth_checking() -> None:
    """The same environments used twice give other episodes."""
    with closing(prl.recipes.DQN(env="Weather-v0").make_eval_env(2)) as env:
        agent = Linear(env.spec, 1)
        assert evaluate(agent, env, 4, seed=1) != evaluate(agent, env, 4, seed=1)


# In a run

RUN: dict[str, Any] = {"steps": 300, "log_every": 100, "eval_every": 50, "checkpoint_every": 100, "eval_episodes": 4}


def evaluations(folder: Any) -> list[tuple[float, ...]]:
    """Of metrics.csv: step, mean and deviation of each."""
    table = read_metrics(folder / "metrics.csv")
    rows = zip(table["step"], table["eval_return"], table["eval_std"])
    return [row for row in rows if np.isfinite(row[1])]


@pytest.mark.parametrize("env", ["Weather-v0", "BipedalWalker-v3"])
def test_a_resumed_run_evaluates_as_one_that_never_stopped(env: str, tmp_path, monkeypatch) -> None:
    """Killed after an evaluation, and asked to stop in the middle of one, which is then played when the run goes on."""
    if env == "BipedalWalker-v3":
        pytest.importorskip("Box2D")
    name = "dqn" if env == "Weather-v0" else "td3"
    recipe = small(name, env=env, **RUN, eval_max_steps=60)
    start(recipe, tmp_path / "whole", progress=False)
    plain, asked = Run.tick, itertools.count()

    def tick(run: Run) -> None:
        """The second evaluation is interrupted in its fifth step; at step 150, the run dies."""
        stop = run.evaluations.stop
        if run.steps == 100 and next(asked) == 0:
            steps = itertools.count()
            run.evaluations.stop = lambda: (next(steps) == 5 and signal.raise_signal(signal.SIGINT) is None) or stop()
        plain(run)
        run.evaluations.stop = stop

    monkeypatch.setattr(Run, "tick", tick)
    with pytest.raises(Interrupted, match="stopped at step 100 and saved"):
        start(recipe, tmp_path / "parts", progress=False)
    assert [step for step, *_ in evaluations(tmp_path / "parts")] == [50]
    monkeypatch.setattr(Run, "tick", lambda run: plain(run) if run.steps < 150 else pytest.exit("dies"))
    with pytest.raises(pytest.exit.Exception):
        resume(tmp_path / "parts", progress=False)
    monkeypatch.setattr(Run, "tick", plain)
    resume(tmp_path / "parts", progress=False)
    assert [step for step, *_ in evaluations(tmp_path / "whole")] == [50, 100, 150, 200, 250, 300]
    assert evaluations(tmp_path / "parts") == evaluations(tmp_path / "whole")
    assert_equal(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))
    weights = [Checkpoints(tmp_path / part / "checkpoints").load_weights("best") for part in ("whole", "parts")]
    assert_equal(*weights)
    # and from the command line's side: the last weights, the same seed, environments of its own
    trained = load(tmp_path / "whole", "last", num_envs=4)
    with closing(trained.env):
        again = evaluate(trained.agent, trained.env, 4, seed=integer(recipe.seed, "eval"), limit=60)
    assert (300, again.mean, again.std) == evaluations(tmp_path / "whole")[-1]


@pytest.mark.parametrize(("name", "env"), [("dqn", "Weather-v0"), ("dqn", "CartPole-v1"), ("td3", "Pendulum-v1")])
def test_the_accelerated_agent_plays_the_episodes_of_the_eager_one(name: str, env: str, interpreted: None) -> None:
    recipe = small(name, env=env, eval_episodes=4)
    results = []
    for mode in ("none", "auto", "aot"):
        with closing(recipe.make_eval_env(1)) as one:
            agent = recipe.build_agent(one.spec)
        if mode != "none":
            accelerate(agent, mode)
        results.append(Examiner(recipe, agent)(lambda: False))
    for result in results[1:]:
        assert result.lengths == results[0].lengths
        np.testing.assert_allclose(result.returns, results[0].returns, rtol=1e-4)


# It ends


def endless(*ends: int, mode: AutoresetMode | None = None) -> Any:
    """An environment for each length of its episodes."""
    made = itertools.count()
    if mode is None:
        return prl.make_vec_envs(Endless, len(ends), ends=ends, made=made, name="eval")
    return prl.from_vector(SyncVectorEnv([partial(Endless, (length,)) for length in ends], autoreset_mode=mode))


MODES = pytest.mark.parametrize("mode", [None, *AutoresetMode])


@MODES
def test_an_episode_that_does_not_end_is_cut_and_told_of(mode: AutoresetMode | None) -> None:
    with closing(endless(0, 0, mode=mode)) as env:
        result = evaluate(Linear(env.spec, 1), env, 5, limit=7)
    assert (result.returns, result.lengths, result.cut) == ((7.0,) * 5, (7,) * 5, 5)
    assert "5 of 5 evaluation episodes had not ended after 7 steps and were cut" in str(result.remark)


@MODES
def test_each_environment_plays_its_share_also_where_some_never_end(mode: AutoresetMode | None) -> None:
    with closing(endless(5, 0, 9, mode=mode)) as env:
        result = evaluate(Linear(env.spec, 1), env, 6, limit=9)
    assert sorted(result.lengths) == [5, 5, 9, 9, 9, 9]
    assert result.cut == 2  # an episode that ends in the last step that it may take is whole
    with closing(endless(5, 0, 9, mode=mode)) as env:
        assert evaluate(Linear(env.spec, 1), env, 6, limit=8).cut == 4


def test_a_longer_limit_changes_nothing() -> None:
    results = []
    for limit in (None, 20, 21, 100_000):
        with closing(prl.make_vec_envs(Weather, 3, name="eval")) as env:
            results.append(evaluate(Linear(env.spec, 1), env, 7, seed=3, limit=limit))
    assert results[0] == results[1] == results[2] == results[3]
    assert results[0].cut == 0
    assert results[0].remark is None


def test_an_evaluation_looks_at_the_stop_flag_in_every_step() -> None:
    steps = itertools.count()
    with closing(endless(0, 0)) as env, pytest.raises(Stopped):
        evaluate(Linear(env.spec, 1), env, 5, stop=lambda: next(steps) == 30)
    assert next(steps) == 31


def test_a_run_in_an_environment_that_never_ends_evaluates_says_so_and_ends(tmp_path, capsys) -> None:
    recipe = small("dqn", env="Endless-v0", **{**RUN, "steps": 100}, eval_max_steps=11)
    result = start(recipe, tmp_path / "run", progress=False)
    assert (result.last, result.last_std) == (11.0, 0.0)
    assert read_metrics(tmp_path / "run" / "metrics.csv")["eval_cut"].tolist() == [4, 4]
    said = capsys.readouterr().out
    assert said.count("4 of 4 evaluation episodes had not ended after 11 steps and were cut") == 1


def test_too_short_a_limit_is_refused() -> None:
    with pytest.raises(ProtoRLError, match="eval_max_steps 0 is out of range"):
        prl.recipes.DQN(eval_max_steps=0)
