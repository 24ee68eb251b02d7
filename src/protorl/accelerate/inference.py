"""Acting without the cost that torch adds to every small operation: NumPy on views of the same parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn

from protorl.accelerate.kernels import WORTH, relu_layers
from protorl.data import Array, Obs
from protorl.networks import (
    MLP,
    ActorCritic,
    ActorCriticOut,
    BetaHead,
    BetaOut,
    C51Head,
    CategoricalHead,
    CategoricalOut,
    DeterministicHead,
    DeterministicOut,
    DuelingHead,
    GaussianHead,
    GaussianOut,
    Network,
    ObsScaler,
    QHead,
    QOut,
    QuantileHead,
    ScaledBase,
    ValueHead,
    ValueOut,
)


def numpy_inference(network: nn.Module) -> Callable[[Obs, bool], Any] | None:
    """A NumPy forward pass for an MLP of linear, ReLU and tanh layers, its observations scaled or not, with the head of a Q
    function or of a policy; None for others.

    It reads the parameters' own memory, so it always sees the newest weights.
    """
    if isinstance(network, ActorCritic):
        policy, critic = numpy_inference(network.actor), numpy_inference(network.critic)
        if policy is None or critic is None:
            return None
        return lambda obs, explore: ActorCriticOut(policy(obs, explore), critic(obs, explore).value)
    base: Any = getattr(network, "base", None)
    scale: Callable[[Array], Array] | None = None
    if isinstance(base, ScaledBase):
        scale, base = scaler(base.scaler), base.base
    if not (isinstance(network, Network) and isinstance(base, MLP) and not base.bytes):
        return None
    if max(p.numel() for p in network.parameters()) > 300_000:  # arithmetic dominates, torch is as fast
        return None
    head: Callable[[Array], Any] | None = QOut  # type: ignore[assignment]
    if isinstance(network.head, QHead):  # one chain from the observation to the values
        body = chain([*base.layers, *network.head.layers])
    else:
        body, head = chain(base.layers), numpy_head(network.head)
    if body is None or head is None:
        return None

    def infer(obs: Obs, explore: bool) -> Any:
        x = np.asarray(obs, np.float32)
        if x.ndim != 2:
            x = x.reshape(len(x), -1)
        return head(body(x if scale is None else scale(x)))

    return infer


def numpy_head(head: nn.Module) -> Callable[[Array], Any] | None:
    """What a head does, in NumPy; None for others than those of distributions, duels and policies."""
    if isinstance(head, ValueHead):
        value = affine(head.layer)
        return lambda x: ValueOut(value(x)[:, 0])  # type: ignore[arg-type]
    if isinstance(head, C51Head | QuantileHead):
        return distributions(head)
    if isinstance(head, DuelingHead):
        both = dueling(chain(head.value), chain(head.advantage))
        return None if both is None else lambda x: QOut(both(x))  # type: ignore[arg-type]
    if isinstance(head, CategoricalHead) and not head.action.nvec:
        logits = affine(head.layer)
        return lambda x: CategoricalOut(logits(x))  # type: ignore[arg-type]
    if isinstance(head, DeterministicHead):
        action = affine(head.layer)
        return lambda x: DeterministicOut(np.tanh(action(x)))  # type: ignore[arg-type]
    if isinstance(head, GaussianHead):
        mean = affine(head.mean)
        if not head.state_dependent:
            log_std = head.log_std.detach().numpy()
            return lambda x: GaussianOut(mean(x), log_std)  # type: ignore[arg-type]
        spread, (low, high) = affine(head.spread), head.log_std_range
        return lambda x: GaussianOut(mean(x), spread(x).clip(low, high))  # type: ignore[arg-type]
    if isinstance(head, BetaHead):
        numbers, size = affine(head.layer), head.action.shape[0]

        def beta(x: Array) -> Any:
            y = 1 + np.logaddexp(np.float32(0), numbers(x))
            return BetaOut(y[:, :size], y[:, size:])  # type: ignore[arg-type]

        return beta
    return None


def distributions(head: C51Head | QuantileHead) -> Callable[[Array], Any] | None:
    """The action values of a distributional head; acting needs no more."""
    adv, v = chain(head.advantage), chain(head.value) if head.dueling else None
    if adv is None or (head.dueling and v is None):
        return None
    shape = (-1, head.actions, head.outputs)
    atoms = head.atoms.numpy() if isinstance(head, C51Head) else None

    def q(x: Array) -> Any:
        numbers = adv(x).reshape(shape)
        if v is not None:
            numbers = v(x)[:, None] + numbers - numbers.mean(1, keepdims=True)
        if atoms is None:
            return QOut(numbers.mean(-1))  # type: ignore[arg-type]
        p = np.exp(numbers - numbers.max(-1, keepdims=True))
        return QOut((p @ atoms) / p.sum(-1))  # type: ignore[arg-type]

    return q


def scaler(layer: ObsScaler) -> Callable[[Array], Array]:
    """Observations scaled, by the layer's own numbers."""
    mean, scale, clip = layer.mean.numpy().reshape(-1), layer.scale.numpy().reshape(-1), layer.clip

    def forward(x: Array) -> Array:
        return np.minimum(np.maximum((x - mean) * scale, -clip), clip)

    return forward


def chain(layers: Iterable[nn.Module]) -> Callable[[Array], Array] | None:
    """The layers one after the other in NumPy; None if one is unknown."""
    layers = list(layers)
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

    return one_loop(layers, forward)


def one_loop(layers: list[nn.Module], one_by_one: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Linear layers with ReLU after each but perhaps the last, for few rows as one compiled loop; others, and more rows, one
    by one."""
    linear = layers[::2]
    if len(linear) < 2 or {type(layer) for layer in linear} != {nn.Linear} or {type(x) for x in layers[1::2]} != {nn.ReLU}:
        return one_by_one
    weights, biases = (tuple(getattr(layer, name).detach().numpy() for layer in linear) for name in ("weight", "bias"))
    rectified, most = len(layers) % 2 == 0, WORTH // sum(weight.size for weight in weights)

    def forward(x: Array) -> Array:
        y: Array = relu_layers(x, weights, biases, rectified) if len(x) <= most else one_by_one(x)
        return y

    return forward


def affine(layer: nn.Linear) -> Callable[[Array], Array]:
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    def forward(x: Array) -> Array:
        y: Array = np.dot(x, weight)  # less overhead than `@` for one row
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
