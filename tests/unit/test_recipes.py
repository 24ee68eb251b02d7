"""Recipes: presets, what a person sets, what is refused, and how a recipe is found."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.data import ActionSpec, ArraySpec, EnvSpec
from protorl.recipes import RECIPES, measure, presets
from protorl.recipes.config import described, fields_of, record, reference
from protorl.recipes.fields import NOT_OF_PAPERS, parse_settings, table
from protorl.recipes.find import find_recipe
from protorl.recipes.presets import preset
from protorl.recipes.recipe import default_of
from protorl.recipes.saved import load, read_recipe
from protorl.recipes.start import placed, start
from protorl.runs.folder import create_folder
from protorl.runs.metrics import read_metrics

IMAGE = EnvSpec(
    "image",
    ArraySpec((4, 84, 84), np.dtype(np.uint8), frame_stack=4),
    ActionSpec("discrete", (), np.dtype(np.int64), n=6),
    num_envs=8,
)

VECTOR = EnvSpec(
    "vector",
    ArraySpec((3,), np.dtype(np.float32)),
    ActionSpec("box", (2,), np.dtype(np.float32), low=np.full(2, -2.0), high=np.full(2, 2.0)),
    num_envs=2,
)


class Mine(prl.recipes.DQN):
    """A recipe of a user's own, with defaults of its own."""

    lr: float = prl.hp(1e-4, "learning rate", low=0.0)
    gamma: float = 0.5
    extra: int = prl.hp(3, "something new", low=1)


class Grandchild(Mine):
    batch_size: int = 7


# Presets


def asked_for(pattern: str) -> dict[str, Any]:
    """Fields of a recipe that its table's `pattern` fits: "ALE/*@machado" is an environment and a protocol."""
    env, at, protocol = pattern.replace("*", "x").partition("@")
    return {"env": env, "protocol": protocol} if at else {"env": env}


