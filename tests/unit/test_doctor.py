"""`protorl doctor`: what it measures and what it makes of that; its windows are a hundredth of a second here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protorl.accelerate import MODES
from protorl.cli import doctor as module
from protorl.cli.doctor import EXTRAS, doctor, examine, random_actions, recommend
from protorl.data import ActionSpec, ArraySpec, EnvSpec, ProtoRLError
from protorl.recipes import RECIPES, measure
from protorl.recipes.fields import parse_settings
from protorl.recipes.measure import per_second, smaller


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(said: list[str]) -> dict[str, Any]:
    """Of DQN on CartPole, without what is compiled or started."""
    return examine("dqn", None, quick=True, window=0.01, say=said.append)


def test_the_report_is_plain_data_with_every_backend_and_mode(report: dict[str, Any], said: list[str]) -> None:
    assert json.loads(json.dumps(report)) == report
    tried = {(row["backend"], row["num_envs"]): row for row in report["environments"]}
    assert all(tried[backend, n]["steps_per_second"] > 0 for backend in ("sync", "native") for n in (1, 8))
    assert tried["async", 1] == {"backend": "async", "num_envs": 1, "note": "left out by --quick"}
    assert ("async", 8) not in tried
    modes = {row["mode"]: row for row in report["learning"]}
    assert set(modes) == set(MODES) - {"auto"}
    assert all("note" in modes[mode] for mode in ("aot", "compiled"))
    eager = modes["eager"]
    assert min(eager["updates_per_second"], eager["acts_per_second"]) > 0
    assert eager["updates_per_step"] == 0.5  # CartPole's preset: 128 updates each 256 steps
    assert any("backend native" in line for line in said)


@pytest.mark.parametrize(("seconds", "bf16"), [(20.0, False), (0.5, True)])  # compiled, or found on disk
def test_modes_wait_for_the_next_run_when_the_minute_is_nearly_over(
    seconds: float, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one is compiled in every run, so that all have their turn."""
    tried = []

    def learning_speed(recipe: Any, mode: str, precision: str, window: float) -> dict[str, Any]:
        tried.append((mode, precision))
        return {"updates_per_second": 80, "acts_per_second": 1_000, "updates_per_step": 1, "setup_seconds": seconds}

    monkeypatch.setattr("protorl.cli.doctor.measure_environments", lambda *_: ENVIRONMENTS)
    monkeypatch.setattr("protorl.cli.doctor.learning_speed", learning_speed)
    monkeypatch.setattr("protorl.cli.doctor.machine", lambda: {"features": ["amx_bf16"]})
    monkeypatch.setattr("protorl.cli.doctor.torch.cuda.is_available", lambda: False)
    report = examine("dqn", None, quick=False, window=0.01, say=lambda text: None, compile_before=-1)
    assert ("aot", "float32") in tried
    assert (("aot", "bf16") in tried) == bf16
    notes = [row.get("note", "") for row in report["learning"] if row["precision"] == "bf16"]
    assert all(("run it again" in note) != bf16 for note in notes)
    assert ("accelerate" in report["settings"]) == bf16


def test_the_recommended_command_is_one_that_can_be_typed(report: dict[str, Any]) -> None:
    start, *settings = report["command"].split(" --set ")
    assert start == "protorl train dqn --env CartPole-v1"
    recipe = RECIPES["dqn"](**parse_settings(RECIPES["dqn"], settings))  # type: ignore[arg-type]
    assert {name: getattr(recipe, name) for name in report["settings"]} == report["settings"]
    assert "accelerate" not in report["settings"]  # the best may be among what was left out


def test_torch_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(recipe: Any, *rest: Any) -> list[dict[str, Any]]:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return [row("eager", 1, 80, 1_000)]

    monkeypatch.setattr(module, "measure_learning", measure)
    before = torch.get_num_threads()
    examine("dqn", None, quick=True, window=0.001, say=lambda line: None)
    assert torch.get_num_threads() == before


