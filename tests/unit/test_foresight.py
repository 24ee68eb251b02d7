"""What is said of a training before it begins: the plan is what happens, and what cannot learn is refused or warned of."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protorl as prl
from protorl.cli import main
from protorl.data import ActionSpec, ArraySpec, EnvSpec, TeamSpec
from protorl.recipes import RECIPES
from protorl.recipes.foresight import foresee, plan, warnings
from protorl.recipes.saved import resume
from tests.contract import cases

BOX = ActionSpec("box", (2,), np.dtype(np.float32), low=np.full(2, -2.0), high=np.full(2, 2.0))
CHOICE = ActionSpec("discrete", (), np.dtype(np.int64), n=3)
FRAMES = ArraySpec((4, 84, 84), np.dtype(np.uint8), frame_stack=4)


def spec_of(recipe: Any, obs: ArraySpec | None = None) -> EnvSpec:
    vector = ArraySpec((3,), np.dtype(np.float32))
    action = BOX if recipe.actions == ("box",) else CHOICE
    if recipe.as_teams:
        team, each = TeamSpec(("a", "b"), (0, 0), (1, 1), action, lanes=False), (2, *vector.shape)
        flags = ArraySpec((2,), np.dtype(np.uint8))
        joint = {"obs": dataclasses.replace(vector, shape=each), "alive": flags, "state": vector}
        action = dataclasses.replace(action, shape=(2, *action.shape))
        return EnvSpec("any", joint, action, recipe.num_envs, team=team)
    return EnvSpec("any", vector if obs is None else obs, action, recipe.num_envs)


def said_of(recipe: Any, obs: ArraySpec | None = None) -> str:
    """Everything that is said of a training, before it begins; nothing large is built for it."""
    spec, sizes = spec_of(recipe, obs), {"base": "mlp", "widths": (2, 2)}
    if hasattr(recipe, "capacity"):
        sizes["capacity"] = (recipe.batch_size + 200) * getattr(recipe, "period", 1)
    small = dataclasses.replace(recipe, **sizes)
    agent = small.build_agent(spec)
    return "\n".join(warnings(recipe, agent, plan(recipe, small.memory(agent, spec)), spec))


def blocks() -> list[Any]:
    """Every recipe with every block of its presets, once, and without any."""
    found = []
    for cls in RECIPES.values():
        tables: list[Any] = []
        for pattern, values in {"Nobody-v0": {}, **cls.presets}.items():
            if values not in tables:
                tables.append(values)
                env, _, protocol = pattern.replace("*", "x").partition("@")
                found.append(pytest.param(cls, env, protocol, id=f"{cls.name}-{pattern}"))
    return found


@pytest.mark.parametrize(("cls", "env", "protocol"), blocks())
def test_nothing_is_said_of_our_own_numbers(cls: Any, env: str, protocol: str) -> None:
    recipe = cls(env=env, **({"protocol": protocol} if protocol else {}))
    image = FRAMES if "ALE" in env else ArraySpec((4, 10, 10), np.dtype(np.uint8)) if "MinAtar" in env else None
    assert said_of(recipe, image) == ""


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("steps", [31, 40, 131])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_plan_is_what_happens(name: str, steps: int, num_envs: int) -> None:
    longer = {"env": "protorl/TeamTimeLimit-v0"} if RECIPES[name].as_teams else {}
    recipe = cases.small(name, steps=steps, num_envs=num_envs, **longer)
    with closing(recipe.make_env()) as env:
        agent, memory, actors = recipe.assemble(env)
        expected = plan(recipe, memory)
        monitor = prl.Monitor()
        prl.train(agent, memory, actors, steps=steps, monitor=monitor)
        if isinstance(memory.view, prl.Sequence):  # of short episodes the first sequences come earlier
            assert abs(expected.updates - monitor.updates) <= 2
        else:
            assert expected.updates == monitor.updates
        assert (expected.updates > 0) == (expected.first <= monitor.steps)
        if not expected.updates:
            with pytest.raises(
                prl.ProtoRLError, match=f"nothing would be learned in {steps} steps: the first update comes with"
            ):
                foresee(recipe, agent, memory, env.spec)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("sac", {"steps": 10_050}, "only 50 updates come in 10,050 steps, the first with step 10,001 (warmup_steps 10,000)"),
        ("dqn", {"steps": 300, "warmup_steps": 9}, "first with step 128 (batch_size 128, update_every 4)"),
        ("ppo", {"steps": 5_000}, "only 640 updates in 2 bursts come in 5,000 steps, the first with step 2,048 (rollout_steps"),
        ("dqn", {"steps": 5_000}, "epsilon falls to 0.53 and not to 0.05: epsilon_steps 10,000 exceeds the 5,000 steps"),
        ("dqn", {"steps": 2_000, "target_every": 251}, "never follows: target_every 251 exceeds the 250 updates that 2,000"),
        ("td3", {"steps": 5_000, "delay": 4_001}, "the actor never learns: delay 4,001 exceeds the 4,000 updates"),
        ("td3", {"steps": 4_999}, "no evaluation comes before the last step: eval_every 5,000 exceeds the 4,999 steps"),
        ("dqn", {"capacity": 1_000_000}, "the memory never fills: capacity 1,000,000 takes 7.1 GB, of which 50,000 steps use"),
    ],
)
def test_what_never_happens_is_said_with_its_numbers(name: str, fields: dict[str, Any], message: str) -> None:
    recipe = RECIPES[name](env="Nobody-v0", **fields)
    assert message in said_of(recipe, FRAMES if "capacity" in fields else None)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dqn", {"steps": 5_000, "epsilon_start": 0.0, "epsilon_end": 0.0}),
        ("td3", {"steps": 5_000, "eval_every": 0}),
        ("dqn", {"steps": 60_000, "capacity": 1_000_000}),
        ("dqn", {"steps": 9_500}),
    ],
)
def test_what_was_meant_is_not_warned_of(name: str, fields: dict[str, Any]) -> None:
    assert said_of(RECIPES[name](env="Nobody-v0", **fields)) == ""


def test_a_training_that_learns_nothing_is_refused_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--seeds", "2")):
        words = ["train", "dqn", "--steps", "900", "--run-dir", str(tmp_path / "run"), *more]
        assert main(words) == 1
        assert capsys.readouterr().err == (
            "error: nothing would be learned in 900 steps: the first update comes with step 1,024 "
            "(warmup_steps 1,000, update_every 256): use more --steps, or lower what it waits for\n"
        )
        assert not list(tmp_path.iterdir())


def test_warnings_come_before_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = cases.small("dqn", steps=60, eval_every=100)
    recipe.run(tmp_path / "run")
    said = capsys.readouterr().out
    assert said.index("warning: only 7 updates come in 60 steps") < said.index("60/60 steps")
    assert "warning: no evaluation comes before the last step" in said
    resume(tmp_path / "run", steps=70)
    assert "warning:" not in capsys.readouterr().out
