"""Training killed and resumed ends bit for bit where uninterrupted training ends."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.checkpoint import Checkpoints
from protorl.recipes import RECIPES
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from protorl.runs import Interrupted, Run
from tests.contract.cases import small

SMALL: dict[str, Any] = {
    "steps": 900, "widths": (16,), "log_every": 250, "eval_every": 350, "eval_episodes": 2, "checkpoint_every": 150,
}  # fmt: skip


def make(name: str, **fields: Any) -> Any:
    """A small recipe that saves itself often, and in the middle of things."""
    return small(name, **{**SMALL, **fields})


def final_state(folder: Path) -> dict[str, Any]:
    return Checkpoints(folder / "checkpoints").load().state


def assert_equal(one: Any, two: Any, path: str = "state") -> None:
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_equal(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), path
        for i, (a, b) in enumerate(zip(one, two)):
            assert_equal(a, b, f"{path}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two, err_msg=path)
    else:
        assert one == two or (one != one and two != two), path


class Killed(BaseException):
    pass


def train_with_kills(recipe: Any, folder: Path, deaths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run dies after so many agent steps, again and again, and is resumed each time."""
    plain, died = Run.tick, 0
    for attempt, life in enumerate([*deaths, 10**9]):
        begun: list[int] = []

        def tick(self: Run, life: int = life, begun: list[int] = begun) -> None:
            begun.append(self.steps)
            if self.steps - begun[0] >= life:
                raise Killed
            plain(self)

        monkeypatch.setattr(Run, "tick", tick)
        try:
            start(recipe, folder, progress=False) if attempt == 0 else resume(folder, progress=False)
        except Killed:
            died += 1
    assert died == len(deaths)
    monkeypatch.setattr(Run, "tick", plain)


SLOW = pytest.mark.slow