def test_ppo_is_measured_too() -> None:
    rows = module.measure_learning(RECIPES["ppo"](env="CartPole-v1"), 0.001, True, lambda line: None)
    eager = next(row for row in rows if row["mode"] == "eager")
    assert eager["updates_per_second"] > 0
    assert eager["updates_per_step"] == 4 / 128  # four epochs of minibatches of 128


def test_a_mode_that_cannot_run_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(agent: Any, mode: str, precision: str, **_: Any) -> Any:
        if mode == "aot":
            raise ProtoRLError("no compiler here")
        return agent

    monkeypatch.setattr(measure, "accelerate", refuse)
    monkeypatch.setattr(module, "machine", lambda: {"features": ["avx512_bf16"]})
    recipe = RECIPES["sac"](env="Pendulum-v1")
    rows = module.measure_learning(recipe, 0.001, False, lambda line: None)
    assert [row["note"] for row in rows if row["mode"] == "aot"] == ["no compiler here"] * 2
    assert [row["precision"] for row in rows if row["mode"] == "aot"] == ["float32", "bf16"]


def row(mode: str, threads: int, updates: float, acts: float, per_step: float = 1.0) -> dict[str, Any]:
    rates = {"updates_per_second": updates, "acts_per_second": acts, "updates_per_step": per_step}
    return {"mode": mode, "device": "cpu", "threads": threads, "setup_seconds": 0.0, **rates}


def stepping(backend: str, num_envs: int, speed: float) -> dict[str, Any]:
    return {"backend": backend, "num_envs": num_envs, "steps_per_second": speed}


ENVIRONMENTS = [
    stepping("sync", 1, 1_000),
    stepping("sync", 8, 1_500),
    stepping("native", 1, 1_050),
    stepping("native", 8, 2_400),
]


@pytest.mark.parametrize(
    ("environments", "modes", "expected"),
    [
        # learning takes eager 1/500 + 1/1000 s a step, aot 1/2000 + 1/300: 3 against 3.8 ms; stepping 1 of 4 ms
        (ENVIRONMENTS, [row("eager", 1, 500, 1_000), row("aot", 1, 2_000, 300)], ("eager", 1, "sync", None)),
        # with an update each tenth step 1.2 against 2.05 ms; stepping 1 of 2.2 ms, and eight environments 2.4 times as fast
        (ENVIRONMENTS, [row("eager", 1, 500, 1_000, 0.1), row("aot", 1, 2_000, 500, 0.1)], ("eager", 1, "native", 8)),
        # the other way round: 5 against 2.5 ms
        (ENVIRONMENTS, [row("eager", 1, 250, 1_000), row("aot", 1, 2_000, 500)], ("aot", 1, "native", 8)),
        # stepping takes 1 ms of 11: not worth another number of environments
        (ENVIRONMENTS, [row("eager", 1, 80, 1_000), row("eager", 2, 110, 1_000)], ("eager", 2, "sync", None)),
        # clearly faster than the loop
        ([*ENVIRONMENTS, stepping("envpool", 1, 1_200)], [row("eager", 1, 80, 1_000)], ("eager", 1, "envpool", None)),
        # rounding must pay: 3 ms against 2.8, which is not clearly less
        (
            ENVIRONMENTS,
            [row("aot", 1, 500, 1_000), {**row("aot", 1, 555, 1_000), "precision": "bf16"}],
            ("aot", 1, "sync", None),
        ),
        # what could not be measured counts for nothing
        (
            [*ENVIRONMENTS, {"backend": "async", "num_envs": 1, "note": "gone"}],
            [row("eager", 1, 80, 1_000), {"mode": "aot", "threads": 0, "note": "gone"}],
            ("eager", 1, "sync", None),
        ),
    ],
)
def test_recommendations_from_numbers(
    environments: list[dict[str, Any]], modes: list[dict[str, Any]], expected: tuple[Any, ...]
) -> None:
    settings = recommend(RECIPES["dqn"](), environments, modes)
    assert (settings["accelerate"], settings["threads"], settings["backend"], settings.get("num_envs")) == expected


