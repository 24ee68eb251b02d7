"""Recipes for teams: an environment is a row, and one agent learns for all who play in it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from protorl.data import EnvSpec
from protorl.networks import TeamNetwork, one_each
from protorl.networks.teams import team_of
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class Teams(Recipe):
    """Rows are teams; each agent acts by what it observes, all by one network or each by its own."""

    numbers: ClassVar[str] = ""
    as_teams: ClassVar[bool] = True

    share: bool = hp(True, "the actors are one network, told apart by their one-hot; no: each agent has its own")

    def networks(self, spec: EnvSpec) -> nn.Module:
        return self.network(spec)

    def for_each(self, spec: EnvSpec, build: Any) -> TeamNetwork:
        """What `build(spec of one agent)` makes, for all agents: once, or once for each."""
        team, _ = team_of(spec)
        return TeamNetwork(build(spec.member) if self.share else one_each(spec.member, build), team.size)
