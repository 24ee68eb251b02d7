"""Value decomposition for teams: VDN, and QMIX."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import nn

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import Mixing, Monotone, Sum
from protorl.networks.factory import CORES, INPUTS
from protorl.networks.teams import team_of
from protorl.recipes import presets
from protorl.recipes.dqn import Annealing, QLearning
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe
from protorl.recipes.recurrent import Recurrent, Sequences
from protorl.recipes.teams import Teams


class Decomposition(Recipe):
    """One value for what a team does, which a mixer makes of those of its agents. For recipes that are `Teams`, too."""

    numbers: ClassVar[str] = "qmix"
    agent_class: ClassVar[type[Agent]] = agents.VDN

    steps: int = hp(1_000_000, "length of the training", unit="agent steps, of teams", low=0)
    lr: float = hp(5e-4, "learning rate", paper="5e-4", low=0.0)
    optimizer: str = hp("adam", "gradient descent: adam, rmsprop, torch-rmsprop, any of torch.optim", paper="RMSProp")
    widths: tuple[int, ...] = hp((64,), "hidden layers of an agent's network, before the core", paper="64", low=1)
    core: str = hp("gru", "what each agent remembers by, between base and head", paper="gru", choices=("none", *CORES))
    core_size: int = hp(64, "numbers that the core remembers", paper="64", low=1)
    core_inputs: tuple[str, ...] = hp(
        ("action",), "what the core sees besides the observation, of the step before", paper="action", choices=tuple(INPUTS)
    )
    kappa: float = hp(math.inf, "Huber loss: linear beyond this error; inf: squared error", paper="inf", low=0.0)
    sequence_length: int = hp(25, "of a sequence that are learned from", unit="agent steps", paper="whole episodes", low=1)
    period: int = hp(25, "between the starts of sequences", unit="agent steps", paper="whole episodes", low=1)
    start: str = hp(
        "stored", "what the core remembers where a sequence begins", paper="zero (whole episodes)", choices=agents.STARTS
    )
    batch_size: int = hp(32, "sequences per update", paper="32", low=1)
    capacity: int = hp(100_000, "replay memory", unit="agent steps", paper="5 000 episodes", low=1)
    warmup_steps: int = hp(1_000, "before the first update", unit="agent steps", paper="32 episodes", low=0)
    update_every: int = hp(25, "between bursts of updates", unit="agent steps", paper="one episode", low=1)
    target_every: int = hp(200, "between target copies", unit="updates", paper="200 episodes", low=1)
    epsilon_steps: int = hp(50_000, "in which exploration falls", unit="agent steps", paper="50 000", low=1)
    epsilon_end: float = hp(0.05, "exploration in the end", paper="0.05", low=0.0, high=1.0)

    def networks(self: Any, spec: EnvSpec) -> Mixing:
        """The network of each agent (`network`), or of all, and the mixer."""
        return Mixing(self.for_each(spec, self.network), self.mixer(spec))

    def mixer(self, spec: EnvSpec) -> nn.Module:
        """From the agents' values [..., M] and the state to the team's [...]."""
        raise self.lacks("a method mixer(spec)")

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        return {**super().hyperparameters(spec), "kappa": self.kappa}


class VDN(Decomposition, Teams, Sequences, Annealing, Recurrent, QLearning, OffPolicy):
    """VDN: the team's value is the sum of its agents'."""

    name: ClassVar[str] = "vdn"
    paper: ClassVar[str] = "Sunehag et al. 2018, arXiv 1706.05296"
    presets: ClassVar[Presets] = presets.VDN

    def mixer(self, spec: EnvSpec) -> Sum:
        return Sum()


class QMIX(Decomposition, Teams, Sequences, Annealing, Recurrent, QLearning, OffPolicy):
    """QMIX: the team's value is monotone in that of each agent, by weights which are made of the state."""

    name: ClassVar[str] = "qmix"
    paper: ClassVar[str] = "Rashid et al. 2018, arXiv 1803.11485"
    presets: ClassVar[Presets] = presets.QMIX

    mixing_size: int = hp(32, "numbers in between, in the mixing network", paper="32", low=1)
    hyper_widths: tuple[int, ...] = hp(
        (), "hidden layers of the networks that make its weights", paper="none (EPyMARL: 64)", low=1
    )

    def mixer(self, spec: EnvSpec) -> Monotone:
        team, seen = team_of(spec)
        return Monotone(seen["state"], team.size, self.mixing_size, self.hyper_widths)
