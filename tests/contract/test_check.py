"""`protorl check` passes what is right, and names the fault of everything in `faulty` that has one."""

from __future__ import annotations

import itertools
import textwrap
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import protorl as prl
from protorl.cli import main
from protorl.cli.check import chosen
from protorl.recipes.checks import Finding, examine, faster
from protorl.recipes.checks.contents import Contents, apart, difference, farthest, put
from protorl.recipes.checks.training import Training, short
from protorl.recipes.checks.workers import workers_agree
from tests.contract import faulty


def finding(recipe: Any, name: str) -> Finding:
    """The quick form's finding of that name; what comes after it is not looked for."""
    return next(found for found in examine(recipe, quick=True) if found.name == name)


def test_what_is_right_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """At the command line; every recipe and example is in tests/smoke/test_check.py."""
    recipe = Path(__file__).parents[2] / "examples/my_paper.py:MyRecipe"
    assert main(["check", str(recipe), "--quick", "--set", "tau=0.1", "--set", "widths=16,16"]) == 0
    said = capsys.readouterr().out
    assert " 0 failed" in said
    assert "kill and resume" in said
    assert "probe DelayedReward" in said


@pytest.mark.parametrize(("name", "env"), [("ppo", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_an_environment_fits_the_recipe(name: str, env: str) -> None:
    assert chosen(name, None, []).env == env


def all_pass(findings: Iterator[Finding], row: str, last: str) -> Finding:
    """The finding of one row, all of them up to `last` having passed."""
    seen = {}
    for found in findings:
        assert found.passed, found
        seen[found.name] = found
        if found.name == last:
            break
    return seen[row]


@pytest.mark.parametrize("recipe", faulty.MENDED, ids=lambda recipe: recipe.__name__)
def test_natural_code_passes(recipe: Any, interpreted: None) -> None:
    """And what stays eager is said."""
    (row, stays), env = faulty.MENDED[recipe], "Pendulum-v1" if issubclass(recipe, prl.recipes.SAC) else "CartPole-v1"
    made = recipe(env=env)
    if row == "learning, fast = plain":
        passed, sentence = faster.learning_agrees(short(made, 32), "aot", 8)
        assert passed, sentence
    else:
        sentence = all_pass(examine(made, quick=True), row, "acting, fast = plain").sentence
    assert stays in sentence
    assert ("stays eager" in sentence) == bool(stays)


CULPRITS: dict[type[prl.Recipe], tuple[str, ...]] = {
    faulty.UnusedField: ("temperature",),
    faulty.UnusedColumn: ("score", "no update reads"),
    faulty.UndeclaredColumn: ("score", "`columns` does not declare"),
    faulty.MissingColumn: ("no column 'intrinsic'",),
    faulty.HalfOptimised: ("agent.network.head",),
    faulty.UnmovedParameter: ("agent.network.base.spare.weight",),
    faulty.GradientIntoTarget: ("agent.network(next_obs)",),
    faulty.GradientCollected: ("agent.target.base",),
    faulty.ForgottenByHand: ("agent.bonus", "when saved", "when loaded"),
    faulty.BuildsAnother: ("MeanOfTargets", "DQN"),
    faulty.EvaluationCounts: ("agent.acts",),
    faulty.LearnRaises: ("ValueError: a matrix",),
}


@pytest.mark.parametrize("recipe", faulty.STAYING, ids=lambda recipe: recipe.__name__)
def test_every_fault_is_found_and_its_culprit_named(recipe: Any) -> None:
    found = finding(recipe(env="CartPole-v1"), faulty.STAYING[recipe])
    assert found.passed is False
    assert "\n" not in found.sentence
    assert all(word in found.sentence for word in CULPRITS.get(recipe, ())), found.sentence


def test_a_failure_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tests.contract.faulty:LearnRaises", "--env", "CartPole-v1", "--quick"]) == 1
    said = capsys.readouterr().out
    assert "FAIL" in said
    assert "0 passed, 1 failed" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dqm"], "recipe 'dqm' is unknown"),
        (["dqn", "--set", "lrr=1"], "did you mean 'lr'"),
        (["dqn", "--env", "Cartpole-v9"], "Cartpole-v9"),
        (["BROKEN:Mine", "--quick"], "broken.py:1: NameError: name 'recipes' is not defined"),
    ],
)
def test_a_mistake_gets_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(textwrap.dedent("class Mine(recipes.DQN):\n    pass\n"))
    assert main(["check", *(word.replace("BROKEN", f"{tmp_path}/broken.py") for word in words)]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_actions_that_do_not_fit_are_a_finding() -> None:
    (found,) = examine(prl.recipes.SAC(env="CartPole-v1"), quick=True)
    assert found.passed is False
    assert "discrete" in found.sentence


# Faster is the same: what is bound is replaced here, so that nothing is compiled


def bound(monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.setattr(faster, "accelerate", lambda agent, mode: how(agent))


def agree(monkeypatch: pytest.MonkeyPatch, how: Any, updates: int = 10) -> tuple[bool | None, str]:
    bound(monkeypatch, how)
    return faster.learning_agrees(short(faulty.Small(env="CartPole-v1"), 32), "other", updates)


def test_equal_updates_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, sentence = agree(monkeypatch, lambda agent: None)
    assert passed
    assert "updates with other: 0e+00 apart" in sentence


def test_rounding_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(agent: Any) -> None:
        plain = agent.learn
        agent.learn = lambda batch: (faster.nudge(agent), plain(batch))[1]

    assert agree(monkeypatch, rounded)[0]


def nothing_learned(agent: Any) -> None:
    agent.learn = lambda batch: prl.Update(torch.ones(len(batch)), {"loss": torch.tensor(1.0)})


def frozen_target(agent: Any) -> None:
    from protorl.networks import clone

    then, plain = clone(agent.target), agent.learn

    def learn(batch: prl.Batch) -> prl.Update:
        agent.target, now = then, agent.target
        try:
            return plain(batch)
        finally:
            agent.target = now

    agent.learn = learn


@pytest.mark.parametrize("how", [nothing_learned, frozen_target])
def test_other_updates_do_not(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passed, sentence = agree(monkeypatch, how)
    assert passed is False
    assert "from the same state" in sentence
    assert "eager" in sentence
    assert "with other" in sentence


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.0 + 1e-6, True), (-1.0, False)])
def test_acting_is_held_against_plain_torch(factor: float, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(agent: Any) -> None:
        plain = agent.infer
        agent.infer = lambda *seen: type(plain(*seen))(factor * plain(*seen).q)

    bound(monkeypatch, scaled)
    found = finding(faulty.Small(env="CartPole-v1"), "acting, fast = plain")
    assert found.passed is passed, found


# What an object holds


class Holder:
    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = [1, 2.5]


class Everything:
    def __init__(self) -> None:
        count, self.net = 0, nn.Linear(2, 1)

        def schedule(step: int) -> float:
            nonlocal count
            count += 1
            return float(count)

        self.schedule, self.partial = schedule, partial(max, 3)
        self.recent = deque([1.0, 2.0])
        self.by_name = {"mean": torch.zeros(2), 3: "three"}
        self.slots, self.pair, self.generator = Holder(), (1, np.arange(3)), np.random.default_rng(0)
        self.counter, self.names = itertools.count(), {"b", "a"}
        self.myself = self


CHANGES: dict[str, Any] = {
    "thing.schedule.count": lambda thing: thing.schedule(0),
    "thing.recent[0]": lambda thing: thing.recent.rotate(),
    "thing.by_name.mean": lambda thing: thing.by_name["mean"].add_(1),
    "thing.slots.inside[1]": lambda thing: thing.slots.inside.__setitem__(1, 0.0),
    "thing.pair[1]": lambda thing: thing.pair[1].fill(7),
    "thing.generator": lambda thing: thing.generator.random(),
    "thing.counter": lambda thing: next(thing.counter),
    "thing.names": lambda thing: thing.names.add("c"),
    "thing.net.weight": lambda thing: thing.net.weight.data.mul_(2),
    "thing.net.training": lambda thing: thing.net.eval(),
    "thing.late": lambda thing: setattr(thing, "late", 1),
}


@pytest.mark.parametrize("path", CHANGES)
def test_whatever_changes_is_found_by_name(path: str) -> None:
    thing = Everything()
    before = Contents(thing, "thing").frozen()
    assert difference(before, Contents(thing, "thing").frozen()) is None
    CHANGES[path](thing)
    assert difference(before, Contents(thing, "thing").frozen()) == path


def test_contents_are_put_back() -> None:
    thing = Everything()
    contents = Contents(thing, "thing")
    before = contents.frozen()
    thing.schedule(0)
    thing.recent[0], thing.slots.inside[0] = 9.0, 9
    thing.by_name["mean"].add_(1)
    put(contents.leaves, before)
    assert difference(before, Contents(thing, "thing").frozen()) is None


def test_differences_are_relative_to_the_numbers() -> None:
    assert apart(torch.full((4,), 2.0), torch.full((4,), 2.2)) == pytest.approx(0.2 / 2.2, rel=1e-6)
    assert apart(100.0, 101.0) == pytest.approx(1 / 101)
    assert apart(1e-9, 2e-9) == pytest.approx(1e-6)
    assert apart(np.zeros(2), np.zeros(3)) == apart("a", "b") == apart(None, 1.0) == float("inf")
    assert apart(float("nan"), float("nan")) == 0.0
    assert farthest({"a": 1.0, "b": 1.0}, {"a": 1.1, "b": 3.0}) == (pytest.approx(2 / 3), "b")


def test_a_short_training_is_what_a_run_is() -> None:
    """The same seeds as `start`, so that what is checked is what trains."""
    one, two = (Training(short(faulty.Small(env="CartPole-v1"))).train(3) for _ in range(2))
    assert difference(one.everything(), two.everything()) is None
    assert one.updates == 3


# Workers


@pytest.mark.slow
def test_a_recipe_from_a_file_passes_with_workers(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[2] / "examples/my_paper.py:MyRecipe"
    assert main(["check", str(recipe), "--quick", "--actors", "2", "--set", "tau=0.1", "--set", "widths=16,16"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "workers, in lockstep = one process pass 2 built their part and ended" in said
    assert " 0 failed" in said


@pytest.mark.slow
def test_what_a_worker_does_otherwise_is_found() -> None:
    passed, sentence = workers_agree(faulty.SeededByProcess(workers=1), 8)
    assert passed is False
    assert " with 1 worker, and " in sentence
    passed, sentence = workers_agree(prl.recipes.ApexDQN(workers=1, noisy=True, widths=(8,), num_envs=2), 8)
    assert passed is True
    assert "acting draws from torch's generator" in sentence
    assert "not compared" in sentence


def test_without_workers_the_row_does_not_apply() -> None:
    class Inside(faulty.Small):
        pass

    for recipe in (faulty.Small(), prl.recipes.PPO()):
        assert workers_agree(recipe, 8) == (None, "no workers act (--actors N)")
    with pytest.raises(prl.ProtoRLError, match="2 workers cannot find the recipe: Inside does not stand by itself in a file"):
        workers_agree(Inside(workers=2), 8)
