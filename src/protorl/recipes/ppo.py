"""Proximal Policy Optimisation, for discrete, multidiscrete and continuous actions."""

from __future__ import annotations

from typing import Any, ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec, ProtoRLError, visible
from protorl.networks import ActorCritic, Base, Core, Network, ObsScaler, ValueHead, build_base, build_network, scaled
from protorl.policies import Beta, Categorical, Gaussian, Stochastic
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.on_policy import OnPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe
from protorl.recipes.recurrent import Recurrent

DISTRIBUTIONS: dict[str, type[Categorical | Gaussian | Beta]] = {"categorical": Categorical, "gaussian": Gaussian, "beta": Beta}


class Proximal(Recipe):
    """A policy and a value, learned by the clipped surrogate: what PPO and all that is built on it share. For recipes that are
    `OnPolicy`, too."""

    numbers: ClassVar[str] = "ppo"
    steps: int = hp(1_000_000, "length of the training", unit="agent steps, all environments together", low=0)
    lr: float = hp(3e-4, "learning rate", paper="3e-4", low=0.0)
    anneal: bool = hp(False, "the learning rate falls to 0 with the training", paper="Atari: true")
    optimizer_eps: float = hp(1e-5, "the optimizer's epsilon, if it has one", low=0.0)
    max_grad_norm: float | None = hp(0.5, "clips the gradient's norm; none: not", paper="none", low=0.0)
    gae_lambda: float = hp(0.95, "lambda of the advantage estimation", paper="0.95", low=0.0, high=1.0)
    clip: float = hp(0.2, "how far the ratio may leave 1", paper="0.2", low=1e-6)
    anneal_clip: bool = hp(False, "clip falls to 0 with the training", paper="Atari: true")
    clip_value: float | None = hp(None, "how far a value may move per rollout; none: freely", paper="none", low=0.0)
    value_coef: float = hp(0.5, "weight of the squared error of the value", paper="c1; irrelevant without sharing", low=0.0)
    entropy_coef: float = hp(0.0, "weight of the entropy", paper="0; Atari: 0.01", low=0.0)
    target_kl: float | None = hp(None, "skips a rollout's updates beyond 1.5 times this divergence", unit="nats", low=0.0)
    normalise_advantage: bool = hp(True, "advantages with mean 0 and deviation 1 in each minibatch", paper="not mentioned")
    normalise_obs: bool = hp(False, "observations scaled by their running mean and deviation", paper="not mentioned")
    normalise_reward: bool = hp(False, "rewards divided by the running deviation of the return", paper="not mentioned")
    distribution: str = hp(
        "auto", "of actions: categorical for choices, gaussian or beta for numbers", choices=("auto", *DISTRIBUTIONS)
    )
    widths: tuple[int, ...] = hp((64, 64), "hidden layers of an MLP", paper="64, 64", low=1)
    activation: str = hp("tanh", "activation of an MLP", paper="tanh")
    init: str = hp("orthogonal", "initial weights", choices=("orthogonal", "default"))
    log_std: float = hp(0.0, "log of a Gaussian's deviation at first")

    def hyperparameters(self: Any, spec: EnvSpec) -> dict[str, object]:
        return {
            "lr": self.falling(self.lr, self.anneal, spec),
            "clip": self.falling(self.clip, self.anneal_clip, spec),
            "gae_lambda": self.gae_lambda,
            "value_coef": self.value_coef,
            "entropy_coef": self.entropy_coef,
            "clip_value": self.clip_value,
            "target_kl": self.target_kl,
            "normalise_advantage": self.normalise_advantage,
            "scale_rewards": self.normalise_reward,
        }

    def distribution_of(self, spec: EnvSpec) -> str:
        """`auto`: categorical for choices, Gaussian for numbers."""
        fitting = ("gaussian", "beta") if spec.action.kind == "box" else ("categorical",)
        if self.distribution not in ("auto", *fitting):
            raise ProtoRLError(
                f"distribution {self.distribution!r} does not choose {spec.action.kind} actions: "
                f"use {' or '.join(fitting)}, or auto"
            )
        return fitting[0] if self.distribution == "auto" else self.distribution

    def policy(self, spec: EnvSpec) -> Stochastic[Any]:
        return DISTRIBUTIONS[self.distribution_of(spec)](spec.action, seed=self.seed, rows=spec.lanes)

    def head(self, spec: EnvSpec) -> dict[str, object]:
        """What the policy's distribution depends on, for `build_network`."""
        kind = self.distribution_of(spec)
        start = {"log_std": self.log_std} if kind == "gaussian" else {}
        return {"type": kind, "gain": 0.01 if self.init == "orthogonal" else None, **start}

    @property
    def value_gain(self) -> float | None:
        """Of the initial weights of the value's last layer."""
        return 1.0 if self.init == "orthogonal" else None


class OneTrunk(Recipe):
    """The networks of recipes that are `Proximal`: actor and critic see the same, and may share their body and what remembers.
    For recipes that are `Recurrent` and `OnPolicy`, too."""

    numbers: ClassVar[str] = "ppo"
    reward_streams: ClassVar[int | None] = None
    """Of which the critic has a value each; None: of one, without an axis."""

    share_base: bool | None = hp(
        None, "one body for actor and critic; none: for images, and with a core", paper="MuJoCo: no; Atari: yes"
    )
    sequence_steps: int | None = hp(
        None,
        "length of the sequences that a core learns from; none: rollout_steps, or batch_size if that is less",
        unit="agent steps",
        low=1,
    )

    def sequence(self: Any) -> int:
        """Steps of the sequences that a network with a core learns from."""
        if self.sequence_steps is None:
            return OnPolicy.sequence(self)
        if self.sequence_steps > self.batch_size:
            raise ProtoRLError(
                f"batch_size {self.batch_size} is less than the {self.sequence_steps} steps of a sequence: raise batch_size or "
                "lower sequence_steps"
            )
        return self.sequence_steps

    def network(self: Any, spec: EnvSpec) -> ActorCritic:
        """Policy and value, on one base or on two; with `normalise_obs`, one scaler before both."""
        actor = self.actor(spec)
        critic = self.critic(spec, actor)
        if self.normalise_obs:
            scaler, shared = ObsScaler(visible(spec.obs)), critic.base is actor.base
            actor.base = scaled(scaler, actor.base)
            critic.base = actor.base if shared else scaled(scaler, critic.base)
        return ActorCritic(actor, critic)

    def actor(self: Any, spec: EnvSpec) -> Network:
        """What the policy's distribution depends on."""
        config = {"base": self.base_config(spec, self.init), "core": self.core_config(), "head": self.head(spec)}
        return build_network(spec, config)

    def critic(self: Any, spec: EnvSpec, actor: Network) -> Network:
        """V, on the actor's base where they share one; and then by its core."""
        share = spec.pixels or self.core != "none" if self.share_base is None else self.share_base
        base: Base = actor.base if share else build_base(spec.obs, self.base_config(spec, self.init))
        head = ValueHead(self.value_gain, self.reward_streams)
        return Network(base, head, actor.core if share and isinstance(actor.core, Core) else None)


class PPO(Proximal, OneTrunk, Recurrent, OnPolicy):
    """Proximal Policy Optimisation."""

    name: ClassVar[str] = "ppo"
    paper: ClassVar[str] = "Schulman et al. 2017, arXiv 1707.06347"
    presets: ClassVar[Presets] = presets.PPO
    agent_class: ClassVar[type[Agent]] = agents.PPO