def test_bf16_is_recommended_where_it_is_clearly_faster() -> None:
    rows = [row("aot", 1, 100, 1_000), {**row("aot", 1, 180, 1_000), "precision": "bf16"}]
    assert recommend(RECIPES["dqn"](), ENVIRONMENTS, rows)["precision"] == "bf16"
    rows[1]["updates_per_second"] = 105
    assert "precision" not in recommend(RECIPES["dqn"](), ENVIRONMENTS, rows)


def test_the_device_is_recommended_where_there_are_two() -> None:
    rows = [row("aot", 1, 200, 1_000), {**row("cudagraphs", 1, 4_000, 1_000), "device": "cuda"}]
    assert recommend(RECIPES["sac"](), ENVIRONMENTS, rows)["device"] == "cuda"
    assert recommend(RECIPES["sac"](), ENVIRONMENTS, [rows[0], {**rows[1], "acts_per_second": 100}])["device"] == "cpu"
    assert "device" not in recommend(RECIPES["sac"](), ENVIRONMENTS, [rows[0], {**rows[1], "note": "no GPU"}])


def test_ppo_keeps_its_number_of_environments() -> None:
    settings = recommend(RECIPES["ppo"](num_envs=1), ENVIRONMENTS, [row("eager", 1, 500, 1_000, 0.1)])
    assert "num_envs" not in settings


@pytest.mark.parametrize("name", RECIPES)
def test_smaller_recipes_are_sound_and_cost_the_same(name: str) -> None:
    recipe: Any = RECIPES[name]()
    small = smaller(recipe)
    changed = {f.name for f in dataclasses.fields(recipe) if getattr(recipe, f.name) != getattr(small, f.name)}
    assert changed <= {"capacity", "warmup_steps", "rollout_steps"}


@pytest.mark.parametrize(
    "action",
    [
        ActionSpec("discrete", (), np.dtype(np.int64), n=3),
        ActionSpec("multidiscrete", (2,), np.dtype(np.int64), nvec=(2, 5)),
        ActionSpec("box", (2,), np.dtype(np.float32)),
    ],
    ids=lambda action: action.kind,
)
def test_random_actions_fill_the_space(action: ActionSpec) -> None:
    draws = random_actions(EnvSpec("any", ArraySpec((1,), np.dtype(np.float32)), action, 4))
    actions = np.stack([next(draws) for _ in range(64)])
    assert actions.shape == (64, 4, *action.shape)
    assert actions.dtype == action.dtype
    low, high = actions.min((0, 1)), actions.max((0, 1))
    if action.kind == "box":
        assert (low < -0.9).all()
        assert (high > 0.9).all()
    else:
        assert np.array_equal(low, np.zeros(action.shape))
        assert np.array_equal(high, np.array(action.nvec or action.n) - 1)


def test_rates_are_calls_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += 0.25

    assert per_second(call, 2.0) == 4.0
    assert now[0] == 0.25 * 9  # one does not count


def test_the_extras_are_those_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    file = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(file.read_text())["project"]["optional-dependencies"]
    del declared["dev"], declared["all"]
    assert {name: set(packages) for name, (_, packages) in EXTRAS.items()} == {
        name: {requirement.split(">")[0] for requirement in requirements} for name, requirements in declared.items()
    }


def test_tables_and_json_are_printed(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "examine", lambda *args, **options: report)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(module, "installed", lambda package: None)
    assert doctor("dqn", None) == 0
    shown = capsys.readouterr().out
    for text in ("HalfCheetah", "native", "eager", "left out by --quick", report["command"]):
        assert text in shown
    report = {**report, "extras": module.extras()}
    monkeypatch.setattr(module, "examine", lambda *args, **options: report)
    doctor("dqn", None)
    assert 'pip install "protorl[mujoco]"' in capsys.readouterr().out
    doctor("dqn", None, as_json=True)
    assert json.loads(capsys.readouterr().out) == report


def test_mistakes_are_sentences() -> None:
    with pytest.raises(ProtoRLError, match="recipe 'dqm' is unknown"):
        examine("dqm", None, quick=True, window=0.01, say=lambda line: None)
    with pytest.raises(ProtoRLError, match="did you mean"):
        examine("dqn", "CartPool-v1", quick=True, window=0.01, say=lambda line: None)