def defaults(cls: Any) -> dict[str, Any]:
    return {field.name: default_of(field) for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("cls", RECIPES.values())
def test_the_environment_chooses_the_preset(cls: Any) -> None:
    fields = {field.name for field in dataclasses.fields(cls)}
    for pattern, values in cls.presets.items():
        assert set(values) <= fields, pattern  # a misspelt name would be silently without effect
        recipe = cls(**asked_for(pattern))
        assert {name: getattr(recipe, name) for name in values} == values


@pytest.mark.parametrize("cls", RECIPES.values())
def test_presets_can_be_trained(cls: Any) -> None:
    for pattern in cls.presets:
        recipe = cls(**asked_for(pattern))
        if cls is prl.recipes.PPO:
            assert recipe.batch_size * recipe.minibatches(dataclasses.replace(VECTOR, num_envs=recipe.num_envs)) <= recipe.steps
        else:
            assert recipe.batch_size <= recipe.capacity
            assert recipe.warmup_steps < recipe.steps
            assert recipe.warmup_steps < recipe.capacity


def test_numbers_of_the_papers() -> None:
    """Lillicrap et al. 2016, section 7; Fujimoto et al. 2018, table 3 of the supplement; Haarnoja et al. 2018, table 1."""
    names = ("lr", "actor_lr", "weight_decay", "gamma", "tau", "widths", "batch_size", "capacity", "critics")
    expected = {
        "ddpg": (1e-3, 1e-4, 1e-2, 0.99, 0.001, (400, 300), 64, 1_000_000, 1),
        "td3": (1e-3, None, 0.0, 0.99, 0.005, (400, 300), 100, 1_000_000, 2),
        "sac": (3e-4, None, 0.0, 0.99, 0.005, (256, 256), 256, 1_000_000, 2),
    }
    for name, values in expected.items():
        recipe = RECIPES[name](env="Nobody-v0")
        assert tuple(getattr(recipe, field) for field in names) == values
    ddpg, td3, sac = prl.recipes.DDPG(), prl.recipes.TD3(), prl.recipes.SAC()
    assert (ddpg.noise, ddpg.noise_std, ddpg.noise_theta, ddpg.final_bound, ddpg.action_layer) == ("ou", 0.2, 0.15, 3e-3, 2)
    assert (td3.noise, td3.noise_std, td3.final_bound, td3.action_layer) == ("gaussian", 0.1, None, 1)
    assert (td3.delay, td3.target_noise, td3.noise_clip) == (2, 0.2, 0.5)
    assert (sac.alpha, sac.alpha_lr, sac.target_entropy) == (1.0, 3e-4, None)


@pytest.mark.parametrize(("env", "steps"), [("HalfCheetah-v5", 10_000), ("Ant-v4", 10_000), ("Hopper-v5", 1_000)])
def test_td3_begins_with_as_many_random_actions_as_in_the_paper(env: str, steps: int) -> None:
    assert prl.recipes.TD3(env=env).warmup_steps == steps


@pytest.mark.parametrize("name", ["ppo", "ddpg", "td3", "sac"])
def test_the_continuous_lander_is_known_by_either_name(name: str) -> None:
    cls = RECIPES[name]
    one = cls(env="LunarLanderContinuous-v3")
    other = cls(env="LunarLander-v3", env_kwargs={"continuous": True})
    assert dataclasses.replace(other, env=one.env, env_kwargs={}) == one
    assert one != cls(**{name: value for name, value in defaults(cls).items() if name != "env"}, env=one.env)


def test_slow_noise_of_the_mountain_car_is_theirs() -> None:
    """Theirs: x + theta (0 - x) dt + sigma sqrt(dt) e, with sigma 0.5, theta 0.15, dt 0.01."""
    for cls in (prl.recipes.DDPG, prl.recipes.TD3):
        recipe = cls(env="MountainCarContinuous-v0")
        assert recipe.noise == "ou"
        assert recipe.noise_std == pytest.approx(0.5 * 0.01**0.5)
        assert recipe.noise_theta == pytest.approx(0.15 * 0.01)


def test_a_family_of_environments_has_a_preset_and_strangers_have_none() -> None:
    nature = prl.recipes.DQN(env="ALE/Pong-v5")
    frames_per_copy = nature.target_every * nature.update_every * 4 / nature.updates
    assert (frames_per_copy, nature.capacity, nature.optimizer) == (40_000, 1_000_000, "rmsprop")
    assert nature.steps * 4 == 200_000_000
    stranger = prl.recipes.DQN(env="Nobody-v0")
    assert dataclasses.asdict(stranger) == {**defaults(prl.recipes.DQN), "env": "Nobody-v0"}
    assert preset({"A/*": {"lr": 1}, "A/b": {"lr": 2}}, "A/b") == {"lr": 2}
    assert preset({"A/*": {"lr": 1}}, "B/a") == {}


def test_a_protocol_has_numbers_of_its_own() -> None:
    """In frames, as the authors' own files have them: dqn_zoo's run_atari.py and Dopamine's dqn.gin."""
    frames = {}
    for protocol in (None, "nature", "machado"):
        for id in ("ALE/Pong-v5", "PongNoFrameskip-v4"):
            r = prl.recipes.DQN(env=id) if protocol is None else prl.recipes.DQN(env=id, protocol=protocol)
            numbers = {
                "protocol": r.protocol, "target": 4 * r.target_every * r.update_every, "start": 4 * r.warmup_steps,
                "exploration": 4 * r.epsilon_steps, "epsilon": r.epsilon_end, "kappa": r.kappa, "optimizer": r.optimizer,
                "lr": r.lr, "budget": 4 * r.steps, "learn": 4 * r.update_every,
            }  # fmt: skip
            assert frames.setdefault(protocol, numbers) == numbers
    common = {"budget": 200_000_000, "learn": 16}
    assert frames[None] == frames["nature"] == {
        "protocol": "nature", "target": 40_000, "start": 200_000, "exploration": 4_000_000, "epsilon": 0.1, "kappa": 1.0,
        "optimizer": "rmsprop", "lr": 2.5e-4, **common,
    }  # fmt: skip
    assert frames["machado"] == {
        "protocol": "machado", "target": 32_000, "start": 80_000, "exploration": 1_000_000, "epsilon": 0.01,
        "kappa": float("inf"), "optimizer": "adam", "lr": 6.25e-5, **common,
    }  # fmt: skip


def test_the_variants_of_dqn_differ_as_their_papers_do() -> None:
    nature, double, d3qn = (preset(table, "ALE/Pong-v5") for table in (presets.DQN, presets.DOUBLE_DQN, presets.D3QN))
    assert {k: double[k] for k in double if double[k] != nature[k]} == {
        "target_every": 7_500,
        "epsilon_end": 0.01,
        "eval_epsilon": 0.01,
    }
    assert {k: d3qn[k] for k in d3qn if d3qn[k] != double[k]} == {"max_grad_norm": 10.0}
    sticky = [preset(table, "ALE/Pong-v5", "machado") for table in (presets.DQN, presets.DOUBLE_DQN, presets.D3QN)]
    assert sticky[0] == sticky[1] == sticky[2] == presets.DOPAMINE_DQN
    agents: list[Any] = [
        prl.recipes.DQN(env="ALE/Pong-v5", protocol=p, threads=1).build_agent(IMAGE) for p in ("nature", "machado")
    ]
    for agent, after, steps in zip(agents, (0, 20_000), (1_000_000, 250_000)):  # in Dopamine exploration waits
        epsilon = agent.policy.schedule
        assert epsilon(after) == 1.0 > epsilon(after + 1)
        assert epsilon(after + steps) == epsilon.end < epsilon(after + steps - 1)
    biased = [bool(agent.network.head.layers[0].bias.any()) for agent in agents]
    assert biased == [True, False]  # Dopamine's networks begin with zero biases


@pytest.mark.parametrize("base", ["auto", "mlp"])
def test_on_images_dueling_streams_begin_after_the_convolutions(base: str) -> None:
    head = prl.recipes.D3QN(env="ALE/Pong-v5", base=base).network(IMAGE).head
    assert isinstance(head, prl.DuelingHead)
    streams = [[tuple(p.shape) for p in stream.parameters() if p.ndim == 2] for stream in (head.value, head.advantage)]
    if base == "auto":
        assert streams == [[(512, 3136), (1, 512)], [(512, 3136), (6, 512)]]
        assert head.base_gradient == pytest.approx(1 / 2**0.5)
    else:
        assert (streams, head.base_gradient) == ([[(1, 256)], [(6, 256)]], 1.0)


def test_dopamines_distributional_agents_differ_from_its_dqn_as_its_files_say() -> None:
    """Its quantile.gin, implicit_quantile.gin and networks.py; importance weights do not reach the gradient there."""
    dqn, qr, iqn = (preset(table, "ALE/Pong-v5", "machado") for table in (presets.DQN, presets.QR_DQN, presets.IQN))
    own: dict[str, object] = {"lr": 5e-5, "optimizer_eps": 0.0003125, "init": "dopamine", "n_step": 3}
    by_loss = {"quantiles": 200, "per_alpha": 0.5, "per_beta": 0.0, "per_beta_end": 0.0, "priority": "loss"}
    assert {k: v for k, v in iqn.items() if dqn.get(k) != v} == own
    assert {k: v for k, v in qr.items() if dqn.get(k) != v} == own | by_loss
    recipe = prl.recipes.QRDQN(env="ALE/Pong-v5", protocol="machado", capacity=100, threads=1)
    agent: Any = recipe.build_agent(IMAGE)
    assert agent.priority == "loss"
    sampler: Any = recipe.memory(agent, IMAGE).sampler
    assert (sampler.alpha, sampler.beta(0), sampler.beta(recipe.steps)) == (0.5, 0.0, 0.0)


def test_the_importance_exponent_goes_from_its_start_to_its_end() -> None:
    for ends, expected in (({}, (0.4, 0.7, 1.0)), ({"per_beta": 0.5, "per_beta_end": 0.5}, (0.5, 0.5, 0.5))):
        recipe = prl.recipes.SAC(steps=1_000, capacity=300, per_alpha=0.6, **ends)
        sampler: Any = recipe.memory(recipe.build_agent(VECTOR), VECTOR).sampler
        assert tuple(sampler.beta(step) for step in (0, 500, 1_000)) == pytest.approx(expected)


def test_a_protocol_without_numbers_of_its_own_takes_the_plain_ones() -> None:
    table = {"A/*": {"lr": 1}, "A/*@x": {"lr": 2}, "A/b": {"lr": 3}}
    found = [preset(table, env, protocol)["lr"] for env in ("A/a", "A/b") for protocol in (None, "x", "y")]
    assert found == [1, 2, 1, 3, 2, 3]
    given, plain = prl.recipes.PPO(env="ALE/Pong-v5", protocol="machado"), prl.recipes.PPO(env="ALE/Pong-v5")
    assert (given.protocol, plain.protocol) == ("machado", "nature")
    assert dataclasses.replace(given, protocol="nature") == plain
    assert presets.tuned_for({"ALE/*": {}, "ALE/*@machado": {}, "C-v1": {}}) == "Atari, C-v1"


def test_a_users_class_chooses_its_protocol() -> None:
    class Sticky(prl.recipes.DQN):
        protocol = "machado"

    assert (Sticky(env="ALE/Pong-v5").lr, Sticky(env="ALE/Pong-v5", protocol="nature").lr) == (6.25e-5, 2.5e-4)
    assert Sticky(env="ALE/Pong-v5", lr=0.5).lr == 0.5


def test_the_command_line_names_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    from protorl.cli.commands import build_recipe
    from protorl.cli.parse import parse

    words = ["train", "dqn", "--env", "ALE/Pong-v5", "--protocol", "machado", "--set", "gamma=0.5"]
    recipe = build_recipe(parse(words))
    assert (recipe.protocol, recipe.epsilon_steps, recipe.gamma) == ("machado", 250_000, 0.5)
    assert build_recipe(parse([*words, "--set", "protocol=nature"])).epsilon_steps == 1_000_000
    with pytest.raises(SystemExit):
        parse(["train", "--help"])
    assert "--protocol" in capsys.readouterr().out


def test_a_recipe_without_a_name_is_called_as_its_class_is() -> None:
    class MyQRPaper2(prl.recipes.DQN):
        pass

    class Named(MyQRPaper2):
        name = "mellowmax"

    assert (MyQRPaper2.name, Named.name, prl.recipes.DQN.name) == ("my-qr-paper2", "mellowmax", "dqn")


def test_what_is_given_beats_the_preset() -> None:
    recipe = prl.recipes.DQN(env="CartPole-v1", lr=0.5, target_every=3)
    assert (recipe.lr, recipe.target_every, recipe.batch_size) == (0.5, 3, 64)


def test_a_users_class_beats_the_preset_and_an_argument_beats_the_class() -> None:
    assert (Mine().lr, Mine().gamma, Mine().batch_size, Mine().extra) == (1e-4, 0.5, 64, 3)
    assert Mine(lr=0.2).lr == 0.2
    assert (Grandchild().lr, Grandchild().batch_size, Grandchild().target_every) == (1e-4, 7, 128)


def test_a_default_written_without_a_type_counts_or_is_refused() -> None:
    try:

        class Untyped(prl.recipes.DQN):
            lr = 1e-4

    except prl.ProtoRLError as error:
        assert "lr" in str(error)  # noqa: PT017 - either way is good
        return
    assert Untyped(env="CartPole-v1").lr == Untyped(env="Nobody-v0").lr == 1e-4


def test_replacing_a_field_keeps_the_others() -> None:
    recipe = prl.recipes.DQN(env="CartPole-v1", lr=0.5)
    longer = dataclasses.replace(recipe, steps=7)
    assert dataclasses.asdict(longer) == {**dataclasses.asdict(recipe), "steps": 7}
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0  # type: ignore[misc]


# What a person types


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("lr=1e-3", 1e-3),
        ("lr=1", 1.0),
        ("capacity=1e5", 100_000),
        ("capacity=10_000", 10_000),
        ("capacity=100k", 100_000),
        ("wrappers=a:A,b:B(1, x=[2, 3])", ("a:A", "b:B(1, x=[2, 3])")),
        ("wrappers=", ()),
        ("batch-size = 32", 32),
        ("widths=64,32", (64, 32)),
        ("widths=64", (64,)),
        ("widths=[64]", (64,)),
        ("noisy=true", True),
        ("noisy=False", False),
        ("max_grad_norm=none", None),
        ("n-step=3", 3),
        ("kappa=inf", float("inf")),
        ("clip_reward=1", 1.0),
        ("protocol=machado", "machado"),
        ("protocol=none", None),
        ("env=1", "1"),
        ("env_kwargs={'a': 1}", {"a": 1}),
    ],
)
def test_settings_become_the_fields_type(setting: str, expected: Any) -> None:
    (parsed,) = parse_settings(prl.recipes.DQN, [setting]).values()
    assert parsed == expected
    assert type(parsed) is type(expected)


