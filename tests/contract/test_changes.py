"""What a resumed training may change: every field of every recipe is honoured, or refused by its name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import protorl as prl
from protorl.checkpoint import Checkpoints
from protorl.recipes import RECIPES
from protorl.recipes.changes import TUNABLE, WHY_NOT
from protorl.recipes.saved import read_recipe, resume
from protorl.recipes.start import start
from protorl.runs.metrics import read_table
from tests.contract.cases import small
from tests.contract.test_resume import assert_equal, final_state

BEGUN, END = 100, 150
RUN: dict[str, Any] = {
    "steps": BEGUN, "widths": (8, 8), "log_every": 25, "eval_every": 50, "eval_episodes": 2, "checkpoint_every": 50,
    "epsilon_start": 1.0, "epsilon_steps": 200, "accelerate": "eager", "per_alpha": 0.6, "noise": "ou",
    "bonus": "rnd", "env_kwargs": {"max_episode_steps": 30},
}  # fmt: skip
LONG = f"{Path(__file__).with_name('long_game.py')}:LongGame"
OWN: dict[str, dict[str, Any]] = {
    "rnd": {"seed": 11, "env_kwargs": {"max_episode_steps": 80}},  # its evaluations differ
    "vdn": {"env": LONG, "env_kwargs": {"time_limit": 30}},
    "qmix": {"env": LONG, "env_kwargs": {"time_limit": 30}},
    "mappo": {"env": LONG, "env_kwargs": {"time_limit": 30}},
    "maddpg": {"env": LONG, "env_kwargs": {"time_limit": 30}},
    "matd3": {"env": LONG.replace("LongGame", "LongNumbers"), "env_kwargs": {"time_limit": 30}},
}
ELSEWHERE = {"maddpg": {"noise_std", "noise_theta"}, "matd3": {"temperature", "logit_penalty"}}
"""Fields for the other kind of actions than those of the run, which the other one of the two has."""
OTHER: dict[str, Any] = {
    "env": "MountainCarContinuous-v0", "device": "cuda", "accelerate": "auto", "precision": "bf16", "threads": 2,
    "package_to_import": "math", "optimizer": "radam", "optimizer_kwargs": {"betas": (0.8, 0.9)}, "base": "nature",
    "activation": "elu", "env_kwargs": {}, "steps": 175, "eval_every": 25, "eval_epsilon": 1.0, "checkpoint_every": 30,
    "keep": 1, "protocol": "raw", "max_grad_norm": 1e-3, "lr": 0.1, "optimizer_eps": 0.1, "gamma": 0.5, "clip_reward": 0.01,
    "reward_scale": 2.0, "per_alpha": 0.1, "kappa": 1e-3, "epsilon_start": 0.5, "epsilon_end": 0.9, "epsilon_steps": 10,
    "actor_lr": 0.1, "alpha_lr": 0.1, "final_bound": 0.1, "target_entropy": 3.0, "clip": 1e-3, "clip_value": 1e-3,
    "target_kl": 1e-9, "share_base": True, "weight_decay": 0.5, "noise_std": 0.9, "noise_theta": 0.9, "target_noise": 0.9,
    "noise_clip": 0.01, "munchausen_tau": 0.5, "munchausen_low": -1e-6, "target_every": 3, "log_std": 0.5,
    "eval_max_steps": 5, "action_gradient_clip": 1e-6, "epsilon_after": 1_000, "wrappers": ("gymnasium.wrappers:ClipReward",),
    "kernel_epsilon": 10.0, "cluster_distance": 5.0, "pseudo_count": 2.0, "max_similarity": 0.5, "novelty_max": 1.0,
    "novelty_steps": 1, "core_inputs": ("reward",), "eta": 0.1, "predictor_lr": 0.5, "predictor_share": 0.75,
    "sequence_steps": 8, "core_span": 9,
}  # fmt: skip
"""Values that a field certainly did not have; of all others a little more, or the other choice."""


def another(field: dataclasses.Field[Any], now: Any) -> Any:
    """A value that a field may have, and has not now."""
    if field.name in OTHER and OTHER[field.name] != now:
        return OTHER[field.name]
    if choices := field.metadata.get("choices"):
        return next(choice for choice in choices if choice != now)
    if isinstance(now, bool):
        return not now
    if isinstance(now, int | float):
        return now + 1 if isinstance(now, int) else now / 2 + 0.1
    assert isinstance(now, tuple), field.name
    return (*now, 4)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs that have begun, by recipe."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            known = {field.name for field in dataclasses.fields(RECIPES[name])}  # type: ignore[arg-type]
            begin = RUN | OWN.get(name, {})
            start(small(name, **{key: begin[key] for key in begin if key in known}), folders[name], progress=False)
        return folders[name]

    return run


def copy(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def happened(run: Path, **settings: Any) -> dict[str, Any]:
    """Everything that a resumed training leaves."""
    threads = torch.get_num_threads()
    try:
        agent = resume(run, steps=settings.pop("steps", END), settings=settings, progress=False).agent
        threads, ways = torch.get_num_threads(), {name: type(value).__name__ for name, value in vars(agent).items()}
    finally:
        torch.set_num_threads(1)
    _, rows = read_table(run / "metrics.csv")
    for row in rows:
        del row["steps_per_second"], row["updates_per_second"]
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return {"state": final_state(run), "rows": rows, "checkpoints": names, "threads": threads, "ways": ways}


def differ(one: Any, two: Any) -> bool:
    try:
        assert_equal(one, two)
    except AssertionError:
        return True
    return False


def fields_of(name: str, tunable: bool) -> list[dataclasses.Field[Any]]:
    """Those that a resumed training may, or may not, change; not what has one value alone."""
    cls: Any = RECIPES[name]
    bounds = {field: (field.metadata.get("low"), field.metadata.get("high")) for field in dataclasses.fields(cls)}
    fixed = {field.name for field, (low, high) in bounds.items() if low is not None and low == high}
    return [field for field in bounds if (field.name in TUNABLE) == tunable and field.name not in fixed]


def test_every_field_is_in_one_list() -> None:
    refused = [name for names in WHY_NOT.values() for name in names.split()]
    ours = {field.name for cls in RECIPES.values() for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    assert len({*TUNABLE, *refused}) == len([*TUNABLE, *refused])
    assert ours <= {*TUNABLE, *refused}


def honoured(run: Path, fields: list[dataclasses.Field[Any]], tmp_path: Path) -> None:
    """Each of these fields, changed alone, makes another training of what the run has begun."""
    plain, recipe = happened(copy(run, tmp_path / "plain")), read_recipe(run)
    for field in fields:
        if field.name in {"worker_timeout", "engine", "address", "publish_every", *ELSEWHERE.get(recipe.name, ())}:
            continue  # of workers, which these runs have none of
        changed, its = another(field, getattr(recipe, field.name)), copy(run, tmp_path / field.name)
        if field.name == "device":
            with pytest.raises(prl.ProtoRLError, match='device "cuda" was asked for, but torch sees no GPU'):
                happened(its, device=changed)
            continue
        assert differ(plain, happened(its, **{field.name: changed})), f"{field.name}={changed} changes nothing"
        assert getattr(read_recipe(its), field.name) == changed


FEW = [pytest.param(name, marks=() if name in ("dqn", "ppo", "sac") else pytest.mark.slow) for name in RECIPES]


@pytest.mark.parametrize("name", FEW)
def test_a_changed_learning_rate_is_honoured(name: str, begun: Any, tmp_path: Path) -> None:
    rates = ("lr", "actor_lr", "alpha_lr")
    honoured(begun(name), [field for field in fields_of(name, tunable=True) if field.name in rates], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_what_may_change_is_honoured(name: str, begun: Any, tmp_path: Path) -> None:
    honoured(begun(name), fields_of(name, tunable=True), tmp_path)


@pytest.mark.parametrize("name", FEW)
def test_what_shaped_the_run_is_refused_by_name(name: str, begun: Any, tmp_path: Path) -> None:
    run = begun(name)
    recipe, before = read_recipe(run), (run / "config.json").read_bytes()
    config = json.loads(before)
    for field in fields_of(name, tunable=False):
        changed = another(field, getattr(recipe, field.name))
        with pytest.raises(prl.ProtoRLError, match=f"^{field.name} was .* in the training so far and is .* now, but .* put"):
            resume(run, settings={field.name: changed}, progress=False)
        assert (run / "config.json").read_bytes() == before
        edited = config | {"recipe_config": config["recipe_config"] | {field.name: changed}}
        (run / "config.json").write_text(json.dumps(edited))
        for command in (resume, prl.load):
            with pytest.raises(prl.ProtoRLError, match=f"^{field.name} was .* put .* back in .*config.json, or train anew"):
                command(run)
        (run / "config.json").write_bytes(before)


def test_an_edited_learning_rate_holds_after_the_checkpoint_before_was_needed(begun: Any, tmp_path: Path) -> None:
    """The newest checkpoint was trained with another lr than the one that is loaded in its place."""
    run = copy(begun("dqn"), tmp_path / "run")
    resume(run, steps=125, settings={"lr": 0.25}, progress=False)
    saved = sorted((run / "checkpoints").glob("step-*/state.pt"))
    saved[-1].write_bytes(b"")
    assert Checkpoints(run / "checkpoints").about()["fields"]["lr"] == 0.25
    assert float(resume(run, steps=125, progress=False).agent.optimizer.lr) == 0.25  # type: ignore[attr-defined]


def test_what_is_not_changed_is_not_touched(begun: Any, tmp_path: Path) -> None:
    """A learning rate that the agent moved itself comes back as it was."""
    run = copy(begun("dqn"), tmp_path / "run")
    checkpoints = Checkpoints(run / "checkpoints")
    loaded = checkpoints.load()
    loaded.state["agent"]["optimizer"]["state"]["lr"].fill_(0.125)
    checkpoints.save(loaded.step, loaded.state, None, loaded.about)
    agent = prl.load(run, "last").agent
    assert float(agent.optimizer.lr) == 0.125  # type: ignore[attr-defined]


def test_the_config_tells_the_beginning_and_every_resumption(begun: Any, tmp_path: Path) -> None:
    run = copy(begun("dqn"), tmp_path / "run")
    path = run / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"created": "long ago", "versions": {"torch": "1"}}))
    resume(run, steps=125, settings={"lr": 0.25}, progress=False)
    resume(run, progress=False)
    after = json.loads(path.read_text())
    assert (after["created"], after["versions"]) == ("long ago", {"torch": "1"})
    first, second = after["resumed"]
    assert (first["step"], first["changed"]["lr"][1]) == (BEGUN, 0.25)
    assert first["versions"] == config["versions"]
    assert (second["step"], second["changed"]) == (125, {})
    assert "hardware" not in second  # as it was


def test_fewer_steps_than_were_trained_are_refused(begun: Any, tmp_path: Path) -> None:
    run = copy(begun("dqn"), tmp_path / "run")
    with pytest.raises(prl.ProtoRLError, match="has been trained for 100 steps, more than --steps 50"):
        resume(run, steps=50, progress=False)


def test_a_training_that_diverged_goes_on_with_a_lower_rate(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(prl.ProtoRLError, match=f"Try a lower lr \\(`protorl resume {run} --set lr=...`\\)"):
        start(small("dqn", **{**{key: RUN[key] for key in RUN if key != "noise"}, "lr": 1e30}), run, progress=False)
    assert resume(run, settings={"lr": 1e-3}, progress=False).steps == BEGUN