CASES = {
    **{name: (name, {}) for name in RECIPES},
    "ppo-gaussian-scaled-vector": (
        "ppo",
        {"env": "Pendulum-v1", "num_envs": 3, "rollout_steps": 32, "normalise_obs": True, "normalise_reward": True,
         "share_base": True, "anneal": True, "anneal_clip": True, "clip_value": 0.2, "target_kl": 1e-3, "lr": 3e-3},
    ),
    "ppo-beta-lunar": (
        "ppo",
        {"env": "LunarLanderContinuous-v3", "distribution": "beta", "num_envs": 2, "normalise_obs": True, "eval_every": 0,
         "steps": 450},
    ),
    "ppo-native": ("ppo", {"num_envs": 4, "backend": "native", "normalise_obs": True, "normalise_reward": True}),
    "rnd-vector": ("rnd", {"num_envs": 3, "warmup_rollouts": 2, "anneal": True}),
    "dqn-bonus-per-nstep-vector": (
        "dqn", {"bonus": "rnd", "num_envs": 2, "per_alpha": 0.6, "n_step": 3, "first_priority": "td"}
    ),
    "dqn-lanes-that-die": ("dqn", {"env": "protorl/EarlyDeath-v0", "num_envs": 2, "n_step": 3}),
    "ppo-lanes-that-die": ("ppo", {"env": "protorl/EarlyDeath-v0", "num_envs": 2, "rollout_steps": 16}),
    "dqn-masked": ("dqn", {"env": "protorl/MatrixGame-v0", "env_kwargs": {"payoff": [[1, 2, 3], [0, 1, 0]]}, "num_envs": 2}),
    "ppo-lstm": ("ppo", {"num_envs": 2, "core": "lstm", "core_size": 8, "normalise_reward": True}),
    "ddpg-vector": ("ddpg", {"num_envs": 3, "widths": (8, 8)}),
    "td3-per-nstep-vector": ("td3", {"num_envs": 2, "per_alpha": 0.6, "n_step": 3, "delay": 2}),
    "d3qn-per-nstep-vector": ("d3qn", {"per_alpha": 0.6, "n_step": 3, "num_envs": 3}),
    "iqn-vector": ("iqn", {"num_envs": 3}),
    "qr-dqn-annealed": ("qr-dqn", {"anneal": True}),
    "dqn-radam": ("dqn", {"optimizer": "radam", "anneal": True}),
    "sac-adamw": ("sac", {"optimizer": "torch.optim.adamw", "optimizer_kwargs": {"weight_decay": 0.1}}),
    "ppo-sgd": ("ppo", {"optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}, "anneal": True}),
    "dqn-noisy": ("dqn", {"noisy": True, "epsilon_start": 0.0, "epsilon_end": 0.0}),
    "dqn-async": ("dqn", {"num_envs": 2, "backend": "async", "steps": 300, "eval_every": 0}),
    "dqn-native": ("dqn", {"num_envs": 4, "backend": "native"}),
    "dqn-overlap": ("dqn", {"overlap": True, "num_envs": 2}),
    "ppo-overlap-lunar": ("ppo", {"overlap": True, "env": "LunarLander-v3", "num_envs": 2, "eval_every": 0}),
    "dqn-lunar": ("dqn", {"env": "LunarLander-v3", "eval_every": 0}),
    "dqn-mountaincar": ("dqn", {"env": "MountainCar-v0", "eval_every": 0}),
    "d3qn-per-frames": (
        "d3qn",
        {"env": "ALE/Pong-v5", "backend": "sync", "per_alpha": 0.6, "n_step": 3, "steps": 220, "capacity": 120,
         "checkpoint_every": 60, "eval_every": 0, "update_every": 16, "base": "mlp", "widths": (4,), "num_envs": 2},
    ),
    "d3qn-per-frames-native": (
        "d3qn",
        {"env": "ALE/Pong-v5", "per_alpha": 0.6, "n_step": 3, "steps": 220, "capacity": 120, "checkpoint_every": 60,
         "eval_every": 0, "update_every": 16, "base": "mlp", "widths": (4,), "num_envs": 2},
    ),
    "dqn-frames-async": (
        "dqn",
        {"env": "ALE/Pong-v5", "backend": "async", "steps": 120, "capacity": 80, "checkpoint_every": 60, "eval_every": 0,
         "update_every": 8, "base": "mlp", "widths": (4,), "num_envs": 2},
    ),
}  # fmt: skip


QUICK = {
    *RECIPES, "ppo-gaussian-scaled-vector", "d3qn-per-nstep-vector", "d3qn-per-frames", "dqn-native", "dqn-overlap",
    "dqn-radam", "dqn-bonus-per-nstep-vector", "ppo-lanes-that-die", "dqn-masked",
}  # fmt: skip
"""One of each kind; the slow layer has all."""


@pytest.mark.parametrize("case", [pytest.param(case, marks=SLOW if case not in QUICK else ()) for case in CASES])
def test_killed_and_resumed_equals_uninterrupted(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, fields = CASES[case]
    recipe = make(name, **fields)
    start(recipe, tmp_path / "whole", progress=False)
    steps = recipe.steps
    train_with_kills(recipe, tmp_path / "killed", [steps // 7, steps // 3, 2 * steps // 5 + 3], monkeypatch)
    whole, killed = final_state(tmp_path / "whole"), final_state(tmp_path / "killed")
    assert whole["run"]["updates"] > 5
    assert_equal(whole, killed)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("d3qn-per-nstep-vector", marks=SLOW),
        pytest.param("ppo-gaussian-scaled-vector", marks=SLOW),
        pytest.param("d3qn-per-frames", marks=SLOW),
    ],
)
def test_sigkill_at_any_moment(case: str, tmp_path: Path) -> None:
    name, fields = CASES[case]
    fields = {**fields, "steps": 900}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RECIPE_JSON": json.dumps([name, dataclasses.asdict(make(name, **fields))]),
    }

    def live(folder: str, moment: str) -> int:
        command = [sys.executable, "-m", "tests.contract.mortal", str(tmp_path / folder), moment]
        return subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], timeout=120).returncode

    start(make(name, **fields), tmp_path / "whole", progress=False)
    rng = np.random.default_rng(len(case))
    moments = [f"tick:{rng.integers(100, 500)}", f"write:{rng.integers(3, 12)}", f"write:{rng.integers(12, 30)}", "never:0"]
    codes = [live("killed", moment) for moment in moments]
    assert codes[:3] == [-9, -9, -9]
    assert codes[3] == 0
    assert_equal(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make("dqn")
    start(recipe, tmp_path / "whole", progress=False)
    plain = Run.tick

    def tick(self: Run) -> None:
        if self.steps >= 333 and self.signals.received is None:
            self.signals.note(2, None)
        plain(self)

    monkeypatch.setattr(Run, "tick", tick)
    with pytest.raises(Interrupted, match=r"stopped at step 336 and saved: continue with `protorl resume .*`") as caught:
        start(recipe, tmp_path / "stopped", progress=False)
    assert caught.value.code == 130
    monkeypatch.setattr(Run, "tick", plain)
    resume(tmp_path / "stopped", progress=False)
    assert_equal(final_state(tmp_path / "whole")["agent"], final_state(tmp_path / "stopped")["agent"])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make("dqn")
    start(recipe, tmp_path / "whole", progress=False)
    expected = final_state(tmp_path / "whole")
    newest = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))[-1]
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    resume(tmp_path / "whole", progress=False)
    assert_equal(expected["agent"], final_state(tmp_path / "whole")["agent"])
    assert "resuming" in capsys.readouterr().out


