"""Off-policy control of continuous actions: DDPG, TD3 and SAC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import ActorCritic, Adam, Optimizer, QEnsemble, build_base, build_network
from protorl.policies import GaussianNoise, NoisyDeterministic, OUNoise, Policy, SquashedGaussian, Warmup
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy


class ActorCriticRecipe(OffPolicy):
    """What DDPG, TD3 and SAC share: an actor, an ensemble of critics, an optimizer for each, random actions at first."""

    actions: ClassVar[tuple[str, ...]] = ("box",)

    actor_lr: float | None = hp(None, "learning rate of the actor; none: as lr", low=0.0)
    optimizer_eps: float = hp(1e-8, "Adam's epsilon", low=0.0)
    weight_decay: float = hp(0.0, "L2 penalty on the critic's weights", low=0.0)
    max_grad_norm: float | None = hp(None, "clips each gradient's norm; none: not", low=0.0)
    tau: float = hp(0.005, "how far the targets follow per update", low=0.0, high=1.0)
    critics: int = hp(2, "critics in the ensemble", low=1)
    final_bound: float | None = hp(None, "last layers start in U[-bound, bound]; none: torch's default", low=0.0)
    warmup_steps: int = hp(10_000, "uniformly random actions, before the first update", unit="agent steps", low=0)

    def network(self, spec: EnvSpec, head: Mapping[str, Any]) -> ActorCritic:
        """An actor with this head, and critics that see the action beside the observation (or the image's features)."""
        actor = build_network(spec, {"base": self.base_config(spec), "head": head})
        vector = self.base_config(spec)["type"] == "mlp"
        base, widths = self.critic_layers() if vector else ((), self.widths)
        critic_base = build_base(spec.obs, self.base_config(spec, widths=base))
        critic = QEnsemble(critic_base, spec.action, widths, self.activation, self.critics, self.final_bound, self.layer_norm)
        return ActorCritic(actor, critic).to(self.resolve_device(spec))

    def critic_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Hidden layers of a critic before and after the action enters."""
        return (), self.widths

    def optimizers(self, network: ActorCritic) -> tuple[Optimizer, Optimizer]:
        """Adam for the actor, Adam for the critics."""
        shared: dict[str, Any] = {"eps": self.optimizer_eps, "max_grad_norm": self.max_grad_norm}
        actor = Adam(network.actor, self.lr if self.actor_lr is None else self.actor_lr, **shared)
        return actor, Adam(network.critic, self.lr, weight_decay=self.weight_decay, **shared)

    def warmed(self, policy: Policy, spec: EnvSpec) -> Warmup:
        """The policy after `warmup_steps` random actions."""
        return Warmup(policy, spec.action, self.warmup_steps, seed=self.seed, rows=spec.lanes)


class DDPG(ActorCriticRecipe):
    """Deep Deterministic Policy Gradient."""

    name: ClassVar[str] = "ddpg"
    paper: ClassVar[str] = "Lillicrap et al. 2016, arXiv 1509.02971"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets.DDPG

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

    agent_class: ClassVar[type[agents.DDPG]] = agents.DDPG

    def agent(self, spec: EnvSpec) -> Agent:
        network = self.network(spec, {"type": "deterministic", "bound": self.final_bound})
        optimizers = self.optimizers(network)
        return self.agent_class(network, self.policy(spec), *optimizers, tau=self.tau, **self.agent_arguments())

    def agent_arguments(self) -> dict[str, Any]:
        """What a variant of DDPG takes besides."""
        return {}

    def critic_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.widths[: self.action_layer - 1], self.widths[self.action_layer - 1 :]

    def policy(self, spec: EnvSpec) -> Warmup:
        """The actor plus noise, after random actions."""
        rows = spec.lanes
        noise: GaussianNoise
        if self.noise == "ou":
            noise = OUNoise(spec.action, self.noise_std, self.noise_theta, seed=self.seed, rows=rows)
        else:
            noise = GaussianNoise(spec.action, self.noise_std, seed=self.seed, rows=rows)
        return self.warmed(NoisyDeterministic(noise), spec)


class TD3(DDPG):
    """Twin Delayed DDPG."""

    name: ClassVar[str] = "td3"
    paper: ClassVar[str] = "Fujimoto, van Hoof and Meger 2018, arXiv 1802.09477"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets.TD3

    lr: float = hp(1e-3, "learning rate", paper="1e-3", low=0.0)
    actor_lr: float | None = hp(None, "learning rate of the actor; none: as lr", paper="1e-3", low=0.0)
    weight_decay: float = hp(0.0, "L2 penalty on the critic's weights", paper="0", low=0.0)
    tau: float = hp(0.005, "how far the targets follow per update", paper="0.005", low=0.0, high=1.0)
    critics: int = hp(2, "critics in the ensemble", paper="2", low=1)
    batch_size: int = hp(100, "examples per update", paper="100", low=1)
    widths: tuple[int, ...] = hp((400, 300), "hidden layers", paper="400, 300", low=1)
    final_bound: float | None = hp(None, "last layers start in U[-bound, bound]; none: torch's default", low=0.0)
    noise: str = hp("gaussian", "exploration noise", paper="gaussian", choices=("ou", "gaussian"))
    noise_std: float = hp(0.1, "its sigma, in half ranges of the action", paper="0.1", low=0.0)
    action_layer: int = hp(1, "layer of the critic at which the action enters", paper="1", low=1)
    delay: int = hp(2, "critic updates per update of actor and targets", paper="2", low=1)
    target_noise: float = hp(0.2, "noise on the target action, in half ranges", paper="0.2", low=0.0)
    noise_clip: float = hp(0.5, "where that noise is clipped", paper="0.5", low=0.0)

    agent_class: ClassVar[type[agents.DDPG]] = agents.TD3

    def agent_arguments(self) -> dict[str, Any]:
        return {"delay": self.delay, "target_noise": self.target_noise, "noise_clip": self.noise_clip}


class SAC(ActorCriticRecipe):
    """Soft Actor-Critic with an automatic temperature."""

    name: ClassVar[str] = "sac"
    paper: ClassVar[str] = "Haarnoja et al. 2018, arXiv 1812.05905"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets.SAC

    alpha: float = hp(1.0, "temperature at first", paper="1", low=1e-8)
    alpha_lr: float | None = hp(3e-4, "learning rate of the temperature; none: it stays", paper="3e-4", low=0.0)
    target_entropy: float | None = hp(None, "nats; none: minus the number of actions", paper="-dim(A)")

    def agent(self, spec: EnvSpec) -> Agent:
        network = self.network(spec, {"type": "gaussian", "state_dependent": True})
        target = -float(np.prod(spec.action.shape)) if self.target_entropy is None else self.target_entropy
        return agents.SAC(
            network,
            self.warmed(SquashedGaussian(spec.action, seed=self.seed, rows=spec.lanes), spec),
            *self.optimizers(network),
            tau=self.tau,
            alpha=self.alpha,
            alpha_lr=self.alpha_lr,
            target_entropy=target,
        )
