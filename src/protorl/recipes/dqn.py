"""The DQN family: DQN, Double DQN, D3QN and Munchausen DQN."""

from __future__ import annotations

from typing import ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec, Linear, Schedule
from protorl.networks import Network, build_network
from protorl.networks.layers import INITS, initialise
from protorl.policies import EpsilonGreedy
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe


class QLearning(Recipe):
    """Learns the values of discrete actions with a target network: what DQN and all that came of it share."""

    numbers: ClassVar[str] = "dqn"
    paper_preset: ClassVar[str] = "ALE/*"
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    lr: float = hp(6.3e-4, "learning rate", paper="2.5e-4", low=0.0)
    anneal: bool = hp(False, "the learning rate falls to 0 with the training", paper="no")
    optimizer: str = hp("adam", "gradient descent: adam, rmsprop, torch-rmsprop, any of torch.optim", paper="centred RMSProp")
    optimizer_eps: float = hp(
        1e-8, "the optimizer's epsilon, if it has one; rmsprop's is inside the root", paper="0.01 / 32^2", low=0.0
    )
    max_grad_norm: float | None = hp(10.0, "clips the gradient's norm; none: not", paper="none", low=0.0)
    batch_size: int = hp(128, "examples per update", paper="32", low=1)
    capacity: int = hp(50_000, "replay memory", unit="agent steps", paper="1 000 000", low=1)
    warmup_steps: int = hp(1_000, "before the first update", unit="agent steps", paper="50 000", low=0)
    update_every: int = hp(4, "between bursts of updates", unit="agent steps", paper="4", low=1)
    updates: int = hp(1, "updates per burst", paper="1", low=1)
    target_every: int = hp(250, "between target copies", unit="updates", paper="2 500 (10 000 steps)", low=1)
    head: str = hp("q", "head of the network", paper="q", choices=("q", "dueling"))
    init: str = hp("default", "initial weights of the whole network", choices=INITS)
    noisy: bool = hp(False, "noisy layers in the head (Fortunato et al. 2018)")

    def network(self, spec: EnvSpec) -> Network:
        """Base and head, as `layout` has them, with initial weights of the kind `init`."""
        base, head = self.layout(spec)
        network = build_network(spec, {"base": base, "core": self.core_config(), "head": head})
        initialise(network, self.init)
        return network

    def layout(self, spec: EnvSpec) -> tuple[dict[str, object], dict[str, object]]:
        """Base and head for `build_network`. On images dueling streams part after the convolutions of the Nature network, each
        with a hidden layer of its own."""
        base, head = self.base_config(spec), {"type": self.head, "noisy": self.noisy}
        if self.head == "dueling" and base["type"] == "nature":  # section 4.2 of Wang et al. 2016
            return base | {"widths": ()}, head | {"widths": (512,), "base_gradient": 2**-0.5}
        return base, head

    def core_config(self) -> dict[str, object]:
        """What remembers, between them; nothing does."""
        return {"type": "none"}

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        return {"target_every": self.target_every, "lr": self.learning_rate()}

    def learning_rate(self) -> Schedule | None:
        """A straight line from `lr` to 0 over all updates of the training, or None: it stays."""
        updates = self.updates * (self.steps - self.warmup_steps) // self.update_every
        return Linear(self.lr, 0.0, max(updates, 1)) if self.anneal else None


class Annealing(Recipe):
    """Explores epsilon-greedily, with an epsilon that falls."""

    epsilon_start: float = hp(1.0, "exploration at first", paper="1", low=0.0, high=1.0)
    epsilon_end: float = hp(0.05, "exploration in the end", paper="0.1", low=0.0, high=1.0)
    epsilon_steps: int = hp(10_000, "in which exploration falls", unit="agent steps", paper="1 000 000", low=1)
    epsilon_after: int = hp(0, "before exploration begins to fall", unit="agent steps", low=0)

    def policy(self, spec: EnvSpec) -> EpsilonGreedy:
        """Epsilon-greedy, epsilon falling in a straight line over agent steps."""
        epsilon = Linear(self.epsilon_start, self.epsilon_end, self.epsilon_steps, self.epsilon_after)
        return EpsilonGreedy(spec.action, epsilon, seed=self.seed, rows=spec.lanes)


class Huber(Recipe):
    """Errors count squared up to `kappa` and linearly beyond."""

    numbers: ClassVar[str] = "dqn"

    kappa: float = hp(1.0, "Huber loss: linear beyond this error; inf: squared error", paper="1", low=0.0)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        return {**super().hyperparameters(spec), "kappa": self.kappa}


class DQN(Huber, Annealing, QLearning, OffPolicy):
    """Deep Q-Network."""

    name: ClassVar[str] = "dqn"
    paper: ClassVar[str] = "Mnih et al. 2015, Nature 518"
    presets: ClassVar[Presets] = presets.DQN
    agent_class: ClassVar[type[Agent]] = agents.DQN


class DoubleDQN(Huber, Annealing, QLearning, OffPolicy):
    """Double DQN: the online network chooses, the target judges."""

    name: ClassVar[str] = "double-dqn"
    paper: ClassVar[str] = "van Hasselt, Guez and Silver 2016, arXiv 1509.06461"
    presets: ClassVar[Presets] = presets.DOUBLE_DQN
    agent_class: ClassVar[type[Agent]] = agents.DoubleDQN


class D3QN(Huber, Annealing, QLearning, OffPolicy):
    """Double DQN with the dueling network."""

    name: ClassVar[str] = "d3qn"
    paper: ClassVar[str] = "Wang et al. 2016, arXiv 1511.06581"
    presets: ClassVar[Presets] = presets.D3QN
    agent_class: ClassVar[type[Agent]] = agents.DoubleDQN

    lr: float = hp(6.3e-4, "learning rate", paper="slightly below 2.5e-4; with prioritized replay 6.25e-5", low=0.0)
    head: str = hp("dueling", "head of the network", paper="dueling", choices=("q", "dueling"))


class MunchausenDQN(Huber, Annealing, QLearning, OffPolicy):
    """Munchausen DQN: the log-policy is added to the reward."""

    name: ClassVar[str] = "munchausen-dqn"
    paper: ClassVar[str] = "Vieillard, Pietquin and Geist 2020, arXiv 2007.14430"
    presets: ClassVar[Presets] = presets.MUNCHAUSEN
    agent_class: ClassVar[type[Agent]] = agents.MunchausenDQN

    munchausen_alpha: float = hp(0.9, "weight of the log-policy", paper="0.9", low=0.0, high=1.0)
    munchausen_tau: float = hp(0.03, "temperature of the policy", paper="0.03", low=1e-6)
    munchausen_low: float = hp(-1.0, "lower clip of the log-policy", paper="-1", high=0.0)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"alpha": self.munchausen_alpha, "tau": self.munchausen_tau, "low": self.munchausen_low}
        return {**super().hyperparameters(spec), **numbers}