def test_a_field_of_names_may_be_given_several_times() -> None:
    assert parse_settings(prl.recipes.DQN, ["wrappers=a:A,b:B", "lr=1", "wrappers=c:C"])["wrappers"] == ("a:A", "b:B", "c:C")
    assert parse_settings(prl.recipes.DQN, ["widths=3", "widths=4"])["widths"] == (4,)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lerning_rate=1", "'lerning_rate' is no field of this recipe: did you mean 'lr'?"),
        ("xyzzy=1", "'xyzzy' is no field .* its fields are .*lr"),
        ("bach_size=1", "did you mean 'batch_size'"),
        ("lr", "'lr' is not key=value"),
        ("lr=fast", "lr 'fast' has the wrong type: it must be float"),
        ("batch_size=2.5", "batch_size 2.5 has the wrong type: it must be int"),
        ("noisy=1", "noisy 1 has the wrong type: it must be bool"),
        ("batch_size=true", "batch_size True has the wrong type"),
        ("widths=a,b", "widths 'a,b' has the wrong type|widths 'a' has the wrong type"),
        ("capacity=none", "capacity None has the wrong type"),
        ("lr=nan", "lr 'nan' has the wrong type|lr nan"),
    ],
)
def test_settings_that_cannot_be_get_one_sentence(setting: str, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message) as caught:
        parse_settings(prl.recipes.DQN, [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gamma": 1.5}, r"gamma 1.5 is out of range: it must be in \[0.0, 1.0\]"),
        ({"batch_size": 0}, "batch_size 0 is out of range: it must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps -1 .* at least 0 agent steps"),
        ({"widths": (8, 0)}, "widths 0 is out of range"),
        ({"head": "duelling"}, "head 'duelling' is unknown: choose one of q, dueling"),
        ({"munchausen_low": 1.0}, "munchausen_low 1.0 .* at most 0.0"),
        ({"learning_rate": 1.0}, "'learning_rate' is no field of this recipe: did you mean 'lr'?"),
        ({"lr": float("nan")}, "lr nan has the wrong type"),
    ],
)
def test_values_out_of_range_get_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message) as caught:
        prl.recipes.MunchausenDQN(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(Optional[float], None, "x"), (float | None, None, "x"), (Literal["a", "b"], "a", "c")],  # noqa: UP045 - as people write it
)
def test_the_usual_ways_to_write_a_type_work_in_a_users_recipe(kind: Any, good: Any, bad: Any) -> None:
    body = {"__annotations__": {"z": kind}, "z": prl.hp(good, "a field"), "__module__": __name__}
    cls: Any = type("Typed", (prl.recipes.DQN,), body)
    assert cls().z == good
    with pytest.raises(prl.ProtoRLError, match=rf"z '{bad}'"):
        cls(z=bad)


