"""Multi-Agent PPO, for discrete, multidiscrete and continuous actions of teams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec, visible
from protorl.networks import (
    ActorCritic,
    Base,
    DictBase,
    Network,
    NormalisedValueHead,
    ObsScaler,
    TeamNetwork,
    ValueHead,
    build_base,
    build_network,
    scaled,
)
from protorl.networks.teams import team_of
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.on_policy import OnPolicy
from protorl.recipes.ppo import Proximal
from protorl.recipes.presets import Presets
from protorl.recipes.teams import Teams

VALUE_SCALES: dict[str, Callable[[int, float | None], ValueHead]] = {
    "popart": lambda agents, gain: NormalisedValueHead(agents, gain),
    "moments": lambda agents, gain: NormalisedValueHead(agents, gain, preserve=False),
    "none": lambda agents, gain: ValueHead(gain, agents),
}


class MAPPO(Teams, Proximal, OnPolicy):
    """Multi-Agent PPO: a critic of the common state, and an actor for each agent."""

    name: ClassVar[str] = "mappo"
    paper: ClassVar[str] = "Yu et al. 2022, arXiv 2103.01955"
    presets: ClassVar[Presets] = presets.MAPPO
    agent_class: ClassVar[type[Agent]] = agents.MAPPO

    share: bool = hp(True, "the actors are one network, told apart by their one-hot; no: each agent has its own", paper="yes")
    num_envs: int = hp(16, "parallel environments", paper="128", low=1)
    lr: float = hp(7e-4, "learning rate", paper="7e-4", low=0.0)
    max_grad_norm: float | None = hp(10.0, "clips the gradient's norm; none: not", paper="10", low=0.0)
    rollout_steps: int = hp(100, "length of a rollout", unit="agent steps, in each environment", paper="25", low=1)
    epochs: int = hp(10, "passes over each rollout", paper="10", low=1)
    batch_size: int = hp(1_600, "teams per update", paper="3 200: all of a rollout", low=1)
    entropy_coef: float = hp(0.01, "weight of the entropy", paper="0.01", low=0.0)
    clip_value: float | None = hp(
        0.2, "how far a value may move per rollout, in the unit of its error; none: freely", paper="0.2", low=0.0
    )
    activation: str = hp("relu", "activation of an MLP", paper="relu")
    normalise_obs: bool = hp(False, "observations and states scaled by their running mean and deviation", paper="layer norm")
    normalise_value: str = hp(
        "popart",
        "of the value's error: popart measures it in deviations of the return and rescales the last layer as these move, "
        "moments leaves the layer, none takes returns as they are",
        paper="popart or moments",
        choices=tuple(VALUE_SCALES),
    )

    def network(self, spec: EnvSpec) -> ActorCritic:
        """A policy of what each observes, and the values of all by the state."""
        actor = self.actor(spec)
        return ActorCritic(actor, self.critic(spec, actor))  # type: ignore[arg-type]

    def actor(self, spec: EnvSpec) -> TeamNetwork:
        """What each agent's distribution depends on."""

        def one(member: EnvSpec) -> Network:
            network = build_network(member, {"base": self.base_config(member, self.init), "head": self.head(member)})
            network.base = self.scaled(network.base, visible(member.obs))
            return network

        return self.for_each(spec, one)

    def critic(self, spec: EnvSpec, actor: Any) -> Network:
        """V of each agent, by the common state."""
        seen: Any = spec.obs
        state = dataclasses.replace(spec, obs=seen["state"])
        base = self.scaled(build_base(state.obs, self.base_config(state, self.init)), state.obs)
        head = VALUE_SCALES[self.normalise_value](team_of(spec)[0].size, self.value_gain)
        return Network(DictBase({"state": base}), head)

    def scaled(self, base: Base, obs: Any) -> Base:
        """The base, with a scaler before it if so asked."""
        return scaled(ObsScaler(obs), base) if self.normalise_obs else base
