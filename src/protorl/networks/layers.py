"""The pieces networks are made of: dense stacks, noisy layers, initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from protorl.data import ProtoRLError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def unknown(what: str, name: object, known: Sequence[str]) -> ProtoRLError:
    """The error for a name that is not among the known ones, with the nearest one first."""
    close = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ProtoRLError(f"unknown {what} {name!r}: {hint}known: {', '.join(sorted(known))}")


def activation_layer(name: str) -> nn.Module:
    """The activation called `name`. Raises ProtoRLError for an unknown name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, list(ACTIVATIONS))
    return ACTIVATIONS[name]()


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise on its parameters while training, none in eval mode.

    `y = (μ_w + σ_w ⊙ f(ε_out) f(ε_in)ᵀ) x + μ_b + σ_b ⊙ f(ε_out)`, `f(x) = sign(x) sqrt|x|` (equations 10, 11);
    with p inputs, μ starts in U[-1/sqrt(p), 1/sqrt(p)] and σ at sigma0 / sqrt(p). [..., inputs] -> [..., outputs].
    Every forward draws anew, from torch's default generator of the device.
    Source: Fortunato et al. 2018 (NoisyNet). Differs from the paper: each row draws its own noise where Algorithm 1
    shares one draw in a minibatch, so that parallel environments explore independently; the expected loss is the same.
    """

    def __init__(self, inputs: int, outputs: int, sigma0: float = 0.5) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma0 * bound))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        if not self.training:
            return y
        noise_in = _signed_root(torch.randn_like(x))
        noise_out = _signed_root(torch.randn_like(y))
        return y + noise_out * nn.functional.linear(x * noise_in, self.weight_sigma, self.bias_sigma)


def _signed_root(x: Tensor) -> Tensor:
    return x.sign() * x.abs().sqrt()


def dense(
    inputs: int, widths: Sequence[int], activation: str, layer_norm: bool = False, noisy: bool = False
) -> list[nn.Module]:
    """Hidden layers `inputs -> widths[0] -> ...`, each linear, normalised if asked, activated."""
    layers: list[nn.Module] = []
    for width in widths:
        if width < 1:
            raise ProtoRLError(f"a layer of width {width} is impossible: widths are positive, got {list(widths)}")
        layers.append(linear(inputs, width, noisy))
        if layer_norm:
            layers.append(nn.LayerNorm(width))
        layers.append(activation_layer(activation))
        inputs = width
    return layers


def linear(inputs: int, outputs: int, noisy: bool = False) -> nn.Module:
    """A linear layer, noisy or not."""
    return NoisyLinear(inputs, outputs) if noisy else nn.Linear(inputs, outputs)


INITS = ("default", "orthogonal", "xavier", "dopamine")


def initialise(module: nn.Module, init: str) -> None:
    """ "default" keeps torch's U[-1/sqrt(fan_in), 1/sqrt(fan_in)]; "orthogonal" has gain sqrt(2) and zero biases; "xavier"
    U[-a, a] with a = sqrt(6 / (fan_in + fan_out)) and zero biases (Glorot and Bengio 2010); "dopamine" the same with
    a = sqrt(sqrt(3) / fan_in), 1.3 times torch's: variance_scaling(1/sqrt(3), fan_in, uniform) of Dopamine's distributional
    agents. Noisy layers keep their own."""
    if init not in INITS:
        raise unknown("init", init, list(INITS))
    if init == "default":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if init == "orthogonal":
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
            elif init == "xavier":
                nn.init.xavier_uniform_(layer.weight)
            else:
                bound = math.sqrt(math.sqrt(3) / layer.weight[0].numel())
                nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
