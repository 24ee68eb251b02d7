"""ProtoRL: reproduce a reinforcement-learning paper today. `import protorl as prl`; names load when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protorl import envs, functional, recipes, rng
    from protorl.actors import LocalActors
    from protorl.agents import DQN, Agent, DoubleDQN, MunchausenDQN
    from protorl.checkpoint import Checkpoints
    from protorl.envs import from_vector, make_env, make_vec_envs
    from protorl.loops import Evaluation, Monitor, Run, evaluate, train
    from protorl.memory import (
        All,
        Minibatches,
        NStep,
        OneStep,
        Prioritized,
        Rate,
        Replay,
        SumTree,
        Uniform,
        plan_memory,
    )
    from protorl.networks import (
        MLP,
        Adam,
        C51Head,
        DictBase,
        DuelingHead,
        ImpalaResNet,
        NatureCNN,
        Network,
        QHead,
        QuantileHead,
        RMSProp,
        build_network,
    )
    from protorl.policies import Categorical, EpsilonGreedy, Greedy, Warmup
    from protorl.recipes import Recipe, hp
    from protorl.recipes.running import load
    from protorl.types import (
        Act,
        ActionSpec,
        ArraySpec,
        Batch,
        Columns,
        Constant,
        EnvSpec,
        Field,
        Linear,
        ProtoRLError,
        Step,
        Update,
    )

__version__ = "0.1.0"

_HOME = {
    "": ("envs", "functional", "recipes", "rng"),
    "actors": ("LocalActors",),
    "agents": ("DQN", "Agent", "DoubleDQN", "MunchausenDQN"),
    "checkpoint": ("Checkpoints",),
    "envs": ("from_vector", "make_env", "make_vec_envs"),
    "loops": ("Evaluation", "Monitor", "Run", "evaluate", "train"),
    "memory": (
        "All", "Minibatches", "NStep", "OneStep", "Prioritized", "Rate", "Replay", "SumTree", "Uniform", "plan_memory",
    ),
    "networks": (
        "MLP", "Adam", "C51Head", "DictBase", "DuelingHead", "ImpalaResNet", "NatureCNN", "Network", "QHead",
        "QuantileHead", "RMSProp", "build_network",
    ),
    "policies": ("Categorical", "EpsilonGreedy", "Greedy", "Warmup"),
    "recipes": ("Recipe", "hp"),
    "recipes.running": ("load",),
    "types": (
        "Act", "ActionSpec", "ArraySpec", "Batch", "Columns", "Constant", "EnvSpec", "Field", "Linear", "ProtoRLError",
        "Step", "Update",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DQN", "MLP", "Act", "ActionSpec", "Adam", "Agent", "All", "ArraySpec", "Batch", "C51Head", "Categorical",
    "Checkpoints", "Columns", "Constant", "DictBase", "DoubleDQN", "DuelingHead", "EnvSpec", "EpsilonGreedy",
    "Evaluation", "Field", "Greedy", "ImpalaResNet", "Linear", "LocalActors", "Minibatches", "Monitor",
    "MunchausenDQN", "NStep", "NatureCNN", "Network", "OneStep", "Prioritized", "ProtoRLError", "QHead",
    "QuantileHead", "RMSProp", "Rate", "Recipe", "Replay", "Run", "Step", "SumTree", "Uniform", "Update", "Warmup",
    "build_network", "envs", "evaluate", "from_vector", "functional", "hp", "load", "make_env",
    "make_vec_envs", "plan_memory", "recipes", "rng", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'protorl' has no attribute {name!r}")
    home = _MODULE_OF[name]
    module = importlib.import_module(f"protorl.{home or name}")
    value = module if not home else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
