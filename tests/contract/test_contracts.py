"""What every recipe promises: a `learn` that never waits, columns that are used, evaluation without traces, a clean end."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.checkpoint import Checkpoints
from protorl.loops import Run
from protorl.recipes import RECIPES, running
from protorl.types import Batch
from tests.contract.test_resume import assert_equal, final_state

SMALL: dict[str, Any] = {
    "steps": 300, "warmup_steps": 32, "batch_size": 16, "widths": (8,), "update_every": 4, "updates": 1, "target_every": 10,
    "capacity": 200, "epsilon_steps": 200, "log_every": 100, "eval_every": 150, "eval_episodes": 2, "checkpoint_every": 100,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RECIPES},
    "dqn-per-nstep-dueling": ("dqn", {"per_alpha": 0.6, "n_step": 3, "head": "dueling"}),
    "dqn-noisy-rmsprop": ("dqn", {"noisy": True, "optimizer": "rmsprop", "optimizer_eps": 0.01, "max_grad_norm": None}),
}


def recipe(case: str, **fields: Any) -> Any:
    name, own = CASES[case]
    return RECIPES[name](**{**SMALL, **own, **fields})


def with_experience(case: str, **fields: Any) -> Any:
    parts = recipe(case, **fields).build()
    prl.train(*parts, steps=100)
    return parts


# learn


def without_numbers(case: str) -> tuple[Any, Batch]:
    """An agent and a batch on the meta device, where tensors have shapes and no values: reading one raises."""
    _, memory, actors = with_experience(case)
    batch = memory.sample()
    made = recipe(case)
    object.__setattr__(made, "resolve_device", lambda spec: torch.device("meta"))
    return made.agent(actors.env.spec), Batch({name: column.to("meta") for name, column in batch.columns.items()})


@pytest.mark.parametrize("case", CASES)
def test_learn_never_waits_for_the_device(case: str) -> None:
    agent, batch = without_numbers(case)
    update = agent.learn(batch)
    assert update.priority.shape == (16,)
    assert all(tensor.device.type == "meta" for tensor in (update.priority, *update.metrics.values()))


@pytest.mark.parametrize(
    "look", [lambda td: td.sum().item(), lambda td: td.cpu(), lambda td: 1 if (td > 0).any() else 0, lambda td: td[td > 0]]
)
def test_a_look_at_a_number_would_be_caught(look: Any) -> None:
    agent, batch = without_numbers("dqn")
    plain = agent.td_error
    agent.td_error = lambda batch: (look(plain(batch)), plain(batch))[1]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        agent.learn(batch)


class Watched(Batch):
    """A batch that notes which columns are read."""

    __slots__ = ("read",)

    def __init__(self, columns: Any) -> None:
        super().__init__(columns)
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getattr__(name)


@pytest.mark.parametrize("case", CASES)
def test_columns_declared_are_columns_used(case: str) -> None:
    agent, memory, actors = with_experience(case)
    batch = memory.sample()
    extras = set(agent.columns(actors.env.spec).extras)
    assert set(batch) == {"obs", "action", "reward", "discount", "next_obs", "weight", "index"} | extras
    watched = Watched(batch.columns)
    update = agent.learn(watched)
    assert watched.read == set(batch) - {"index"}
    assert all(len(column) == 16 for column in batch.columns.values())
    assert (batch.reward.dtype, batch.discount.dtype, batch.weight.dtype) == (torch.float32,) * 3
    assert update.priority.shape == (16,)
    assert (update.priority >= 0).all()


# evaluate


@pytest.mark.parametrize("case", CASES)
def test_evaluation_leaves_everything_bit_for_bit(case: str) -> None:
    agent, memory, actors = with_experience(case)
    env = recipe(case).make_env(2, name="eval")

    def everything() -> dict[str, Any]:
        numbers = np.random.get_state()  # noqa: NPY002 - the point is that nobody touches it
        return {
            "agent": agent.state_dict(), "memory": memory.state_dict(), "actors": actors.state_dict(),
            "rows": memory.rows([0]), "torch": torch.get_rng_state(), "numpy": list(numbers), "python": list(random.getstate()),
            "training": agent.network.training, "obs": actors.env.obs.copy(),
        }  # fmt: skip

    before = everything()
    first = prl.evaluate(agent, env, 4, seed=5)
    assert_equal(before, everything())
    assert prl.evaluate(agent, env, 4, seed=5) == first
    assert len(first.returns) == len(first.lengths) == 4


# A whole run


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_folder_holds_what_it_should(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = running.start(recipe(name, seed=3), folder, progress=False)
    assert result.steps == 300
    assert result.best is not None
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("events.")) == [
        "checkpoints", "config.json", "metrics.csv",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert {"recipe", "paper", "env", "seed", "recipe_config", "versions", "git", "hardware", "command", "created"} <= set(
        config
    )
    assert (config["recipe"], config["env"], config["seed"]) == (name, "CartPole-v1", 3)
    assert {"python", "torch", "numpy", "gymnasium", "protorl"} <= set(config["versions"])
    assert config["recipe_config"]["batch_size"] == 16
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "150", "200", "300"]
    assert {"return", "length", "loss", "grad_norm", "updates", "steps_per_second", "eval_return", "eval_std"} <= set(rows[0])
    assert float(rows[-1]["updates"]) == 67
    assert float(rows[-1]["eval_return"]) == result.last
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.load().step == 300
    assert "agent" in checkpoints.load_weights("best")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folder.glob("events.*")
    scalars = EventAccumulator(str(events)).Reload()
    assert [event.step for event in scalars.Scalars("eval_return")] == [150, 300]
    assert scalars.Scalars("eval_return")[-1].value == pytest.approx(result.last)


class Poisoned(prl.envs.probes.ConstantReward):
    """Its reward is not a number after a while."""

    steps_taken = 0

    def step(self, action: Any) -> Any:
        Poisoned.steps_taken += 1
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if Poisoned.steps_taken > 150 else reward, *rest


@pytest.mark.parametrize("looks_at_once", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_a_reward_that_is_not_a_number_ends_training_in_one_sentence(case: str, looks_at_once: bool, tmp_path: Path) -> None:
    """On a GPU the loss is looked at only when metrics are written; what was good must stay there too."""
    Poisoned.steps_taken = 0
    agent, memory, actors = recipe(case).assemble(prl.make_vec_envs(Poisoned, 1))
    run = Run(tmp_path, agent, memory, actors, steps=300, log_every=50, checkpoint_every=100)
    run.on_cpu = looks_at_once
    with pytest.raises(prl.ProtoRLError) as caught, run.watch(progress=False):
        prl.train(agent, memory, actors, steps=300, monitor=run)
    sentence = str(caught.value)
    assert Checkpoints(tmp_path / "checkpoints").load().step == 100  # and nothing that is not finite was saved
    assert "the last good checkpoint is step 100" in sentence
    assert str(tmp_path) in sentence
    assert "\n" not in sentence
    if looks_at_once:
        assert "batch.reward" in sentence
        assert 150 < run.steps < 180


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running.start(recipe("dqn"), tmp_path / "whole", progress=False)
    save, sync = Run.save, os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save_without_space(self: Run) -> None:
        with monkeypatch.context() as disk:
            if self.steps == 200:
                disk.setattr(os, "fsync", full)
            save(self)
        assert os.fsync is sync
        kept.append(self.checkpoints.latest())

    kept: list[int | None] = []
    monkeypatch.setattr(Run, "save", save_without_space)
    capsys.readouterr()
    running.start(recipe("dqn"), tmp_path / "full", progress=False)
    assert kept == [100, 100, 300]
    assert "No space left on device" in capsys.readouterr().out
    assert_equal(final_state(tmp_path / "whole")["agent"], final_state(tmp_path / "full")["agent"])
