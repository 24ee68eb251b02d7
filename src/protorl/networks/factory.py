"""Networks from a small config, sized by the environment's specification."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from protorl.data import MASK, ActionSpec, EnvSpec, ObsSpec, ProtoRLError, visible
from protorl.networks.bases import MLP, Base, DictBase, ImpalaResNet, NatureCNN
from protorl.networks.cores import GRU, LSTM, Core, LastAction, LastReward
from protorl.networks.heads import C51Head, DuelingHead, Head, IQNHead, QHead, QuantileHead
from protorl.networks.layers import unknown
from protorl.networks.masks import Visible
from protorl.networks.minatar import MinAtarCNN
from protorl.networks.network import Network
from protorl.networks.policy_heads import BetaHead, CategoricalHead, DeterministicHead, GaussianHead

M = TypeVar("M", Base, Head, Core)

BASES: dict[str, type[Base]] = {"mlp": MLP, "nature": NatureCNN, "impala": ImpalaResNet, "minatar": MinAtarCNN}
HEADS: dict[str, type[Head]] = {
    "q": QHead,
    "dueling": DuelingHead,
    "c51": C51Head,
    "quantile": QuantileHead,
    "iqn": IQNHead,
    "categorical": CategoricalHead,
    "gaussian": GaussianHead,
    "beta": BetaHead,
    "deterministic": DeterministicHead,
}
CORES: dict[str, type[Core]] = {"lstm": LSTM, "gru": GRU}
INPUTS: dict[str, Callable[[ActionSpec], nn.Module]] = {"action": LastAction, "reward": lambda action: LastReward()}
"""What a core may see besides the base's features, by name."""


def build_network(spec: EnvSpec, config: Mapping[str, object] | None = None) -> Network:
    """A network for an environment, such as `{"base": {"type": "mlp", "widths": [64, 64]}, "head": "dueling"}`.

    A part is a name, or a dict of its `type` and the arguments of its class. Bases: mlp, nature, impala, minatar, dict (with
    `bases`: observation key to base). Heads: q, dueling, c51, quantile, iqn, categorical,
    gaussian, beta, deterministic. A part left out: q for the head; for the base
    nature for images, mlp for other arrays, dict for dicts. Between them a core, if there is a `core`, such as
    `{"type": "lstm", "size": 128, "inputs": ["action", "reward"]}`; cores: none, lstm, gru.
    Raises ProtoRLError for an unknown part or argument.
    """
    config = {} if config is None else config
    known = ["base", "core", "head"]
    for key in config:
        if key not in known:
            raise unknown("part of a network", key, known)
    base = build_base(spec.obs, config.get("base", {}))
    core = build_core(spec.action, config.get("core", "none"))
    name, arguments = _part("head", config.get("head", {}), "q", list(HEADS))
    return Network(base, _make(HEADS[name], spec.action, name, arguments), core)


def build_core(action: ActionSpec, config: object) -> Core | None:
    """The core of a network alone, from its part of `build_network`'s config; None: it has none. Its inputs are names, or
    modules of one's own."""
    name, arguments = _part("core", config, "none", ["none", *CORES])
    if name == "none":
        return None
    inputs: Any = arguments.pop("inputs", ())
    for one in inputs:
        if not isinstance(one, nn.Module) and one not in INPUTS:
            raise unknown("input of a core", one, list(INPUTS))
    made = [one if isinstance(one, nn.Module) else INPUTS[one](action) for one in inputs]
    size = arguments.pop("size", 128)
    return _make(CORES[name], size, name, {**arguments, "inputs": made})


def build_base(obs: ObsSpec, config: object) -> Base:
    """The base of a network alone, from its part of `build_network`'s config. A mask of actions is not its business."""
    if isinstance(obs, dict) and MASK in obs:
        return Visible(build_base(visible(obs), config))
    default = "dict" if isinstance(obs, dict) else "nature" if obs.pixels else "mlp"
    name, arguments = _part("base", config, default, [*BASES, "dict"])
    if name != "dict":
        return _make(BASES[name], obs, name, arguments)
    if not isinstance(obs, dict):
        raise ProtoRLError(f"base 'dict' reads dict observations, but this one is an array {obs.shape}: use 'mlp' or 'nature'")
    for key in arguments:
        if key != "bases":
            raise unknown("argument of 'dict'", key, ["bases"])
    configs: Any = arguments.get("bases", {})
    for key in configs:
        if key not in obs:
            raise unknown("observation", key, list(obs))
    return DictBase({key: build_base(entry, configs.get(key, {})) for key, entry in obs.items()})


def _part(part: str, config: object, default: str, known: list[str]) -> tuple[str, dict[str, object]]:
    if not isinstance(config, str | Mapping):
        raise ProtoRLError(f"the {part} of a network is a name or a dict with its 'type', got {config!r}")
    arguments = {"type": config} if isinstance(config, str) else dict(config)
    name = arguments.pop("type", default)
    if name not in known:
        raise unknown(part, name, known)
    return name, arguments


def _make(cls: Callable[..., M], spec: object, name: str, arguments: dict[str, object]) -> M:
    known = list(inspect.signature(cls).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise unknown(f"argument of {name!r}", key, known)
    return cls(spec, **arguments)
