"""Networks that remember: what recipes share whose agents may have a core."""

from __future__ import annotations

from typing import ClassVar

from protorl.networks.factory import CORES, INPUTS
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class Recurrent(Recipe):
    """The network may remember, by a core between base and head."""

    numbers: ClassVar[str] = ""

    core: str = hp("none", "what remembers, between base and head", choices=("none", *CORES))
    core_size: int = hp(128, "numbers that the core remembers", low=1)
    core_span: int | None = hp(
        None,
        "how long what is in the core lasts at most, before anything is learned; none: as its gates are",
        unit="agent steps",
        low=2,
    )
    core_inputs: tuple[str, ...] = hp(
        ("action", "reward"), "what the core sees besides the observation, of the step before", choices=tuple(INPUTS)
    )

    def core_config(self) -> dict[str, object]:
        """The core for `build_network`."""
        if self.core == "none":
            return {"type": "none"}
        return {"type": self.core, "size": self.core_size, "inputs": self.core_inputs, "span": self.core_span}
