"""Networks: a base sees the observation, a head names its outputs; and the optimizers that own their parameters."""

from protorl.networks.actor_critic import ActorCritic, ActorCriticOut, QEnsemble
from protorl.networks.bases import MLP, Base, DictBase, ImpalaResNet, NatureCNN
from protorl.networks.cores import (
    GRU,
    LSTM,
    Answer,
    Asked,
    Core,
    GRUCarry,
    LastAction,
    LastReward,
    LSTMCarry,
    NoCore,
    core_of,
    unroll,
)
from protorl.networks.distillation import RandomDistillation
from protorl.networks.episodic import Episode, PseudoCounts, Running
from protorl.networks.factory import build_base, build_network
from protorl.networks.heads import C51Head, C51Out, DuelingHead, Head, IQNHead, QHead, QOut, QuantileHead, QuantileOut, chosen
from protorl.networks.inverse_dynamics import InverseDynamics
from protorl.networks.layers import NoisyLinear
from protorl.networks.masks import masked
from protorl.networks.mixing import Mixing, Monotone, Sum, TeamNetwork
from protorl.networks.network import Network
from protorl.networks.numpy_forms import in_numpy
from protorl.networks.optimizer import Adam, FlatParameters, Optimizer, RMSProp, TorchRMSProp, clone, spelled_out
from protorl.networks.policy_heads import (
    BetaHead,
    BetaOut,
    CategoricalHead,
    CategoricalOut,
    DeterministicHead,
    DeterministicOut,
    GaussianHead,
    GaussianOut,
    NormalisedValueHead,
    ValueHead,
    ValueOut,
)
from protorl.networks.scalers import ObsScaler, ReturnScaler, ScaledBase, scaled
from protorl.networks.separate import Separate, one_each, separate
from protorl.networks.teams import CentralCritics, LocalCritics
from protorl.networks.torch_optimizer import TorchOptimizer, build_optimizer, optimizer_class

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "ActorCritic",
    "ActorCriticOut",
    "Adam",
    "Answer",
    "Asked",
    "Base",
    "BetaHead",
    "BetaOut",
    "C51Head",
    "C51Out",
    "CategoricalHead",
    "CategoricalOut",
    "CentralCritics",
    "Core",
    "DeterministicHead",
    "DeterministicOut",
    "DictBase",
    "DuelingHead",
    "Episode",
    "FlatParameters",
    "GRUCarry",
    "GaussianHead",
    "GaussianOut",
    "Head",
    "IQNHead",
    "ImpalaResNet",
    "InverseDynamics",
    "LSTMCarry",
    "LastAction",
    "LastReward",
    "LocalCritics",
    "Mixing",
    "Monotone",
    "NatureCNN",
    "Network",
    "NoCore",
    "NoisyLinear",
    "NormalisedValueHead",
    "ObsScaler",
    "Optimizer",
    "PseudoCounts",
    "QEnsemble",
    "QHead",
    "QOut",
    "QuantileHead",
    "QuantileOut",
    "RMSProp",
    "RandomDistillation",
    "ReturnScaler",
    "Running",
    "ScaledBase",
    "Separate",
    "Sum",
    "TeamNetwork",
    "TorchOptimizer",
    "TorchRMSProp",
    "ValueHead",
    "ValueOut",
    "build_base",
    "build_network",
    "build_optimizer",
    "chosen",
    "clone",
    "core_of",
    "in_numpy",
    "masked",
    "one_each",
    "optimizer_class",
    "scaled",
    "separate",
    "spelled_out",
    "unroll",
]
