"""Networks: a base sees the observation, a head names its outputs; and the optimizers that own their parameters."""

from protorl.networks.bases import MLP, Base, DictBase, ImpalaResNet, NatureCNN
from protorl.networks.factory import build_network
from protorl.networks.heads import C51Head, C51Out, DuelingHead, Head, QHead, QOut, QuantileHead, QuantileOut
from protorl.networks.layers import NoisyLinear
from protorl.networks.network import Network
from protorl.networks.optimizer import Adam, FlatParameters, Optimizer, RMSProp, clone

__all__ = [
    "MLP",
    "Adam",
    "Base",
    "C51Head",
    "C51Out",
    "DictBase",
    "DuelingHead",
    "FlatParameters",
    "Head",
    "ImpalaResNet",
    "NatureCNN",
    "Network",
    "NoisyLinear",
    "Optimizer",
    "QHead",
    "QOut",
    "QuantileHead",
    "QuantileOut",
    "RMSProp",
    "build_network",
    "clone",
]
