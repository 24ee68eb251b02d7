"""Policies over actions in [-1, 1]; the environment's own bounds are applied once, at its edge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protorl.data import ActionSpec, Array, ProtoRLError, State
from protorl.functional import (
    beta_entropy,
    beta_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    tanh_log_slope,
)
from protorl.functional.densities import HALF_LOG_TAU
from protorl.policies.draws import Draws, as_numpy, other_rows
from protorl.policies.outputs import BestAction, BetaParameters, Normal
from protorl.rng import generator, pack, unpack


def dimensions(action: ActionSpec, policy: str) -> int:
    """How many numbers the actions of a row have. Raises ProtoRLError unless they are a vector, or one for each agent of a
    team."""
    if action.kind != "box" or len(action.shape) != 1 + (action.agents > 0):
        raise ProtoRLError(f"{policy} chooses vectors of numbers, but these actions are {action.kind!r} {action.shape}")
    return action.numbers


def bounded(action: ActionSpec, policy: str) -> int:
    """How many numbers an action has. Raises ProtoRLError unless it is a vector of them, each between bounds."""
    size = dimensions(action, policy)
    if action.unbounded.any():
        raise ProtoRLError(
            f"{policy} chooses between bounds, but of these actions {unbounded(action)}: give the environment's action_space "
            "finite ones, in its class or by gymnasium.wrappers.TransformAction (RescaleAction changes finite ones), or use "
            "ppo, whose gaussian needs none"
        )
    return size


def unbounded(action: ActionSpec) -> str:
    """The dimensions without a range, in words."""
    bounds: Any = action  # a property that is true somewhere has seen them
    low, high = bounds.low.reshape(-1), bounds.high.reshape(-1)
    return ", ".join(f"dimension {i} is in [{low[i]:g}, {high[i]:g}]" for i in np.flatnonzero(action.unbounded))


class Gaussian:
    """`a = μ + σ ε`, `ε ~ N(0, 1)`, unbounded: `out.mean` [N, A], `out.log_std` [N, A] or [A] -> [N, A]; of teams [N, M, A].

    What leaves [-1, 1] is clipped where the environment takes it; log-probabilities are those of the unclipped action. Actions
    without bounds are not scaled, of which a warning tells.
    `mode` is the mean. `rows` names the environments served, each with a stream of its own (None: 0..N-1).
    Raises ProtoRLError for actions that are not vectors of numbers, or a changed number of rows.
    """

    def __init__(self, action: ActionSpec, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        self.size = dimensions(action, type(self).__name__)
        if action.unbounded.any():
            logging.getLogger("protorl").warning(
                f"of these actions {unbounded(action)}: the Gaussian's numbers are not scaled to a range there"
            )
        self.draws = Draws(seed, "gaussian", rows, max(1024, self.size), normal=True)

    def __call__(self, out: Normal) -> Array:
        return self.draw(out)[0]

    def draw(self, out: Normal) -> tuple[Array, Array]:
        """Actions [N, A], and the noise in them [N, A]."""
        mean = as_numpy(out.mean)
        noise = self.draws.take(len(mean), self.size).astype(np.float32).reshape(mean.shape)
        return mean + np.exp(as_numpy(out.log_std)) * noise, noise

    def sample(self, out: Normal) -> tuple[Array, Array]:
        """Actions [N, A], and their log-probabilities [N]."""
        action, noise = self.draw(out)
        return action, (-0.5 * noise * noise - as_numpy(out.log_std) - HALF_LOG_TAU).sum(-1, dtype=np.float32)

    def mode(self, out: Normal) -> Array:
        return as_numpy(out.mean)

    def log_prob(self, out: Normal, action: Tensor) -> Tensor:
        """`log π(action)`: `action` [..., A] -> [...], differentiable."""
        return gaussian_log_prob(action, out.mean, out.log_std)

    def entropy(self, out: Normal) -> Tensor:
        """In nats: [...], differentiable."""
        return gaussian_entropy(out.log_std.expand_as(out.mean))

    def rsample(self, out: Normal, noise: Tensor) -> Tensor:
        """`μ + σ ε` for given standard normal `noise` [..., A] -> [..., A], differentiable."""
        sample: Tensor = out.mean + out.log_std.exp() * noise
        return sample

    def state_dict(self) -> State:
        return {"draws": self.draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.draws.load_state_dict(state["draws"])


class SquashedGaussian(Gaussian):
    """`a = tanh(u)`, `u = μ + σ ε`: a Gaussian squashed into (-1, 1). `mode` is `tanh(μ)`.

    Source: Haarnoja et al. 2018 (SAC), arXiv 1812.05905, appendix C.
    """

    NODES, WIDTH = 161, 7.0  # of the quadrature in `entropy`: standard deviations on either side

    def __init__(self, action: ActionSpec, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        bounded(action, type(self).__name__)
        super().__init__(action, seed, rows)

    def __call__(self, out: Normal) -> Array:
        action: Array = np.tanh(self.draw(out)[0])
        return action

    def sample(self, out: Normal) -> tuple[Array, Array]:
        u, log_prob = super().sample(out)
        slope = 2 * (np.float32(np.log(2)) - u - np.logaddexp(np.float32(0), -2 * u))
        return np.tanh(u), log_prob - slope.sum(-1)

    def mode(self, out: Normal) -> Array:
        best: Array = np.tanh(as_numpy(out.mean))
        return best

    def log_prob(self, out: Normal, action: Tensor) -> Tensor:
        """`log N(u) - Σ log(1 - tanh² u)` with `u = artanh(action)`, kept inside what float32 can tell from ±1."""
        inside = 1 - torch.finfo(action.dtype).eps
        u = torch.atanh(action.clamp(-inside, inside))
        return gaussian_log_prob(u, out.mean, out.log_std) - tanh_log_slope(u).sum(-1)

    def entropy(self, out: Normal) -> Tensor:
        """`H[N] + E[Σ log(1 - tanh² u)]`, the expectation by the trapezoidal rule: [...], differentiable.

        Evenly spaced nodes find the bend of a wide Gaussian at u = 0, which those of Gauss and Hermite step over: 1e-7 is the
        error of the rule at log σ = 2, 1e-5 at 2.5.
        """
        nodes = np.linspace(-self.WIDTH, self.WIDTH, self.NODES)
        weights = np.exp(-0.5 * nodes * nodes)
        z, w = (out.mean.new_tensor(values) for values in (nodes, weights / weights.sum()))
        u = out.mean.unsqueeze(-1) + out.log_std.exp().unsqueeze(-1) * z
        return super().entropy(out) + (tanh_log_slope(u) * w).sum(-1).sum(-1)

    @staticmethod
    def rsample_with_log_prob(out: Normal, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`tanh(μ + σ ε)` for given `noise` [..., A], and its log-probability [...]; both differentiable, and exact also
        where the action rounds to ±1, and where σ is so small that `μ + σ ε` rounds to μ."""
        u = out.mean + out.log_std.exp() * noise
        log_prob = (-0.5 * noise * noise - out.log_std - HALF_LOG_TAU - tanh_log_slope(u)).sum(-1)
        return torch.tanh(u), log_prob

    def rsample(self, out: Normal, noise: Tensor) -> Tensor:
        return self.rsample_with_log_prob(out, noise)[0]


