"""Off-policy learning of teams with critics of joint actions: MADDPG and MATD3, for choices and for numbers."""

from __future__ import annotations

from typing import Any, ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import CentralCritics, LocalCritics, TeamNetwork, build_network
from protorl.networks.teams import TeamCritics
from protorl.policies import Categorical, GumbelSoftmax, NoisyDeterministic, Numbers, Warmup
from protorl.recipes import presets
from protorl.recipes.continuous import Climbing, deterministic_actor, exploration_noise
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe
from protorl.recipes.teams import Teams


class JointCritics(Recipe):
    """Each agent has critics of what all see and do. For recipes that are `Teams`, `Climbing` and `OffPolicy`, too."""

    numbers: ClassVar[str] = "maddpg"
    actions: ClassVar[tuple[str, ...]] = ("discrete", "box")

    share: bool = hp(
        False, "the actors are one network, told apart by their one-hot; no: each agent has its own, as critics are", paper="no"
    )
    central: bool = hp(
        True, "critics see the state and everybody's action; no: their own agent's observation and action (DDPG)", paper="yes"
    )
    others: str = hp(
        "replay",
        "what the others do in an actor's objective: as they did, or as they would now",
        paper="current (the authors' code: replay)",
        choices=agents.maddpg.OTHERS,
    )
    temperature: float = hp(1.0, "of the Gumbel-softmax by which choices are drawn", low=1e-6)
    logit_penalty: float = hp(1e-3, "weight of the mean squared logit of choices", paper="1e-3 (the authors' code)", low=0.0)
    gamma: float = hp(0.95, "discount per agent step", paper="0.95", low=0.0, high=1.0)
    lr: float = hp(1e-2, "learning rate", paper="0.01", low=0.0)
    tau: float = hp(0.01, "how far the targets follow per update", paper="0.01", low=0.0, high=1.0)
    batch_size: int = hp(1_024, "teams per update", paper="1 024", low=1)
    update_every: int = hp(100, "between bursts of updates", unit="agent steps", paper="100", low=1)
    warmup_steps: int = hp(
        25_600,
        "uniformly random actions, before the first update",
        unit="agent steps",
        paper="25 600 (of the first policy)",
        low=0,
    )
    max_grad_norm: float | None = hp(
        0.5,
        "clips the gradient's norm, of all agents together; none: not",
        paper="0.5 of each weight (the authors' code)",
        low=0.0,
    )
    widths: tuple[int, ...] = hp((64, 64), "hidden layers", paper="64, 64", low=1)
    noise: str = hp("gaussian", "exploration noise, where actions are numbers", choices=("ou", "gaussian"))
    noise_std: float = hp(0.1, "its sigma, in half ranges of the action", low=0.0)
    noise_theta: float = hp(0.15, "how fast Ornstein-Uhlenbeck noise returns", low=0.0, high=1.0)

    def actor(self: Any, spec: EnvSpec) -> TeamNetwork:
        """Logits, or an action, of each agent."""

        def choices(member: EnvSpec) -> Any:
            return build_network(member, {"base": self.base_config(member), "head": "categorical"})

        discrete = spec.action.kind == "discrete"
        team: TeamNetwork = self.for_each(spec, choices if discrete else lambda member: deterministic_actor(self, member))
        return team

    def critic(self: Any, spec: EnvSpec, actor: TeamNetwork) -> TeamCritics:
        """Of each agent, `critics` in number."""
        kind = CentralCritics if self.central else LocalCritics
        return kind(
            spec, widths=self.widths, activation=self.activation, k=self.critics, bound=self.final_bound,
            layer_norm=self.layer_norm,
        )  # fmt: skip

    def policy(self: Any, spec: EnvSpec) -> Warmup[Any]:
        if spec.action.kind == "discrete":
            return self.warmed(Categorical(spec.action, seed=self.seed, rows=spec.lanes), spec)  # type: ignore[no-any-return]
        return self.warmed(NoisyDeterministic(exploration_noise(self, spec)), spec)  # type: ignore[no-any-return]

    def hyperparameters(self: Any, spec: EnvSpec) -> dict[str, object]:
        discrete = spec.action.kind == "discrete"
        return {
            "tau": self.tau,
            "vectors": GumbelSoftmax(spec.action.n, self.temperature) if discrete else Numbers(),
            "others": self.others,
            "logit_penalty": self.logit_penalty,
        }


class MADDPG(JointCritics, Teams, Climbing, OffPolicy):
    """Multi-Agent DDPG: decentralised actors, a central critic for each agent."""

    name: ClassVar[str] = "maddpg"
    paper: ClassVar[str] = "Lowe et al. 2017, arXiv 1706.02275"
    presets: ClassVar[Presets] = presets.MADDPG
    agent_class: ClassVar[type[Agent]] = agents.MADDPG

    critics: int = hp(1, "critics of each agent", paper="1", low=1)


class MATD3(JointCritics, Teams, Climbing, OffPolicy):
    """Multi-Agent TD3: two central critics for each agent, smoothed targets, delayed actors."""

    name: ClassVar[str] = "matd3"
    paper: ClassVar[str] = "Ackermann et al. 2019, arXiv 1910.01465"
    presets: ClassVar[Presets] = presets.MADDPG
    agent_class: ClassVar[type[Agent]] = agents.MATD3

    critics: int = hp(2, "critics of each agent", paper="2", low=1)
    delay: int = hp(2, "critic updates per update of actor and targets", paper="2", low=1)
    target_noise: float = hp(0.2, "noise on target actions that are numbers, in half ranges", paper="0.2", low=0.0)
    noise_clip: float = hp(0.5, "where that noise is clipped", paper="0.5", low=0.0)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"delay": self.delay, "noise_clip": self.noise_clip}
        target_noise = self.target_noise if spec.action.kind == "box" else 0.0
        return {**super().hyperparameters(spec), **numbers, "target_noise": target_noise}
