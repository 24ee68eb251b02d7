"""Recipes for teams: an environment is a row, and one agent learns for all who play in it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from protorl.data import EnvSpec
from protorl.networks import TeamNetwork, separate
from protorl.networks.teams import team_of
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class Teams(Recipe):
    """Rows are teams; each agent acts by what it observes, all by one network or each by its own."""

    numbers: ClassVar[str] = ""
    as_teams: ClassVar[bool] = True

    share: bool = hp(True, "the actors are one network, told apart by their one-hot; no: each agent has its own")

    def networks(self, spec: EnvSpec) -> nn.Module:
        team_of(spec)
        return self.network(spec)

    def for_each(self, spec: EnvSpec, build: Any) -> TeamNetwork:
        """What `build(spec of one agent)` makes, for all agents: once, or once for each."""
        members = [build(spec.member) for _ in range(1 if self.share else spec.team.size)]  # type: ignore[union-attr]
        return TeamNetwork(members[0] if self.share else separate(members), spec.team.size)  # type: ignore[union-attr]
