"""Off-policy control of continuous actions: DDPG, TD3 and SAC."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import ActorCritic, Network, Optimizer, QEnsemble, build_base, build_network
from protorl.policies import BestAction, GaussianNoise, NoisyDeterministic, Normal, OUNoise, Policy, SquashedGaussian, Warmup
from protorl.policies.outputs import Out
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe


class Climbing(Recipe):
    """An actor that climbs its critics, an optimizer for each, targets that follow, random actions at first."""

    numbers: ClassVar[str] = ""

    actor_lr: float | None = hp(None, "learning rate of the actor; none: as lr", low=0.0)
    weight_decay: float = hp(0.0, "L2 penalty on the critic's weights", low=0.0)
    tau: float = hp(0.005, "how far the targets follow per update", low=0.0, high=1.0)
    critics: int = hp(2, "critics in the ensemble", low=1)
    final_bound: float | None = hp(None, "last layers start in U[-bound, bound]; none: torch's default", low=0.0)
    warmup_steps: int = hp(10_000, "uniformly random actions, before the first update", unit="agent steps", low=0)

    def network(self: Any, spec: EnvSpec) -> ActorCritic:
        """An actor, and critics that see its action."""
        actor = self.actor(spec)
        return ActorCritic(actor, self.critic(spec, actor))

    def optimizers(self, network: Any) -> dict[str, Optimizer]:
        """One for the actor, one for the critics."""
        decay = {"weight_decay": self.weight_decay} if self.weight_decay else {}
        return {
            "actor_optimizer": self.make_optimizer(network.actor, self.actor_lr),
            "critic_optimizer": self.make_optimizer(network.critic, **decay),
        }

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        return {"tau": self.tau}

    def warmed(self, policy: Policy[Out], spec: EnvSpec) -> Warmup[Out]:
        """The policy after `warmup_steps` random actions."""
        return Warmup(policy, spec.action, self.warmup_steps, seed=self.seed, rows=spec.lanes)


class Continuous(Recipe):
    """Critics of an observation and a box action: what DDPG, TD3 and SAC share. For recipes that are `Climbing`, too."""

    numbers: ClassVar[str] = ""
    actions: ClassVar[tuple[str, ...]] = ("box",)

    action_layer: int = hp(1, "layer of the critic at which the action enters", low=1)

    def actor(self, spec: EnvSpec) -> Network:
        """A base from the fields, and the head that the algorithm wants."""
        raise self.lacks("a method actor(spec)")

    def critic(self: Any, spec: EnvSpec, actor: Network) -> QEnsemble:
        """Critics that see the action beside the output of their first layers (or the image's features). actor: whose base they
        may share."""
        first = self.action_layer - 1 if self.base_config(spec)["type"] == "mlp" else 0
        base = build_base(spec.obs, self.base_config(spec, widths=self.widths[:first]))
        widths = self.widths[first:]
        return QEnsemble(base, spec.action, widths, self.activation, self.critics, self.final_bound, self.layer_norm)


class DDPG(Continuous, Climbing, OffPolicy):
    """Deep Deterministic Policy Gradient."""

    name: ClassVar[str] = "ddpg"
    paper: ClassVar[str] = "Lillicrap et al. 2016, arXiv 1509.02971"
    presets: ClassVar[Presets] = presets.DDPG
    agent_class: ClassVar[type[Agent]] = agents.DDPG

    lr: float = hp(1e-3, "learning rate of the critic", paper="1e-3", low=0.0)
    actor_lr: float | None = hp(1e-4, "learning rate of the actor; none: as lr", paper="1e-4", low=0.0)
    weight_decay: float = hp(1e-2, "L2 penalty on the critic's weights", paper="1e-2", low=0.0)
    tau: float = hp(0.001, "how far the targets follow per update", paper="0.001", low=0.0, high=1.0)
    critics: int = hp(1, "critics in the ensemble", paper="1", low=1)
    batch_size: int = hp(64, "examples per update", paper="64", low=1)
    widths: tuple[int, ...] = hp((400, 300), "hidden layers; the action enters at the second", paper="400, 300", low=1)
    final_bound: float | None = hp(3e-3, "last layers start in U[-bound, bound]; none: torch's default", paper="3e-3", low=0.0)
    warmup_steps: int = hp(1_000, "uniformly random actions, before the first update", unit="agent steps", low=0)
    noise: str = hp("ou", "exploration noise", paper="ou", choices=("ou", "gaussian"))
    noise_std: float = hp(0.2, "its sigma, in half ranges of the action", paper="0.2", low=0.0)
    noise_theta: float = hp(0.15, "how fast Ornstein-Uhlenbeck noise returns", paper="0.15", low=0.0, high=1.0)
    action_layer: int = hp(2, "layer of the critic at which the action enters", paper="2", low=1)

    def actor(self, spec: EnvSpec) -> Network:
        return deterministic_actor(self, spec)

    def policy(self, spec: EnvSpec) -> Warmup[BestAction]:
        return self.warmed(NoisyDeterministic(exploration_noise(self, spec)), spec)


class TD3(Continuous, Climbing, OffPolicy):
    """Twin Delayed DDPG."""

    name: ClassVar[str] = "td3"
    paper: ClassVar[str] = "Fujimoto, van Hoof and Meger 2018, arXiv 1802.09477"
    presets: ClassVar[Presets] = presets.TD3
    agent_class: ClassVar[type[Agent]] = agents.TD3

    lr: float = hp(1e-3, "learning rate", paper="1e-3", low=0.0)
    actor_lr: float | None = hp(None, "learning rate of the actor; none: as lr", paper="1e-3", low=0.0)
    weight_decay: float = hp(0.0, "L2 penalty on the critic's weights", paper="0", low=0.0)
    tau: float = hp(0.005, "how far the targets follow per update", paper="0.005", low=0.0, high=1.0)
    critics: int = hp(2, "critics in the ensemble", paper="2", low=1)
    batch_size: int = hp(100, "examples per update", paper="100", low=1)
    widths: tuple[int, ...] = hp((400, 300), "hidden layers", paper="400, 300", low=1)
    warmup_steps: int = hp(1_000, "uniformly random actions, before the first update", unit="agent steps", low=0)
    noise: str = hp("gaussian", "exploration noise", paper="gaussian", choices=("ou", "gaussian"))
    noise_std: float = hp(0.1, "its sigma, in half ranges of the action", paper="0.1", low=0.0)
    noise_theta: float = hp(0.15, "how fast Ornstein-Uhlenbeck noise returns", low=0.0, high=1.0)
    action_layer: int = hp(1, "layer of the critic at which the action enters", paper="1", low=1)
    delay: int = hp(2, "critic updates per update of actor and targets", paper="2", low=1)
    target_noise: float = hp(0.2, "noise on the target action, in half ranges", paper="0.2", low=0.0)
    noise_clip: float = hp(0.5, "where that noise is clipped", paper="0.5", low=0.0)

    def actor(self, spec: EnvSpec) -> Network:
        return deterministic_actor(self, spec)

    def policy(self, spec: EnvSpec) -> Warmup[BestAction]:
        return self.warmed(NoisyDeterministic(exploration_noise(self, spec)), spec)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"delay": self.delay, "target_noise": self.target_noise, "noise_clip": self.noise_clip}
        return {**super().hyperparameters(spec), **numbers}


def deterministic_actor(recipe: Any, spec: EnvSpec) -> Network:
    """One action for each observation."""
    return build_network(
        spec, {"base": recipe.base_config(spec), "head": {"type": "deterministic", "bound": recipe.final_bound}}
    )


def exploration_noise(recipe: Any, spec: EnvSpec) -> GaussianNoise:
    """What is added to its actions, a stream for each environment."""
    rows = spec.lanes
    if recipe.noise == "ou":
        return OUNoise(spec.action, recipe.noise_std, recipe.noise_theta, seed=recipe.seed, rows=rows)
    return GaussianNoise(spec.action, recipe.noise_std, seed=recipe.seed, rows=rows)


class SAC(Continuous, Climbing, OffPolicy):
    """Soft Actor-Critic with an automatic temperature."""

    name: ClassVar[str] = "sac"
    paper: ClassVar[str] = "Haarnoja et al. 2018, arXiv 1812.05905"
    presets: ClassVar[Presets] = presets.SAC
    agent_class: ClassVar[type[Agent]] = agents.SAC

    lr: float = hp(3e-4, "learning rate", paper="3e-4", low=0.0)
    tau: float = hp(0.005, "how far the targets follow per update", paper="0.005", low=0.0, high=1.0)
    critics: int = hp(2, "critics in the ensemble", paper="2", low=1)
    batch_size: int = hp(256, "examples per update", paper="256", low=1)
    widths: tuple[int, ...] = hp((256, 256), "hidden layers", paper="256, 256", low=1)
    alpha: float = hp(1.0, "temperature at first", paper="1", low=1e-8)
    alpha_lr: float | None = hp(3e-4, "learning rate of the temperature; none: it stays", paper="3e-4", low=0.0)
    target_entropy: float | None = hp(None, "nats; none: minus the number of actions", paper="-dim(A)")

    def actor(self, spec: EnvSpec) -> Network:
        """A Gaussian whose spread depends on the state."""
        return build_network(spec, {"base": self.base_config(spec), "head": {"type": "gaussian", "state_dependent": True}})

    def policy(self, spec: EnvSpec) -> Warmup[Normal]:
        return self.warmed(SquashedGaussian(spec.action, seed=self.seed, rows=spec.lanes), spec)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        target = -float(np.prod(spec.action.shape)) if self.target_entropy is None else self.target_entropy
        numbers = {"alpha": self.alpha, "alpha_lr": self.alpha_lr, "target_entropy": target}
        return {**super().hyperparameters(spec), **numbers}