@pytest.mark.parametrize("cls", RECIPES.values())
def test_every_field_is_documented_and_every_recipe_cites_its_paper(cls: Any) -> None:
    for name, _, text in table(cls()):
        assert len(text) > 10, name
    for field in dataclasses.fields(cls):
        assert field.metadata.get("help"), field.name
        if field.name.endswith(("_every", "_steps")) or field.name in ("capacity", "steps"):
            assert field.metadata["unit"] or field.name == "steps", field.name
    assert cls.paper
    assert cls.__doc__
    assert RECIPES[cls.name] is cls


@pytest.mark.parametrize("cls", RECIPES.values())
def test_help_quotes_the_recipes_own_paper(cls: Any) -> None:
    """What is said to be the paper's is in the preset with the paper's numbers, where there is one; DQN's numbers are DQN's."""
    block = cls.presets.get(cls.paper_preset, {})
    quoted = {name: text.rpartition("; paper: ")[2] for name, _, text in table(cls()) if "; paper: " in text}
    compared = 0
    for name, text in quoted.items():
        number = text.partition("(")[0].replace(" ", "").replace("none", "nan")
        value = float("nan") if block.get(name, "") is None else block.get(name)
        if isinstance(value, int | float) and re.fullmatch(r"nan|[-+.e0-9]+", number):
            assert float(number) == pytest.approx(float(value), rel=1e-3, nan_ok=True), name
            compared += 1
    assert quoted
    assert compared > 8 or not block
    assert block.keys() - NOT_OF_PAPERS <= quoted.keys()
    assert cls in (prl.recipes.PPO, prl.recipes.DQN) or not any("paper: DQN" in text for _, _, text in table(cls()))


