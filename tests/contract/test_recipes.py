"""What every recipe promises to whoever writes one: it builds what it is told, each method alone, and reads every field."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch

import protorl as prl
from protorl.recipes import RECIPES, Recipe
from protorl.recipes.recipe import default_of
from tests.contract.cases import settings, small

each_recipe = pytest.mark.parametrize("name", RECIPES)


def subclass(name: str, **body: Any) -> Any:
    return type("Own", (RECIPES[name],), {"__module__": __name__, **body})


def built(cls: Any, name: str, **fields: Any) -> Any:
    parts = cls(**settings(name, **fields)).build()
    parts.actors.close()
    return parts


# An agent of one's own


@each_recipe
def test_a_recipe_builds_the_agent_that_it_is_told_with_the_arguments_that_it_is_told(name: str) -> None:
    agent_class: Any = RECIPES[name].agent_class

    class Own(agent_class):
        def __init__(self, *args: Any, extra: int, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.extra = extra

    own = built(subclass(name, agent_class=Own, agent_arguments=lambda self: {"extra": 7}), name).agent
    plain = built(RECIPES[name], name).agent
    assert (type(own), own.extra) == (Own, 7)
    numbers = {key: value for key, value in vars(plain).items() if isinstance(value, int | float | str)}
    assert {key: vars(own)[key] for key in numbers} == numbers  # what the recipe's own fields say still counts
    assert all(torch.equal(a, b) for a, b in zip(own.network.parameters(), plain.network.parameters(), strict=True))


def test_arguments_of_ones_own_go_before_the_fields() -> None:
    own = subclass("td3", agent_arguments=lambda self: {"delay": 5})
    assert built(own, "td3", delay=3).agent.delay == 5


# Each method alone


class Marked:
    """What a user's method returned, seen again in what was built."""

    def __init__(self, cls: Any, method: str) -> None:
        self.made: list[Any] = []
        plain = getattr(cls, method)
        marked = self

        def method_of_ones_own(self: Any, *args: Any) -> Any:
            marked.made.append(plain(self, *args))
            return marked.made[-1]

        self.cls: Any = type("Own", (cls,), {"__module__": __name__, method: method_of_ones_own})

    def one(self) -> Any:
        (made,) = self.made
        return made


def of_one(network: Any) -> Any:
    """The network of one agent, of a team's."""
    return network.network.network if isinstance(network, prl.Mixing) else network


@each_recipe
def test_each_building_method_may_be_replaced_alone(name: str) -> None:
    cls: Any = RECIPES[name]
    where = {
        "network": lambda parts: of_one(parts.agent.network),
        "mixer": lambda parts: parts.agent.network.mixer,
        "actor": lambda parts: parts.agent.network.actor,
        "critic": lambda parts: parts.agent.network.critic,
        "policy": lambda parts: parts.agent.policy,
        "memory": lambda parts: parts.memory,
        "actors": lambda parts: parts.actors,
        "agent": lambda parts: parts.agent,
    }
    for method, found in where.items():
        if hasattr(cls, method):
            own = Marked(cls, method)
            assert found(built(own.cls, name)) is own.one(), method
    own = Marked(cls, "optimizers")
    agent = built(own.cls, name).agent
    assert own.one()
    assert all(vars(agent)[key] is optimizer for key, optimizer in own.one().items())