class Beta:
    """`a = 2x - 1`, `x ~ Beta(α, β)`, bounded to [-1, 1] without clipping: `out.alpha`, `out.beta` [N, A] -> [N, A].

    `mode` is where the density is largest, `x = (α - 1) / (α + β - 2)`, for α and β of at least 1, as `BetaHead` gives them
    (1/2 where both are 1, and all are alike). `rows` as in `Gaussian`.
    Source: Chou, Maturana and Scherer 2017. Differs from the paper: x is kept 1e-6 away from 0 and 1, where the
    log-probability is not finite; `mode` is not the mean `α / (α + β)`, which avoids the bounds although the samples do not.
    """

    def __init__(self, action: ActionSpec, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        bounded(action, "Beta")
        self.seed = seed
        self.open(() if rows is None else rows)

    def open(self, rows: Sequence[int]) -> None:
        self.generators = [generator(self.seed, "beta", row) for row in rows]

    def __call__(self, out: BetaParameters) -> Array:
        return self.sample(out)[0]

    def sample(self, out: BetaParameters) -> tuple[Array, Array]:
        """Actions [N, A], and their log-probabilities [N]."""
        alpha, beta = as_numpy(out.alpha), as_numpy(out.beta)
        if len(alpha) != len(self.generators):
            if self.generators:
                raise other_rows("beta", len(self.generators), len(alpha))
            self.open(range(len(alpha)))
        x = np.stack([gen.beta(a, b) for gen, a, b in zip(self.generators, alpha, beta)])
        action = (2 * x.clip(1e-6, 1 - 1e-6) - 1).astype(np.float32)
        with torch.inference_mode():
            log_prob = beta_log_prob(torch.from_numpy(action), torch.as_tensor(alpha), torch.as_tensor(beta))
        return action, log_prob.numpy()

    def mode(self, out: BetaParameters) -> Array:
        alpha, beta = as_numpy(out.alpha), as_numpy(out.beta)
        above = np.float32(1e-6)  # what is left of α - 1 and β - 1 where both have been rounded to 1
        best: Array = 2 * (alpha - 1 + above) / (alpha + beta - 2 + 2 * above) - 1
        return best

    def log_prob(self, out: BetaParameters, action: Tensor) -> Tensor:
        """`log π(action)`: `action` [..., A] -> [...], differentiable."""
        return beta_log_prob(action, out.alpha, out.beta)

    def entropy(self, out: BetaParameters) -> Tensor:
        """In nats, which can be negative: [...], differentiable."""
        return beta_entropy(out.alpha, out.beta)

    def rsample(self, out: BetaParameters) -> Tensor:
        """A differentiable draw [..., A], by implicit reparameterisation (Figurnov et al. 2018), from torch's generator."""
        x: Tensor = torch.distributions.Beta(out.alpha, out.beta, validate_args=False).rsample()
        return 2 * x - 1

    def state_dict(self) -> State:
        return {"generators": [pack(gen) for gen in self.generators]}

    def load_state_dict(self, state: State) -> None:
        if len(state["generators"]) != len(self.generators):
            self.open(range(len(state["generators"])))
        for gen, kept in zip(self.generators, state["generators"]):
            unpack(gen, kept)


class GaussianNoise:
    """White noise `N(0, σ²)`, σ in units of the action's half range: [N, A], of teams [N, M, A]. `rows` as in `Gaussian`."""

    def __init__(self, action: ActionSpec, std: float = 0.1, seed: int = 0, rows: Sequence[int] | None = None) -> None:
        if std < 0:
            raise ProtoRLError(f"a noise of standard deviation {std} is impossible: use 0 or more")
        self.size, self.shape, self.std = bounded(action, type(self).__name__), action.shape, std
        self.draws = Draws(seed, "noise", rows, max(1024, self.size), normal=True)

    def __call__(self, n: int) -> Array:
        """The next noise [n, A]."""
        return self.std * self.draws.take(n, self.size).reshape(n, *self.shape)

    def restart(self, first: Array) -> None:
        """Episodes start in these rows [N] bool: white noise does not care."""

    def state_dict(self) -> State:
        return {"draws": self.draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.draws.load_state_dict(state["draws"])


class OUNoise(GaussianNoise):
    """Ornstein-Uhlenbeck noise `x <- x - θ x + σ ε`, from 0 at each episode's start: [N, A].

    Source: Uhlenbeck and Ornstein 1930; Lillicrap et al. 2016 (DDPG), section 7: θ = 0.15, σ = 0.2.
    """

    def __init__(
        self, action: ActionSpec, std: float = 0.2, theta: float = 0.15, seed: int = 0, rows: Sequence[int] | None = None
    ) -> None:
        super().__init__(action, std, seed, rows)
        self.theta = theta
        self.x: Array | None = None

    def __call__(self, n: int) -> Array:
        x = np.zeros((n, *self.shape)) if self.x is None else self.x
        self.x = x - self.theta * x + super().__call__(n)
        return self.x

    def restart(self, first: Array) -> None:
        if self.x is not None:
            self.x = np.where(first.reshape(-1, *[1] * len(self.shape)), 0.0, self.x)

    def state_dict(self) -> State:
        return {**super().state_dict(), "x": self.x}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.x = None if state["x"] is None else np.array(state["x"])


class NoisyDeterministic:
    """`clip(μ(s) + noise, -1, 1)`: `out.action` [N, A] -> [N, A]; `mode` is μ(s).

    noise: `GaussianNoise` (TD3) or `OUNoise` (DDPG), in units of the action's half range.
    """

    def __init__(self, noise: GaussianNoise) -> None:
        self.noise = noise

    def __call__(self, out: BestAction) -> Array:
        action = as_numpy(out.action)
        return (action + self.noise(len(action))).clip(-1, 1).astype(np.float32)

    def mode(self, out: BestAction) -> Array:
        return as_numpy(out.action)

    def restart(self, first: Array) -> None:
        """Told, before it acts, in which rows [N] bool an episode starts, for noise that begins anew with each."""
        self.noise.restart(first)

    def state_dict(self) -> State:
        return {"noise": self.noise.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.noise.load_state_dict(state["noise"])
