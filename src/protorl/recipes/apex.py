"""Ape-X: prioritized replay of what many actors did, each exploring in its own way (Horgan et al. 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import Network
from protorl.policies import BestAction, EpsilonGreedy, GaussianNoise, NoisyDeterministic, Warmup
from protorl.policies.discrete import apex_epsilons
from protorl.recipes import presets
from protorl.recipes.continuous import Climbing, Continuous, deterministic_actor
from protorl.recipes.dqn import Huber, QLearning
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import FIRST_PRIORITIES, FIRST_PRIORITY, WORKERS, OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.recipe import Recipe

PAPER = "Horgan et al. 2018, arXiv 1803.00933"


class ApeX(Recipe):
    """Many lanes, whose steps bring the priorities that the agent gives them: what both share."""

    numbers: ClassVar[str] = ""

    num_envs: int = hp(8, "environments, of which each explores in its own way", paper="360 (DPG: 64)", low=1)
    workers: int | Literal["auto"] = hp("auto", WORKERS, paper="360 (DPG: 64)", low=0)
    publish_every: int = hp(
        1, "between publications of the weights to workers, at least", unit="updates", paper="400 frames of an actor", low=1
    )
    per_alpha: float = hp(0.6, "prioritization exponent; 0: uniform replay", paper="0.6", low=0.0)
    per_beta: float = hp(0.4, "importance exponent at the start", paper="0.4", low=0.0, high=1.0)
    per_beta_end: float = hp(0.4, "importance exponent in the end", paper="0.4", low=0.0, high=1.0)
    first_priority: str = hp("td", FIRST_PRIORITY, paper="td", choices=FIRST_PRIORITIES)


class Ladder(Recipe):
    """Each environment explores epsilon-greedily with an epsilon of its own, which stays."""

    numbers: ClassVar[str] = ""

    epsilon: float = hp(0.4, "exploration of the environment that explores most", paper="0.4", low=0.0, high=1.0)
    epsilon_alpha: float = hp(
        7.0, "environment i of N explores with epsilon^(1 + alpha i / (N - 1)), all along", paper="7", low=0.0
    )

    def policy(self, spec: EnvSpec) -> EpsilonGreedy:
        """Epsilon-greedy, by the number of the lane."""
        ladder = apex_epsilons(self.num_envs * spec.rows_each, self.epsilon, self.epsilon_alpha)
        return EpsilonGreedy(spec.action, ladder[list(spec.lanes)], seed=self.seed, rows=spec.lanes)


class ApexDQN(ApeX, Ladder, Huber, QLearning, OffPolicy):
    """Ape-X DQN: double Q-learning with a dueling network; each environment has an epsilon of its own.

    Differs from the paper: the oldest steps leave the memory one by one; docs/algorithms/apex.md has the list.
    """

    name: ClassVar[str] = "apex-dqn"
    paper: ClassVar[str] = PAPER
    presets: ClassVar[Presets] = presets.APEX_DQN
    agent_class: ClassVar[type[Agent]] = agents.DoubleDQN

    capacity: int = hp(50_000, "replay memory", unit="agent steps", paper="2 million", low=1)
    update_every: int = hp(
        4, "between bursts of updates", unit="agent steps", paper="19 updates a second, whatever the actors do", low=1
    )
    head: str = hp("dueling", "head of the network", paper="dueling", choices=("q", "dueling"))
    n_step: int = hp(3, "steps of the return", unit="agent steps", paper="3", low=1)


class ApexDDPG(ApeX, Continuous, Climbing, OffPolicy):
    """Ape-X DPG: deterministic policy gradient, with targets that are copied now and then."""

    name: ClassVar[str] = "apex-ddpg"
    paper: ClassVar[str] = PAPER
    presets: ClassVar[Presets] = presets.APEX_DDPG
    agent_class: ClassVar[type[Agent]] = agents.DDPG

    lr: float = hp(1e-4, "learning rate of the critic", paper="1e-4", low=0.0)
    critics: int = hp(1, "critics in the ensemble", paper="1", low=1)
    action_layer: int = hp(2, "layer of the critic at which the action enters", paper="2", low=1)
    widths: tuple[int, ...] = hp((400, 300), "hidden layers", paper="critic 400, 300; actor 300, 200", low=1)
    activation: str = hp("tanh", "activation of an MLP", paper="tanh")
    batch_size: int = hp(256, "examples per update", paper="256", low=1)
    n_step: int = hp(5, "steps of the return", unit="agent steps", paper="5", low=1)
    warmup_steps: int = hp(1_000, "uniformly random actions, before the first update", unit="agent steps", low=0)
    noise_std: float = hp(0.3, "sigma of the exploration noise, in half ranges of the action", paper="0.3", low=0.0)
    tau: float = hp(1.0, "how far the targets follow, each time that they do", paper="1 (copies)", low=0.0, high=1.0)
    target_every: int = hp(100, "between moves of the targets", unit="updates", paper="100", low=1)
    action_gradient_clip: float | None = hp(
        1.0, "clips each number of dQ/da, by which the actor climbs; none: not", paper="1", low=0.0
    )

    def actor(self, spec: EnvSpec) -> Network:
        return deterministic_actor(self, spec)

    def policy(self, spec: EnvSpec) -> Warmup[BestAction]:
        noise = GaussianNoise(spec.action, self.noise_std, seed=self.seed, rows=spec.lanes)
        return self.warmed(NoisyDeterministic(noise), spec)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        numbers = {"target_every": self.target_every, "action_gradient_clip": self.action_gradient_clip}
        return {**super().hyperparameters(spec), **numbers}