def test_one_name_is_the_same_method_everywhere() -> None:
    methods = ("network", "actor", "critic", "policy", "optimizers", "hyperparameters", "memory", "actors", "agent")
    for method in methods:
        signatures = {tuple(inspect.signature(vars(cls)[method]).parameters) for cls in everything() if method in vars(cls)}
        assert len(signatures) == 1, method
    for cls in RECIPES.values():
        assert not set(methods) & {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


# Fields


def everything() -> set[type]:
    return {base for cls in RECIPES.values() for base in cls.__mro__ if issubclass(base, Recipe)}


def depth(cls: type) -> int:
    return 0 if cls is Recipe else 1 + max(depth(base) for base in cls.__bases__ if issubclass(base, Recipe))


@each_recipe
def test_bases_are_at_most_two_deep_and_their_fields_are_the_nearest(name: str) -> None:
    cls: Any = RECIPES[name]
    assert depth(cls) <= 2
    nobody = cls(env="Nobody-v0")
    for field in dataclasses.fields(cls):
        declares = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
        nearest = next(f for f in dataclasses.fields(declares) if f.name == field.name)
        assert field.metadata == nearest.metadata, field.name
        assert field.name == "env" or getattr(nobody, field.name) == default_of(nearest), field.name


RUN = {
    "accelerate", "precision", "log_every", "eval_every", "eval_episodes", "checkpoint_every", "keep", "name", "eval_epsilon",
    "eval_max_steps",
}  # fmt: skip
"""Fields that the run reads, which `test_cli` and `test_run` see to."""
ELSEWHERE: dict[str, dict[str, Any]] = {
    "ppo": {"env": "Pendulum-v1", "core": "lstm"},
    "rnd": {"env": "Pendulum-v1", "core": "lstm"},
    "ddpg": {"noise": "ou"},
    "td3": {"noise": "ou"},
    "mappo": {"env": "protorl/Apart-v0"},
    "maddpg": {"env": "protorl/Apart-v0", "noise": "ou"},
    "matd3": {"env": "protorl/Apart-v0", "noise": "ou"},
    "vdn": {"core": "lstm"},
}
"""Settings in which the fields that a first training has no use for have one."""


@each_recipe
def test_every_field_is_read(name: str) -> None:
    read: set[str] = set()

    def watch(self: Any, attribute: str) -> Any:
        if "built" in object.__getattribute__(self, "__dict__"):
            read.add(attribute)
        return object.__getattribute__(self, attribute)

    cls = subclass(name, __getattribute__=watch)
    for fields in ({}, ELSEWHERE.get(name, {})):
        replayed = {"per_alpha": 0.5, "bonus": "rnd"} if issubclass(cls, prl.recipes.OffPolicy) else {}
        recipe = cls(**settings(name, **fields, **replayed))
        object.__setattr__(recipe, "built", True)
        recipe.build().actors.close()
    assert {field.name for field in dataclasses.fields(cls)} - RUN <= read


def test_of_several_bases_the_first_that_declares_a_field_has_it() -> None:
    class Group(Recipe):
        extra: int = 3

    class Own(Group, prl.recipes.DQN):
        capacity = 77

    own: Any = Own(env="CartPole-v1")
    dqn = prl.recipes.DQN(env="CartPole-v1")
    assert (own.extra, own.capacity) == (3, 77)
    assert dataclasses.replace(dqn, capacity=77) == prl.recipes.DQN(
        **{f.name: getattr(own, f.name) for f in dataclasses.fields(dqn)}
    )
    with pytest.raises(prl.ProtoRLError, match="capacity 0 is out of range: it must be at least 1 agent steps"):
        Own(capacity=0)


def test_a_users_list_goes_before_the_preset_like_any_other_default() -> None:
    class Own(prl.recipes.SAC):
        widths = [8, 4]

    assert prl.recipes.SAC(env="BipedalWalker-v3").widths == (400, 300)
    assert Own(env="BipedalWalker-v3").widths == (8, 4)


def test_a_field_and_a_method_of_one_name_are_refused() -> None:
    with pytest.raises(prl.ProtoRLError, match="Own cannot have a field 'policy': recipes have a method of that name"):
        type("Own", (prl.recipes.DQN,), {"__module__": __name__, "__annotations__": {"policy": str}, "policy": "beta"})
    with pytest.raises(prl.ProtoRLError, match="Own cannot have a method 'optimizer': recipes have a field of that name"):
        subclass("dqn", optimizer=lambda self, network: None)


# Optimizers, in every recipe


@each_recipe
def test_every_recipe_takes_every_optimizer(name: str) -> None:
    agent = built(RECIPES[name], name, optimizer="nadam", optimizer_kwargs={"momentum_decay": 0.01}, max_grad_norm=0.25).agent
    optimizers = [part for key, part in vars(agent).items() if key.endswith("optimizer") and key != "alpha_optimizer"]
    assert optimizers
    for optimizer in optimizers:
        assert type(optimizer.inner) is torch.optim.NAdam
        assert optimizer.inner.defaults["momentum_decay"] == 0.01
        assert optimizer.max_grad_norm == 0.25


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "radm"}, "unknown optimizer 'radm': did you mean 'radam'.* known: adadelta, .*torch-rmsprop"),
        ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'"),
        (
            {"optimizer": "radam", "optimizer_kwargs": {"beta": (0.9, 0.9)}},
            "unknown argument of the optimizer 'radam' 'beta': did you mean 'betas'",
        ),
        ({"optimizer_kwargs": {"amsgrad": True}}, "unknown argument of the optimizer 'adam' 'amsgrad'.* known: betas, eps"),
        ({"optimizer": "sgd", "optimizer_kwargs": {"lr": 1.0}}, "unknown argument of the optimizer 'sgd' 'lr'"),
    ],
)
def test_wrong_optimizers_are_refused_when_they_are_typed(fields: Any, message: str) -> None:
    with pytest.raises(prl.ProtoRLError, match=message) as caught:
        small("sac", **fields)
    assert "\n" not in str(caught.value)


def test_a_value_that_torch_refuses_gets_its_sentence() -> None:
    with pytest.raises(prl.ProtoRLError, match=r"torch.optim.SGD refuses \{'momentum': -1\}: Invalid momentum value: -1"):
        small("dqn", optimizer="sgd", optimizer_kwargs={"momentum": -1}).build()
