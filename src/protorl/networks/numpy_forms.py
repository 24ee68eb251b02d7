"""What a module computes, in NumPy on its own parameters' memory: without the cost that torch adds to every small operation.

A module offers its form beside its `forward`, as a method `in_numpy`. A form counts for the very class that offers it: what
inherits, or has hooks, may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor, nn

from protorl.data import Array
from protorl.networks.kernels import WORTH, relu_layers

Form: TypeAlias = Callable[..., Any]
"""Arrays [N, ...] in, arrays out; of a network with a core, what it is asked, and its answer."""


def in_numpy(module: nn.Module) -> Form | None:
    """What `module(x)` computes, for arrays; None for a module that does not offer it. It always sees the newest weights."""
    if has_hooks(module) or any(callable(getattr(type(module), name, None)) for name in vars(module)):
        return None
    if type(module) in LAYERS:
        return LAYERS[type(module)](module)
    offer = vars(type(module)).get("in_numpy")
    found: Form | None = None if offer is None else offer(module)
    return found


def has_hooks(module: nn.Module) -> bool:
    """Whether something else runs when the module is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def view(tensor: Tensor) -> Array:
    """The memory of a parameter or buffer, to be read alone."""
    array: Array = tensor.detach().numpy()
    array.flags.writeable = False
    return array


def in_order(layers: Iterable[nn.Module]) -> Form | None:
    """Layers one after the other; None if one offers no form. Linear layers with ReLU after each but perhaps the last are, for
    few rows, one compiled loop."""
    layers = list(layers)
    found = [in_numpy(layer) for layer in layers]
    steps = [form for form in found if form is not None]
    if len(steps) < len(found):
        return None

    def one_by_one(x: Array) -> Array:
        for step in steps:
            x = step(x)
        return x

    linear = layers[::2]
    if len(linear) < 2 or {type(layer) for layer in linear} != {nn.Linear} or {type(x) for x in layers[1::2]} != {nn.ReLU}:
        return one_by_one
    weights, biases = (tuple(getattr(layer, name).detach().numpy() for layer in linear) for name in ("weight", "bias"))
    rectified, most = len(layers) % 2 == 0, WORTH // sum(weight.size for weight in weights)

    def forward(x: Array) -> Array:
        y: Array = relu_layers(x, weights, biases, rectified) if len(x) <= most else one_by_one(x)
        return y

    return forward


def affine(layer: nn.Linear) -> Form | None:
    if layer.bias is None:
        return None
    weight, bias = view(layer.weight).T, view(layer.bias)

    def forward(x: Array) -> Array:
        y: Array = np.dot(x, weight)  # less overhead than `@` for one row
        y += bias
        return y

    return forward


LAYERS: dict[type[nn.Module], Callable[[Any], Form | None]] = {
    nn.Linear: affine,
    nn.ReLU: lambda layer: lambda x: np.maximum(x, 0.0),
    nn.Tanh: lambda layer: np.tanh,
    nn.Sequential: in_order,
}
"""Torch's own layers that have a form here."""
