"""Networks that remember, and sequences of steps to learn from."""

from __future__ import annotations

from typing import Any, ClassVar

from protorl.agents import Agent
from protorl.agents.sequences import STARTS
from protorl.data import EnvSpec
from protorl.memory import Sequence
from protorl.networks.factory import CORES, INPUTS
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class Recurrent(Recipe):
    """The network may remember, by a core between base and head."""

    numbers: ClassVar[str] = ""

    core: str = hp("none", "what remembers, between base and head", choices=("none", *CORES))
    core_size: int = hp(128, "numbers that the core remembers", low=1)
    core_inputs: tuple[str, ...] = hp(
        ("action", "reward"), "what the core sees besides the observation, of the step before", choices=tuple(INPUTS)
    )

    def core_config(self) -> dict[str, object]:
        """The core for `build_network`."""
        return (
            {"type": "none"} if self.core == "none" else {"type": self.core, "size": self.core_size, "inputs": self.core_inputs}
        )


class Sequences(Recipe):
    """Learns from sequences of steps, which never leave their episode."""

    numbers: ClassVar[str] = ""

    sequence_length: int = hp(20, "of a sequence that are learned from", unit="agent steps", low=1)
    burn_in: int = hp(0, "before them that only warm up the core", unit="agent steps", low=0)
    period: int = hp(20, "between the starts of sequences", unit="agent steps", low=1)
    start: str = hp("stored", "what the core remembers where a sequence begins", choices=STARTS)
    eta: float = hp(0.9, "weight of the largest error in a sequence's priority, beside the mean", low=0.0, high=1.0)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"burn_in": self.burn_in, "eta": self.eta, "start": self.start}
        return {**super().hyperparameters(spec), **numbers}

    def view(self: Any, agent: Agent) -> Sequence:  # of a recipe that is `OffPolicy`, too
        """What an example is."""
        return Sequence(
            self.sequence_length, self.burn_in, self.period, self.n_step, self.gamma, self.clip_reward, self.reward_scale,
            agent.streams,
        )  # fmt: skip
