"""Speed, in one place: rebinds an agent's tensor-only methods to faster equals. The eager path stays the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from protorl.networks import MLP, DuelingHead, Network, QHead, QOut
from protorl.types import Array, Obs, ProtoRLError


def accelerate(agent: Any, mode: str = "auto") -> Any:
    """Bind `agent.infer` to the fastest equal of its network's forward pass. Restore a checkpoint before, not after.

    mode "eager" changes nothing. "auto": on the CPU, small fully connected networks answer from NumPy views of the same
    parameters, without the cost that torch adds to every small operation; any other network stays as it is.
    Returns the agent.
    """
    if mode not in ("auto", "eager"):
        raise ProtoRLError(f'mode {mode!r} is unknown: use "auto" or "eager"')
    if mode == "auto" and agent.device.type == "cpu":
        infer = numpy_inference(agent.network)
        if infer is not None:
            agent.infer = infer
    return agent


def numpy_inference(network: nn.Module) -> Callable[[Obs, bool], QOut] | None:
    """A NumPy forward pass for an MLP of linear, ReLU and tanh layers with a linear or dueling Q head; None for others.

    It reads the parameters' own memory, so it always sees the newest weights.
    """
    if not (isinstance(network, Network) and isinstance(network.base, MLP) and not network.base.bytes):
        return None
    if max(p.numel() for p in network.parameters()) > 300_000:  # arithmetic dominates, torch is as fast
        return None
    body = chain(network.base.layers)
    head: Callable[[Array], Array] | None = None
    if isinstance(network.head, QHead):
        head = chain(network.head.layers)
    elif isinstance(network.head, DuelingHead):
        head = dueling(chain(network.head.value), chain(network.head.advantage))
    if body is None or head is None:
        return None

    def infer(obs: Obs, explore: bool) -> QOut:
        x = np.asarray(obs, np.float32)
        return QOut(head(body(x if x.ndim == 2 else x.reshape(len(x), -1))))  # type: ignore[arg-type]

    return infer


def chain(layers: nn.Sequential) -> Callable[[Array], Array] | None:
    """The layers one after the other in NumPy; None if one is unknown."""
    steps: list[Callable[[Array], Array]] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            steps.append(affine(layer))
        elif type(layer) is nn.ReLU:
            steps.append(rectify)
        elif type(layer) is nn.Tanh:
            steps.append(np.tanh)
        else:
            return None

    def forward(x: Array) -> Array:
        for step in steps:
            x = step(x)
        return x

    return forward


def affine(layer: nn.Linear) -> Callable[[Array], Array]:
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    def forward(x: Array) -> Array:
        y: Array = x @ weight
        y += bias
        return y

    return forward


def rectify(x: Array) -> Array:
    return np.maximum(x, 0.0, out=x)


def dueling(
    value: Callable[[Array], Array] | None, advantage: Callable[[Array], Array] | None
) -> Callable[[Array], Array] | None:
    """Wang et al. 2016, equation 9."""
    if value is None or advantage is None:
        return None

    def forward(x: Array) -> Array:
        adv = advantage(x)
        q: Array = value(x) + adv - adv.mean(-1, keepdims=True)
        return q

    return forward
