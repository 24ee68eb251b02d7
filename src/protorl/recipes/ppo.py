"""Proximal Policy Optimisation, for discrete, multidiscrete and continuous actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec, Linear, ProtoRLError, Schedule
from protorl.memory import Minibatches, Rate, Replay, Rollout
from protorl.networks import ActorCritic, Adam, Base, Network, ObsScaler, ScaledBase, ValueHead, build_base, build_network
from protorl.policies import Beta, Categorical, Gaussian, Stochastic
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe

POLICIES: dict[str, type[Categorical | Gaussian | Beta]] = {"categorical": Categorical, "gaussian": Gaussian, "beta": Beta}


class PPO(Recipe):
    """Proximal Policy Optimisation."""

    name: ClassVar[str] = "ppo"
    paper: ClassVar[str] = "Schulman et al. 2017, arXiv 1707.06347"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets.PPO

    steps: int = hp(1_000_000, "length of the training", unit="agent steps, all environments together", low=0)
    lr: float = hp(3e-4, "learning rate", paper="3e-4", low=0.0)
    anneal: bool = hp(False, "the learning rate falls to 0 with the training", paper="Atari: true")
    optimizer_eps: float = hp(1e-5, "Adam's epsilon", low=0.0)
    max_grad_norm: float | None = hp(0.5, "clips the gradient's norm; none: not", paper="none", low=0.0)
    rollout_steps: int = hp(2_048, "length of a rollout", unit="agent steps, in each environment", paper="2048", low=1)
    epochs: int = hp(10, "passes over each rollout", paper="10", low=1)
    batch_size: int = hp(64, "examples per update", paper="64", low=1)
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
    clip_reward: float | None = hp(None, "clips each reward to [-c, c] for learning", paper="Atari: 1", low=0.0)
    policy: str = hp("auto", "distribution of actions", choices=("auto", "categorical", "gaussian", "beta"))
    share_base: bool | None = hp(None, "one body for actor and critic; none: for images", paper="MuJoCo: no; Atari: yes")
    widths: tuple[int, ...] = hp((64, 64), "hidden layers of an MLP", paper="64, 64", low=1)
    activation: str = hp("tanh", "activation of an MLP", paper="tanh")
    init: str = hp("orthogonal", "initial weights", choices=("orthogonal", "default"))
    log_std: float = hp(0.0, "log of a Gaussian's deviation at first")

    def agent(self, spec: EnvSpec) -> Agent:
        network = self.network(spec).to(self.resolve_device(spec))
        optimizer = Adam(network, self.lr, eps=self.optimizer_eps, max_grad_norm=self.max_grad_norm)
        return agents.PPO(
            network,
            self.make_policy(spec),
            optimizer,
            lr=self.falling(self.lr, self.anneal, spec),
            clip=self.falling(self.clip, self.anneal_clip, spec),
            gae_lambda=self.gae_lambda,
            value_coef=self.value_coef,
            entropy_coef=self.entropy_coef,
            clip_value=self.clip_value,
            target_kl=self.target_kl,
            normalise_advantage=self.normalise_advantage,
            scale_rewards=self.normalise_reward,
        )

    def policy_kind(self, spec: EnvSpec) -> str:
        """`auto`: categorical for choices, Gaussian for numbers."""
        fitting = ("gaussian", "beta") if spec.action.kind == "box" else ("categorical",)
        if self.policy not in ("auto", *fitting):
            raise ProtoRLError(
                f"policy {self.policy!r} does not choose {spec.action.kind} actions: use {' or '.join(fitting)}, or auto"
            )
        return fitting[0] if self.policy == "auto" else self.policy

    def make_policy(self, spec: EnvSpec) -> Stochastic:
        """The policy, a stream per environment."""
        return POLICIES[self.policy_kind(spec)](spec.action, seed=self.seed, rows=spec.lanes)

    def network(self, spec: EnvSpec) -> ActorCritic:
        """Policy and value, on one body or on two."""
        kind = self.policy_kind(spec)
        orthogonal = self.init == "orthogonal"
        start = {"log_std": self.log_std} if kind == "gaussian" else {}
        config = self.base_config(spec, self.init)
        head = {"type": kind, "gain": 0.01 if orthogonal else None, **start}
        actor = build_network(spec, {"base": config, "head": head})
        share = spec.pixels if self.share_base is None else self.share_base
        base: Base = actor.base if share else build_base(spec.obs, config)
        if self.normalise_obs:
            scaler = ObsScaler(spec.obs)
            actor.base, base = ScaledBase(scaler, actor.base), ScaledBase(scaler, base)
            if share:
                base = actor.base
        return ActorCritic(actor, Network(base, ValueHead(1.0 if orthogonal else None)))

    def falling(self, value: float, falls: bool, spec: EnvSpec) -> float | Schedule:
        """The value, or a straight line from it to 0 over all updates of the training."""
        rollouts = self.steps // (self.rollout_steps * spec.num_envs)
        return Linear(value, 0.0, max(rollouts * self.updates_per_rollout(spec), 1)) if falls else value

    def minibatches(self, spec: EnvSpec) -> int:
        """Updates per epoch."""
        rows = self.rollout_steps * spec.num_envs
        if self.batch_size > rows:
            raise ProtoRLError(
                f"batch_size {self.batch_size} exceeds the {rows} steps of a rollout ({self.rollout_steps} in each of "
                f"{spec.num_envs} environments): raise rollout_steps or num_envs, or lower batch_size"
            )
        return -(-rows // self.batch_size)

    def updates_per_rollout(self, spec: EnvSpec) -> int:
        """All epochs' minibatches."""
        return self.epochs * self.minibatches(spec)

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        rows = self.rollout_steps * spec.num_envs
        return Replay(
            agent.columns(spec),
            2 * rows,  # environments that spend steps on resets leave more of the rollout to the others, but not twice as much
            batch_size=self.batch_size,
            view=Rollout(agent.prepare, self.gamma, self.clip_reward),
            sampler=Minibatches(self.minibatches(spec)),
            rate=Rate(0, rows, self.updates_per_rollout(spec)),
            device=agent.device,
            seed=self.seed,
        )