def test_help_names_the_paper_that_a_number_was_inherited_from() -> None:
    class Own(prl.recipes.DQN):
        name = "own"
        paper = "tonight's"
        lr = 1e-4
        omega: float = prl.hp(1.0, "of this paper", paper="3")

    class Fresh(prl.recipes.OffPolicy):
        name = "fresh"

    said = {name: text for name, _, text in table(Own())}
    assert said["omega"] == "of this paper; paper: 3"
    assert said["lr"] == "learning rate; dqn: 2.5e-4"
    assert said["gamma"] == "discount per agent step"
    assert not any("paper:" in text for _, _, text in table(Fresh()))
    double = {name: text for name, _, text in table(prl.recipes.DoubleDQN())}
    assert double["target_every"].endswith("; paper: 7 500")
    assert double["head"].endswith("; dqn: q")


# Finding one


OWN = """
import protorl as prl

class Own(prl.recipes.DQN):
    '''Mine.'''
    lr: float = 0.125

not_a_recipe = 3
"""


def test_a_recipe_is_found_by_name_file_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_recipe("d3qn") is prl.recipes.D3QN
    file = tmp_path / "own_paper.py"
    file.write_text(textwrap.dedent(OWN))
    by_file = find_recipe(f"{file}:Own")
    assert by_file().lr == 0.125
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "paper.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    by_module = find_recipe("own_package.paper:Own")
    assert by_module().lr == 0.125
    monkeypatch.chdir(tmp_path)
    by_relative_file = find_recipe("own_paper.py:Own")
    for cls in (by_module, by_relative_file):  # found again from anywhere, as a resumed run must
        found = reference(cls())
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            again = find_recipe(found)
        assert (again.__name__, again().lr) == ("Own", 0.125)


