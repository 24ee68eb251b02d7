"""What every recipe promises: a `learn` that never waits, columns that are used, evaluation without traces, a clean end."""

from __future__ import annotations

import copy
import csv
import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import protorl as prl
from protorl.checkpoint import Checkpoints
from protorl.data import Batch, tree_leaves, tree_map
from protorl.envs.games import GAMES
from protorl.recipes import RECIPES
from protorl.recipes.saved import resume
from protorl.recipes.start import start
from protorl.runs import Run
from protorl.runs.metrics import read_metrics
from tests.contract.cases import small
from tests.contract.test_resume import assert_equal, final_state

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RECIPES},
    "dqn-per-nstep-dueling": ("dqn", {"per_alpha": 0.6, "n_step": 3, "head": "dueling"}),
    "dqn-torch-rmsprop": ("dqn", {"optimizer": "torch-rmsprop", "optimizer_eps": 0.01, "max_grad_norm": None}),
    "dqn-noisy-rmsprop": ("dqn", {"noisy": True, "optimizer": "rmsprop", "optimizer_eps": 0.01, "max_grad_norm": None}),
    "rainbow-plain": ("rainbow", {"noisy": False, "head": "q", "n_step": 1, "per_alpha": 0.0}),
    "iqn-dueling-noisy-per-nstep": ("iqn", {"head": "dueling", "noisy": True, "per_alpha": 0.6, "n_step": 3}),
    "qr-dqn-annealed": ("qr-dqn", {"anneal": True, "head": "dueling", "per_alpha": 0.6}),
    "ppo-gaussian-scaled": (
        "ppo",
        {"env": "Pendulum-v1", "num_envs": 2, "rollout_steps": 16, "normalise_obs": True, "normalise_reward": True,
         "clip_value": 0.2, "entropy_coef": 0.01, "share_base": True, "anneal": True, "anneal_clip": True, "target_kl": 1.0},
    ),
    "ppo-beta": ("ppo", {"env": "Pendulum-v1", "distribution": "beta", "clip_value": 0.2}),
    "rnd": ("rnd", {"clip_value": 0.2}),
    "rnd-gaussian-scaled": (
        "rnd",
        {"env": "Pendulum-v1", "num_envs": 2, "rollout_steps": 16, "normalise_obs": True, "clip_value": 0.2, "anneal": True},
    ),
    "dqn-bonus-per-nstep": ("dqn", {"bonus": "rnd", "per_alpha": 0.6, "n_step": 3}),
    "sac-bonus": ("sac", {"bonus": "rnd"}),
    "ddpg-gaussian-noise": ("ddpg", {"noise": "gaussian", "action_layer": 1}),
    "td3-per-nstep": ("td3", {"per_alpha": 0.6, "n_step": 3, "max_grad_norm": 1.0}),
    "drqn": (
        "r2d2",
        {"per_alpha": 0.0, "burn_in": 0, "start": "zero", "scale": "none", "n_step": 1, "head": "q", "core_inputs": (),
         "core": "gru", "first_priority": "largest", "kappa": 1.0},
    ),
    "r2d2-feed-forward": ("r2d2", {"core": "none", "num_envs": 2}),
    "mappo-gaussian-scaled": (
        "mappo",
        {"env": "protorl/Apart-v0", "num_envs": 2, "rollout_steps": 16, "share": False, "normalise_value": "moments",
         "normalise_reward": True, "anneal": True},
    ),
    "maddpg-local-per-nstep": ("maddpg", {"central": False, "share": True, "others": "current", "per_alpha": 0.6, "n_step": 3}),
    "matd3-numbers": ("matd3", {"env": "protorl/Apart-v0", "bonus": "rnd"}),
    "sac-fixed-alpha": ("sac", {"alpha_lr": None, "alpha": 0.2, "critics": 3}),
}  # fmt: skip


def recipe(case: str, **fields: Any) -> Any:
    name, own = CASES[case]
    return small(name, steps=300, log_every=100, eval_every=150, checkpoint_every=100, **{**own, **fields})


def with_experience(case: str, steps: int = 94) -> Any:
    """Parts that have learned, and with enough in memory to learn more (a rollout's steps are used in one burst)."""
    parts = recipe(case).build()
    prl.train(*parts, steps=steps)
    return parts


# learn


def handed(agent: Any, batch: Batch) -> dict[str, Batch]:
    """What `update` hands to each of the methods that touch tensors only (with the noise that it drew for them)."""
    given: dict[str, Batch] = {}
    for name in agent.pure:
        plain = getattr(agent, name)
        setattr(agent, name, lambda b, name=name, plain=plain: (given.setdefault(name, b), plain(b))[1])
    for _ in range(2):  # a delayed actor learns at every second one
        agent.update(batch)
    for name in agent.pure:
        delattr(agent, name)
    return given


