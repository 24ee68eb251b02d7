"""R2D2: prioritized replay of sequences, for networks that remember (Kapturowski et al. 2019)."""

from __future__ import annotations

import math
from typing import ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.agents.r2d2 import SCALES
from protorl.agents.sequences import STARTS
from protorl.data import EnvSpec
from protorl.networks.factory import CORES
from protorl.recipes import presets
from protorl.recipes.apex import Ladder
from protorl.recipes.dqn import QLearning
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import FIRST_PRIORITIES, FIRST_PRIORITY, OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recurrent import Recurrent, Sequences


class R2D2(Sequences, Ladder, Recurrent, QLearning, OffPolicy):
    """R2D2: double Q-learning of sequences by a network with an LSTM; each environment has an epsilon of its own.

    DRQN (Hausknecht and Stone 2015) is what is left with per_alpha=0, burn_in=0, start=zero, scale=none, n_step=1, head=q and
    core_inputs= (nothing). docs/algorithms/r2d2.md says what differs from the paper.
    """

    name: ClassVar[str] = "r2d2"
    paper: ClassVar[str] = "Kapturowski et al. 2019, OpenReview r1lyTjAqYX"
    presets: ClassVar[Presets] = presets.R2D2
    agent_class: ClassVar[type[Agent]] = agents.R2D2

    num_envs: int = hp(8, "environments, of which each explores in its own way", paper="256", low=1)
    gamma: float = hp(0.997, "discount per agent step", paper="0.997", low=0.0, high=1.0)
    lr: float = hp(5e-4, "learning rate", paper="1e-4", low=0.0)
    optimizer: str = hp("adam", "gradient descent: adam, rmsprop, torch-rmsprop, any of torch.optim", paper="Adam")
    optimizer_eps: float = hp(1e-3, "the optimizer's epsilon, if it has one", paper="1e-3", low=0.0)
    max_grad_norm: float | None = hp(40.0, "clips the gradient's norm; none: not", paper="not mentioned", low=0.0)
    kappa: float = hp(math.inf, "Huber loss: linear beyond this error; inf: squared error", paper="inf", low=0.0)
    core: str = hp("lstm", "what remembers, between base and head", paper="lstm", choices=("none", *CORES))
    core_size: int = hp(128, "numbers that the core remembers", paper="512", low=1)
    core_inputs: tuple[str, ...] = hp(
        ("action", "reward"), "what the core sees besides the observation, of the step before", paper="action, reward"
    )
    head: str = hp("dueling", "head of the network", paper="dueling", choices=("q", "dueling"))
    sequence_length: int = hp(80, "of a sequence that are learned from", unit="agent steps", paper="80", low=1)
    burn_in: int = hp(40, "before them that only warm up the core", unit="agent steps", paper="40", low=0)
    period: int = hp(40, "between the starts of sequences", unit="agent steps", paper="40", low=1)
    start: str = hp("stored", "what the core remembers where a sequence begins", paper="stored", choices=STARTS)
    scale: str = hp("h", "values are predicted through h, or as they are", paper="h", choices=tuple(SCALES))
    eta: float = hp(
        0.9, "weight of the largest error in a sequence's priority, beside the mean", paper="0.9", low=0.0, high=1.0
    )
    batch_size: int = hp(64, "sequences per update", paper="64", low=1)
    capacity: int = hp(100_000, "replay memory", unit="agent steps", paper="4 million", low=1)
    update_every: int = hp(
        64, "between bursts of updates", unit="agent steps", paper="5 updates a second, whatever the actors do", low=1
    )
    target_every: int = hp(250, "between target copies", unit="updates", paper="2 500", low=1)
    n_step: int = hp(5, "steps of the return", unit="agent steps", paper="5", low=1)
    per_alpha: float = hp(0.9, "prioritization exponent; 0: uniform replay", paper="0.9", low=0.0)
    per_beta: float = hp(0.6, "importance exponent at the start", paper="0.6", low=0.0, high=1.0)
    per_beta_end: float = hp(0.6, "importance exponent in the end", paper="0.6", low=0.0, high=1.0)
    first_priority: str = hp("td", FIRST_PRIORITY, paper="td", choices=FIRST_PRIORITIES)

    def layout(self, spec: EnvSpec) -> tuple[dict[str, object], dict[str, object]]:
        """Base and head; on images the head has a hidden layer behind the core, in each of its streams."""
        base = self.base_config(spec)
        hidden = {"widths": (512,)} if base["type"] == "nature" else {}
        return base, {"type": self.head, "noisy": self.noisy, **hidden}

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"scale": self.scale, "kappa": self.kappa}
        return {**super().hyperparameters(spec), **numbers}