def test_a_recipe_of_a_users_file_is_rebuilt_in_another_process(tmp_path: Path) -> None:
    for folder, lr in (("one", 0.125), ("two", 0.25)):  # two files of one name are told apart
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own_paper.py").write_text(OWN.replace("0.125", str(lr)))
    recipes = [find_recipe(f"{tmp_path / folder}/own_paper.py:Own")(gamma=0.5, widths=(3, 4)) for folder in ("one", "two")]
    recipes.append(prl.recipes.PPO(env="Pendulum-v1", distribution="beta"))
    code = """
import json, sys
from protorl.recipes.find import fields_of, rebuild, reference

for name, fields in json.loads(sys.argv[1]):
    recipe = rebuild(name, fields)
    print(json.dumps([reference(recipe), fields_of(recipe)]))
"""
    sent = [[reference(recipe), fields_of(recipe)] for recipe in recipes]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(sent)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == json.loads(json.dumps(sent))
    assert [fields["lr"] for _, fields in sent[:2]] == [0.125, 0.25]
    assert sent[2][0] == "ppo"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dqm", "recipe 'dqm' is unknown: did you mean dqn, or your own as my_paper.py:MyRecipe"),
        ("a2c", "recipe 'a2c' is unknown: choose one of dqn, .*my_paper.py:MyRecipe"),
        ("nowhere.py:Own", "there is no file nowhere.py"),
        ("no_such_package:Own", "module 'no_such_package' of recipe .* cannot be imported"),
        ("json:Own", "json has no recipe class 'Own'"),
        ("json:JSONDecoder", "json has no recipe class 'JSONDecoder'"),
    ],
)
def test_a_recipe_that_is_not_there_gets_one_sentence(name: str, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message):
        find_recipe(name)


@pytest.mark.parametrize("cls", RECIPES.values())
def test_the_config_brings_every_field_back(cls: Any, tmp_path: Path) -> None:
    recipe = cls(env="CartPole-v1", lr=0.5, clip_reward=float("inf"), widths=(3, 4), env_kwargs={"sutton_barto_reward": True})
    create_folder(tmp_path / "run", described(recipe))
    assert read_recipe(tmp_path / "run") == recipe
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == cls.name


def test_a_users_default_may_be_a_list_or_a_dict() -> None:
    class Own(prl.recipes.DQN):
        widths = [8, 4]
        env_kwargs = {"sutton_barto_reward": True}

    one, two = Own(), Own()
    assert one.widths == (8, 4)
    assert one.env_kwargs == {"sutton_barto_reward": True}
    assert one.env_kwargs is not two.env_kwargs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"render_mode": "human"}, "env_kwargs may not have render_mode"),
        ({"seed": 3}, "env_kwargs may not have seed"),
    ],
)
def test_what_a_recipe_tells_its_environments_itself_is_no_env_kwarg(options: Any, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message):
        prl.recipes.DQN(env_kwargs=options)


# What it builds


def test_threads_of_one_recipe_do_not_stay_for_the_next() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        prl.recipes.DQN(env="ALE/Pong-v5", device="cpu").build_agent(IMAGE)
        assert torch.get_num_threads() == 3
        prl.recipes.DQN().build()
        assert torch.get_num_threads() == 1
        assert prl.recipes.DQN(env="ALE/Pong-v5").resolve_threads(IMAGE) == 3
        torch.set_num_threads(2)
        assert prl.recipes.DQN(env="ALE/Pong-v5").resolve_threads(IMAGE) == 2
    finally:
        torch.set_num_threads(before)


def test_images_get_the_nature_network_and_its_optimizer() -> None:
    recipe = prl.recipes.DQN(env="ALE/Pong-v5", device="cpu", threads=1)
    agent: Any = recipe.build_agent(IMAGE)
    assert type(agent.network.base) is prl.NatureCNN
    assert type(agent.optimizer) is prl.RMSProp
    assert agent.target_every == 2_500