def without_numbers(case: str) -> tuple[Any, dict[str, Batch]]:
    """An agent and batches on the meta device, where tensors have shapes and no values: reading one raises."""
    agent, memory, _ = with_experience(case)
    batches = handed(agent, memory.sample())
    made = recipe(case)
    object.__setattr__(made, "resolve_device", lambda spec: torch.device("meta"))
    return made.build_agent(made.make_env().spec), {
        name: Batch({key: tree_map(lambda tensor: tensor.to("meta"), column) for key, column in batch.columns.items()})
        for name, batch in batches.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_learn_never_waits_for_the_device(case: str) -> None:
    agent, batches = without_numbers(case)
    assert set(batches) == set(agent.pure)
    for name, batch in batches.items():
        update = getattr(agent, name)(batch)
        assert update.priority.shape == (len(batch),)
        assert all(tensor.device.type == "meta" for tensor in (update.priority, *update.metrics.values()))


@pytest.mark.parametrize(
    "look", [lambda td: td.sum().item(), lambda td: td.cpu(), lambda td: 1 if (td > 0).any() else 0, lambda td: td[td > 0]]
)
def test_a_look_at_a_number_would_be_caught(look: Any) -> None:
    agent, batches = without_numbers("dqn")
    plain = agent.td_error
    agent.td_error = lambda batch: (look(plain(batch)), plain(batch))[1]
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        agent.learn(batches["learn"])


class Watched(Batch):
    """A batch that notes which columns are read."""

    __slots__ = ("read",)

    def __init__(self, columns: Any) -> None:
        super().__init__(columns)
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getattr__(name)


STEP = {"obs", "action", "reward", "discount", "next_obs", "weight"}
SEQUENCE = {"seen", "action", "reward", "discount", "successor", "mask", "ended", "weight"}


@pytest.mark.parametrize("case", CASES)
def test_columns_declared_are_columns_used(case: str) -> None:
    agent, memory, _ = with_experience(case)
    extras = set(memory.storage.columns.extras) - {"priority"}  # which the sampler keeps
    rollouts: list[Watched] = []
    prepare = getattr(memory.view, "prepare", None)
    if prepare is not None:
        memory.view.prepare = lambda rollout: (rollouts.append(Watched(rollout.columns)), prepare(rollouts[-1]))[1]
    batch = memory.sample()
    sequences = isinstance(memory.view, prl.Sequence)
    step = SEQUENCE if sequences else STEP
    if rollouts:
        assert set(rollouts[0]) == step | extras | {"first", "ended", "last_action", "last_reward", "raw_reward"}
    else:
        assert set(batch) == step | extras | {"index"}
        assert (batch.reward.dtype, batch.discount.dtype) == (torch.float32,) * 2
    assert batch.weight.dtype == torch.float32
    assert 15 <= len(batch) <= 16
    unrolled = SEQUENCE - {"weight"} if sequences else set()
    for name, column in batch.columns.items():
        assert all(leaf.shape[name in unrolled] == len(batch) for leaf in tree_leaves(column)), name

    read: set[str] = set()
    for name, given in handed(agent, batch).items():
        watched = Watched(given.columns)
        update = getattr(agent, name)(watched)
        read |= watched.read
        assert update.priority.shape == (len(batch),)
        assert name != "learn" or (update.priority >= 0).all()
        assert set(given) >= set(batch)
    assert read >= set(batch) - {"index", "ended"}  # ends of episodes are in the discount; what flows through them reads them
    assert read.union(*(rollout.read for rollout in rollouts)) >= (step | extras) - {"ended"}


# evaluate


@pytest.mark.parametrize("case", CASES)
def test_evaluation_leaves_everything_bit_for_bit(case: str) -> None:
    agent, memory, actors = with_experience(case, steps=96)  # a rollout has just been learned from
    env = recipe(case).make_env(2, name="eval")

    def everything() -> dict[str, Any]:
        numbers = np.random.get_state()  # noqa: NPY002 - the point is that nobody touches it
        state = {
            "agent": agent.state_dict(), "memory": memory.state_dict(), "actors": actors.state_dict(),
            "rows": memory.rows([0] * memory.storage.lanes), "torch": torch.get_rng_state(), "numpy": list(numbers),
            "python": list(random.getstate()), "training": agent.network.training,
        }  # fmt: skip
        return copy.deepcopy(state)  # or before and after would be the same memory

    before = everything()
    first = prl.evaluate(agent, env, 4, seed=5)
    assert_equal(before, everything())
    assert prl.evaluate(agent, env, 4, seed=5) == first
    assert len(first.returns) == len(first.lengths) == 4


# A whole run


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_folder_holds_what_it_should(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = recipe(name, seed=3)
    result = start(made, folder, progress=False)
    assert result.steps == 300
    assert result.best is not None
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("events.")) == [
        "checkpoints", "config.json", "lock", "metrics.csv",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert {"recipe", "paper", "env", "seed", "recipe_config", "versions", "git", "hardware", "command", "created"} <= set(
        config
    )
    assert (config["recipe"], config["env"], config["seed"]) == (name, made.env, 3)
    assert {"python", "torch", "numpy", "gymnasium", "protorl"} <= set(config["versions"])
    assert config["recipe_config"]["batch_size"] == 16
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "150", "200", "300"]
    columns = {"return", "length", "loss", "updates", "steps_per_second", "updates_per_second", "eval_return", "eval_std"}
    assert columns | ({"grad_norm"} if made.max_grad_norm else set()) <= set(rows[0])
    updates = float(rows[-1]["updates"])
    if name == "r2d2":  # its sequences wait until as many steps follow, or their episode is over
        assert 50 <= updates < 67
    else:
        assert updates == (67 if hasattr(made, "warmup_steps") else 300 // 32 * 4)
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

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.action_space = space

    def step(self, action: Any) -> Any:
        Poisoned.steps_taken += 1
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if Poisoned.steps_taken > 150 else reward, *rest


def poisoned(made: Any) -> Any:
    """Environments as those of a recipe, with rewards of that kind."""
    Poisoned.steps_taken = 0
    if not made.as_teams:
        space = gymnasium.make(made.env).action_space
        return prl.make_vec_envs(lambda: Poisoned(space), made.num_envs)

    class Team(GAMES[made.env]):  # type: ignore[name-defined, misc]
        def pay(self, actions: Any) -> Any:
            Poisoned.steps_taken += 1
            return {name: float("nan") if Poisoned.steps_taken > 150 else 1.0 for name in actions}

    return prl.make_vec_envs(Team, made.num_envs, as_teams=True)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's own word, on the way to ours
@pytest.mark.parametrize("looks_at_once", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_a_reward_that_is_not_a_number_ends_training_in_one_sentence(case: str, looks_at_once: bool, tmp_path: Path) -> None:
    """On a GPU the loss is looked at only when metrics are written; what was good must stay there too."""
    made = recipe(case)
    agent, memory, actors = made.assemble(poisoned(made))
    run = Run(tmp_path, agent, memory, actors, steps=300, log_every=50, checkpoint_every=100)
    run.looks_at_once = looks_at_once
    with pytest.raises(prl.ProtoRLError) as caught, run.watch(progress=False):
        prl.train(agent, memory, actors, steps=300, monitor=run)
    sentence = str(caught.value)
    assert Checkpoints(tmp_path / "checkpoints").load().step == 100  # and nothing that is not finite was saved
    assert "the last good checkpoint is step 100" in sentence
    assert str(tmp_path) in sentence
    assert "\n" not in sentence
    if looks_at_once:
        assert f"batch.{'advantage' if hasattr(made, 'rollout_steps') else 'reward'}" in sentence
        assert 150 <= run.steps < 180


def test_a_full_disk_costs_the_best_weights_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise prl.ProtoRLError("cannot write best.pt: No space left on device")

    monkeypatch.setattr(Checkpoints, "save_weights", full)
    start(recipe("dqn"), tmp_path / "run", progress=False)
    assert "No space left on device" in capsys.readouterr().out
    assert final_state(tmp_path / "run")["run"]["steps"] == 300


def test_a_run_without_a_checkpoint_begins_its_metrics_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = small("dqn", steps=300, log_every=100, eval_every=150, checkpoint_every=0), Run.tick

    def tick(self: Run) -> None:
        plain(self)
        if self.steps >= 250:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Run, "tick", tick)
        with pytest.raises(KeyboardInterrupt):
            start(made, tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False)
    assert read_metrics(tmp_path / "run" / "metrics.csv")["step"].tolist() == [100, 150, 200, 300]


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(recipe("dqn"), tmp_path / "whole", progress=False)
    save, sync = Run.save, os.fsync

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def save_without_space(self: Run) -> None:
        with monkeypatch.context() as disk:
            if self.steps == 200:
                disk.setattr(os, "fsync", full)
            save(self)
        assert os.fsync is sync
        kept.append(self.saving.checkpoints.latest())

    kept: list[int | None] = []
    monkeypatch.setattr(Run, "save", save_without_space)
    capsys.readouterr()
    start(recipe("dqn"), tmp_path / "full", progress=False)
    assert kept == [100, 100, 300]
    assert "No space left on device" in capsys.readouterr().out
    assert_equal(final_state(tmp_path / "whole")["agent"], final_state(tmp_path / "full")["agent"])
