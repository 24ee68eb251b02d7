"""ProtoRL: reproduce a reinforcement-learning paper today. `import protorl as prl`; names load when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protorl import envs, functional, recipes, rng
    from protorl.actors import Actors, FirstPriorities, LocalActors, OverlappedActors
    from protorl.agents import (
        DDPG,
        DQN,
        IQN,
        MADDPG,
        MAPPO,
        MATD3,
        PPO,
        QRDQN,
        R2D2,
        RND,
        SAC,
        TD3,
        VDN,
        Agent,
        DoubleDQN,
        MunchausenDQN,
        Novelty,
        Rainbow,
        curious,
    )
    from protorl.checkpoint import Checkpoints
    from protorl.data import (
        Act,
        ActionSpec,
        ArraySpec,
        Batch,
        Chunk,
        Columns,
        Constant,
        EnvSpec,
        Field,
        Linear,
        ProtoRLError,
        Seen,
        Step,
        Stream,
        Update,
    )
    from protorl.envs import from_vector, make_env, make_vec_envs
    from protorl.loops import Evaluation, Monitor, evaluate, train
    from protorl.memory import (
        All,
        Minibatches,
        NStep,
        OneStep,
        Prioritized,
        Rate,
        Replay,
        Rollout,
        Sequence,
        SumTree,
        Uniform,
        plan_memory,
    )
    from protorl.networks import (
        GRU,
        LSTM,
        MLP,
        ActorCritic,
        Adam,
        BetaHead,
        C51Head,
        CategoricalHead,
        CentralCritics,
        DeterministicHead,
        DictBase,
        DuelingHead,
        GaussianHead,
        ImpalaResNet,
        IQNHead,
        LastAction,
        LastReward,
        LocalCritics,
        Mixing,
        Monotone,
        NatureCNN,
        Network,
        NormalisedValueHead,
        ObsScaler,
        Optimizer,
        QEnsemble,
        QHead,
        QuantileHead,
        RandomDistillation,
        ReturnScaler,
        RMSProp,
        ScaledBase,
        Sum,
        TeamNetwork,
        TorchOptimizer,
        TorchRMSProp,
        ValueHead,
        build_network,
    )
    from protorl.policies import (
        Beta,
        Categorical,
        EpsilonGreedy,
        Gaussian,
        GaussianNoise,
        Greedy,
        GumbelSoftmax,
        NoisyDeterministic,
        Numbers,
        OUNoise,
        Policy,
        SquashedGaussian,
        Warmup,
    )
    from protorl.recipes import Recipe, hp
    from protorl.recipes.saved import load
    from protorl.runs import Run

__version__ = "0.2.0"

_HOME = {
    "": ("envs", "functional", "recipes", "rng"),
    "actors": ("Actors", "FirstPriorities", "LocalActors", "OverlappedActors"),
    "agents": (
        "DDPG", "DQN", "IQN", "MADDPG", "MAPPO", "MATD3", "PPO", "QRDQN", "R2D2", "RND", "SAC", "TD3", "VDN", "Agent",
        "DoubleDQN", "MunchausenDQN", "Novelty", "Rainbow", "curious",
    ),
    "checkpoint": ("Checkpoints",),
    "envs": ("from_vector", "make_env", "make_vec_envs"),
    "loops": ("Evaluation", "Monitor", "evaluate", "train"),
    "runs": ("Run",),
    "memory": (
        "All", "Minibatches", "NStep", "OneStep", "Prioritized", "Rate", "Replay", "Rollout", "Sequence", "SumTree", "Uniform",
        "plan_memory",
    ),
    "networks": (
        "GRU", "LSTM", "MLP", "ActorCritic", "Adam", "BetaHead", "C51Head", "CategoricalHead", "CentralCritics",
        "DeterministicHead", "DictBase", "DuelingHead", "GaussianHead", "IQNHead", "ImpalaResNet", "LastAction", "LastReward",
        "LocalCritics", "Mixing", "Monotone", "NatureCNN", "Network", "NormalisedValueHead", "ObsScaler", "Optimizer",
        "QEnsemble", "QHead", "QuantileHead", "RMSProp", "RandomDistillation", "ReturnScaler", "ScaledBase", "Sum",
        "TeamNetwork", "TorchOptimizer", "TorchRMSProp", "ValueHead", "build_network",
    ),
    "policies": (
        "Beta", "Categorical", "EpsilonGreedy", "Gaussian", "GaussianNoise", "Greedy", "GumbelSoftmax", "NoisyDeterministic",
        "Numbers", "OUNoise", "Policy", "SquashedGaussian", "Warmup",
    ),
    "recipes": ("Recipe", "hp"),
    "recipes.saved": ("load",),
    "data": (
        "Act", "ActionSpec", "ArraySpec", "Batch", "Chunk", "Columns", "Constant", "EnvSpec", "Field", "Linear", "ProtoRLError",
        "Seen", "Step", "Stream", "Update",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "DDPG", "DQN", "GRU", "IQN", "LSTM", "MADDPG", "MAPPO", "MATD3", "MLP", "PPO", "QRDQN", "R2D2", "RND", "SAC", "TD3", "VDN",
    "Act", "ActionSpec", "ActorCritic", "Actors", "Adam", "Agent", "All", "ArraySpec", "Batch", "Beta", "BetaHead", "C51Head",
    "Categorical", "CategoricalHead", "CentralCritics", "Checkpoints", "Chunk", "Columns", "Constant", "DeterministicHead",
    "DictBase", "DoubleDQN", "DuelingHead", "EnvSpec", "EpsilonGreedy", "Evaluation", "Field", "FirstPriorities", "Gaussian",
    "GaussianHead", "GaussianNoise", "Greedy", "GumbelSoftmax", "IQNHead", "ImpalaResNet", "LastAction", "LastReward", "Linear",
    "LocalActors", "LocalCritics", "Minibatches", "Mixing", "Monitor", "Monotone", "MunchausenDQN", "NStep", "NatureCNN",
    "Network", "NoisyDeterministic", "NormalisedValueHead", "Novelty", "Numbers", "OUNoise", "ObsScaler", "OneStep",
    "Optimizer", "OverlappedActors", "Policy", "Prioritized", "ProtoRLError", "QEnsemble", "QHead", "QuantileHead", "RMSProp",
    "Rainbow", "RandomDistillation", "Rate", "Recipe", "Replay", "ReturnScaler", "Rollout", "Run", "ScaledBase", "Seen",
    "Sequence", "SquashedGaussian", "Step", "Stream", "Sum", "SumTree", "TeamNetwork", "TorchOptimizer", "TorchRMSProp",
    "Uniform", "Update", "ValueHead", "Warmup", "build_network", "curious", "envs", "evaluate", "from_vector", "functional",
    "hp", "load", "make_env", "make_vec_envs", "plan_memory", "recipes", "rng", "train",
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