def test_fields_reach_the_parts() -> None:
    recipe = prl.recipes.D3QN(
        env="CartPole-v1", num_envs=2, widths=(5,), n_step=3, gamma=0.9, per_alpha=0.7, per_beta=0.5, clip_reward=2.0,
        capacity=100, batch_size=9, warmup_steps=11, update_every=3, updates=2, target_every=17, kappa=2.0, lr=0.25,
        max_grad_norm=1.5, epsilon_start=0.9, epsilon_end=0.2, epsilon_steps=70, steps=500,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    made: Any = agent
    assert type(agent) is prl.DoubleDQN
    assert isinstance(made.network.head, prl.DuelingHead)
    assert made.network.base.features == 5
    assert (made.target_every, made.kappa, float(made.optimizer.lr), made.optimizer.max_grad_norm) == (17, 2.0, 0.25, 1.5)
    assert (made.policy.schedule(0), made.policy.schedule(35), made.policy.schedule(70)) == pytest.approx((0.9, 0.55, 0.2))
    assert (memory.view.n, memory.view.gamma, memory.view.clip_reward) == (3, 0.9, 2.0)
    assert (memory.rate.start, memory.rate.every, memory.rate.updates, memory.batch_size) == (11, 3, 2, 9)
    sampler: Any = memory.sampler
    assert (sampler.alpha, sampler.beta(0), sampler.beta(500)) == (0.7, 0.5, 1.0)
    assert actors.env.num_envs == 2
    munchausen: Any = prl.recipes.MunchausenDQN(munchausen_alpha=0.3, munchausen_tau=0.2, munchausen_low=-3.0).build().agent
    assert (munchausen.alpha, munchausen.tau, munchausen.low) == (0.3, 0.2, -3.0)


def test_fields_reach_the_parts_of_td3_and_ddpg() -> None:
    fields: dict[str, Any] = {
        "widths": (5, 4), "lr": 0.25, "actor_lr": 0.125, "weight_decay": 0.5, "max_grad_norm": 1.5, "optimizer_eps": 0.01,
        "tau": 0.3, "critics": 3, "final_bound": 1e-4, "noise_std": 0.7, "warmup_steps": 11, "update_every": 3, "updates": 2,
        "n_step": 3, "gamma": 0.9, "per_alpha": 0.7, "capacity": 100, "batch_size": 9,
    }  # fmt: skip
    td3 = prl.recipes.TD3(**fields, delay=4, target_noise=0.6, noise_clip=0.8, noise="ou", noise_theta=0.4)
    made: Any = td3.build_agent(VECTOR)
    assert (made.tau, made.delay, made.target_noise, made.noise_clip) == (0.3, 4, 0.6, 0.8)
    assert (made.policy.steps, made.policy.policy.noise.std, made.policy.policy.noise.theta) == (11, 0.7, 0.4)
    for optimizer, lr, decay in ((made.actor_optimizer, 0.125, 0.0), (made.critic_optimizer, 0.25, 0.5)):
        assert (float(optimizer.lr), optimizer.weight_decay, optimizer.max_grad_norm, optimizer.eps) == (lr, decay, 1.5, 0.01)
    assert [tuple(p.shape) for p in made.critic.parameters()][::2] == [(3, 5, 5), (3, 5, 4), (3, 4, 1)]
    for last in (list(made.critic.parameters())[-2:], list(made.actor.parameters())[-2:]):
        assert all(0 < p.abs().max() <= 1e-4 for p in last)
    assert next(iter(made.actor.parameters())).abs().max() > 0.1
    memory = td3.memory(made, VECTOR)
    assert (memory.view.n, memory.view.gamma, memory.rate.start, memory.rate.every, memory.rate.updates) == (3, 0.9, 11, 3, 2)  # type: ignore[attr-defined]
    assert isinstance(memory.sampler, prl.Prioritized)
    ddpg: Any = prl.recipes.DDPG(widths=(5, 4)).build_agent(VECTOR)
    shapes = [tuple(p.shape) for p in ddpg.critic.parameters()]
    assert shapes == [(5, 3), (5,), (1, 5 + 2, 4), (1, 1, 4), (1, 4, 1), (1, 1, 1)]  # the action enters at the second layer
    assert type(ddpg.policy.policy.noise).__name__ == "OUNoise"


def test_fields_reach_the_parts_of_sac() -> None:
    recipe = prl.recipes.SAC(widths=(5,), lr=0.25, tau=0.3, alpha=0.5, alpha_lr=0.125, target_entropy=-0.7, warmup_steps=11)
    made: Any = recipe.build_agent(VECTOR)
    assert (made.tau, made.target_entropy, made.policy.steps) == (0.3, -0.7, 11)
    assert made.temperature.log_alpha.exp().item() == pytest.approx(0.5)
    for optimizer, lr in ((made.actor_optimizer, 0.25), (made.critic_optimizer, 0.25), (made.alpha_optimizer, 0.125)):
        assert float(optimizer.lr) == lr
    out = made.infer(np.zeros((2, 3), np.float32), False)
    assert out.mean.shape == out.log_std.shape == (2, 2)


def test_atari_metrics_count_frames_beside_steps(tmp_path: Path) -> None:
    pytest.importorskip("ale_py", reason='ale_py is not installed: pip install "protorl[atari]"')
    small: dict[str, Any] = {
        "steps": 40, "capacity": 60, "warmup_steps": 20, "base": "mlp", "widths": (2,), "log_every": 16, "eval_every": 0,
        "checkpoint_every": 0, "batch_size": 4, "num_envs": 2, "update_every": 4, "updates": 1,
    }  # fmt: skip
    prl.recipes.DQN(env="ALE/Pong-v5", **small).run(tmp_path / "pong", progress=False)
    metrics = read_metrics(tmp_path / "pong" / "metrics.csv")
    assert metrics["step"].tolist() == [16, 32, 40]
    assert metrics["frames"].tolist() == [64, 128, 160]
    prl.recipes.DQN(env="CartPole-v1", **small).run(tmp_path / "cartpole", progress=False)
    assert "frames" not in read_metrics(tmp_path / "cartpole" / "metrics.csv")


def test_initial_weights_follow_the_seed_alone() -> None:
    def weights(seed: int) -> Any:
        return prl.recipes.DQN(seed=seed, widths=(4,)).build().agent.state_dict()["network"]["base.layers.0.weight"]

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


# Where networks live, on a machine with a GPU (which is only pretended here: nothing is built on it)


@pytest.mark.parametrize(
    ("cls", "settings", "gpu", "device", "why"),
    [
        ("sac", {"env": "Pendulum-v1"}, 4.0, "cuda", "4.00 ms a step on the processor, 1.00 on the GPU"),
        ("sac", {"env": "Pendulum-v1"}, 1.1, "cpu", "1.10 ms a step on the processor, 1.00 on the GPU"),
        ("apex-dqn", {"workers": 2}, 4.0, "cuda", "learning takes 2.00 ms a step on the processor, 0.50 on the GPU"),
        ("dqn", {"env": "ALE/Pong-v5"}, None, "cuda", "images"),
        ("dqn", {"accelerate": "aot"}, None, "cpu", "where accelerate=aot works"),
        ("dqn", {"accelerate": "cudagraphs"}, None, "cuda", "where accelerate=cudagraphs works"),
    ],
)
def test_the_device_is_chosen_said_and_kept(
    cls: str,
    settings: dict[str, Any],
    gpu: float | None,
    device: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def speed(recipe: Any, mode: str, precision: str, window: float) -> dict[str, Any]:
        assert gpu is not None
        rate = 2_000 / (gpu if recipe.device == "cpu" else 1)
        return {"updates_per_step": 1.0, "updates_per_second": rate, "acts_per_second": rate}

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(measure, "learning_speed", speed)
    monkeypatch.setattr("protorl.runs.folder.hardware", dict)
    with caplog.at_level("INFO", logger="protorl"):
        recipe = RECIPES[cls](**settings)
        create_folder(tmp_path / "run", described(recipe))
        recipe = placed(recipe, tmp_path / "run")
    assert recipe.device == device
    assert f"device: {device} (" in caplog.text
    assert why in caplog.text
    assert read_recipe(tmp_path / "run") == recipe
    assert placed(recipe, tmp_path / "run") is recipe  # once is enough


def test_what_was_trained_on_a_gpu_can_be_evaluated_without_one(tmp_path: Path) -> None:
    recipe = prl.recipes.DQN(env="CartPole-v1", steps=200, warmup_steps=100, update_every=10, updates=1, eval_every=0)
    start(recipe, tmp_path / "run", progress=False)
    record(dataclasses.replace(recipe, device="cuda"), tmp_path / "run")
    trained = load(tmp_path / "run", "last")
    assert trained.agent.device.type == "cpu"
    trained.env.close()