def test_evaluation_and_logging_touch_nothing_of_training(tmp_path: Path) -> None:
    with_evaluation = make("d3qn", per_alpha=0.6)
    without = make("d3qn", per_alpha=0.6, eval_every=0, log_every=100)
    start(with_evaluation, tmp_path / "a", progress=False)
    start(without, tmp_path / "b", progress=False)
    one, two = final_state(tmp_path / "a"), final_state(tmp_path / "b")
    for part in ("agent", "memory", "actors", "torch"):
        assert_equal(one[part], two[part], part)


def test_a_longer_total_carries_a_finished_run_on(tmp_path: Path) -> None:
    recipe = make("dqn")
    start(recipe, tmp_path / "run", progress=False)
    assert resume(tmp_path / "run", steps=1_200, progress=False).steps == 1_200


def test_a_crashing_environment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gymnasium.envs.classic_control import CartPoleEnv

    plain, turns = CartPoleEnv.step, [0]

    def step(self: CartPoleEnv, action: Any) -> Any:
        turns[0] += 1
        if turns[0] == 321:
            raise ValueError("the pole broke")
        return plain(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", step)
    recipe = make("dqn", eval_every=0, backend="sync")
    with pytest.raises(prl.ProtoRLError, match=r"the pole broke.*saved at step 320: once it is mended, `protorl resume"):
        start(recipe, tmp_path / "run", progress=False)
    assert resume(tmp_path / "run", progress=False).steps == 900


def test_a_reward_that_is_not_a_number_names_itself_and_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.classic_control import CartPoleEnv

    plain, turns = CartPoleEnv.step, [0]

    def step(self: CartPoleEnv, action: Any) -> Any:
        turns[0] += 1
        obs, reward, *rest = plain(self, action)
        return obs, float("nan") if turns[0] == 321 else reward, *rest

    monkeypatch.setattr(CartPoleEnv, "step", step)
    recipe = make("dqn", eval_every=0, capacity=100, backend="sync")
    with pytest.raises(prl.ProtoRLError, match=r"the first bad tensor is batch\.reward; the last good checkpoint is step 300"):
        start(recipe, tmp_path / "run", progress=False)
    assert final_state(tmp_path / "run")["run"]["steps"] == 300
