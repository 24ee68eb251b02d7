"""Never Give Up: R2D2 with a mixture of policies that are paid for what is new (Badia et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import nn

from protorl import agents
from protorl.agents import Agent
from protorl.agents.ngu import ArmCode, LastIntrinsic
from protorl.data import ArraySpec, EnvSpec
from protorl.networks import InverseDynamics, PseudoCounts, RandomDistillation, build_base
from protorl.networks.episodic import DISTANCE_MEANS
from protorl.networks.factory import CORES, INPUTS
from protorl.policies import Arms, BanditArms, Mixture, UniformArms
from protorl.recipes import presets
from protorl.recipes.apex import Ladder
from protorl.recipes.dqn import QLearning
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets
from protorl.recipes.r2d2 import Replayed
from protorl.recipes.recurrent import Recurrent, Sequences

OWN_INPUTS = ("arm", "intrinsic")
"""What the core of NGU may see besides what every core may."""


class NGU(Replayed, Sequences, Ladder, Recurrent, QLearning, OffPolicy):
    """Never Give Up: R2D2 that explores by episodic and life-long novelty, with one of several policies in each episode.

    novelty_max=1 leaves random network distillation out.
    docs/algorithms/ngu.md says what differs from the paper, and where that contradicts itself.
    """

    name: ClassVar[str] = "ngu"
    paper: ClassVar[str] = "Badia et al. 2020, arXiv 2002.06038"
    presets: ClassVar[Presets] = presets.NGU
    agent_class: ClassVar[type[Agent]] = agents.NGU

    mixtures: int = hp(32, "policies, from one that only exploits to one that explores most", paper="32", low=1)
    beta: float = hp(0.3, "weight of the intrinsic reward, of the policy that explores most", paper="0.3", low=0.0)
    gamma: float = hp(0.997, "discount per agent step of the policy that exploits", paper="0.997", low=0.0, high=1.0)
    gamma_min: float = hp(0.99, "discount per agent step of the policy that explores most", paper="0.99", low=0.0, high=1.0)
    arms: str = hp(
        "uniform", "which policy plays an episode: by chance, or the bandit of Agent57 (Badia et al. 2020, arXiv 2003.13350)",
        paper="one for each actor", choices=("uniform", "bandit"),
    )  # fmt: skip
    bandit_window: int = hp(160, "that the bandit looks back, in each environment", unit="episodes", low=1)
    bandit_epsilon: float = hp(0.5, "probability with which the bandit takes any policy", low=0.0, high=1.0)
    bandit_bonus: float = hp(1.0, "weight of the bandit's bonus for what it seldom took", low=0.0)
    neighbours: int = hp(10, "embeddings of the episode that an observation is compared with", paper="10", low=1)
    kernel_epsilon: float = hp(
        1e-2, "of the kernel; 100 times less is 10 times more pay", paper="1e-4 (1e-3 in the text)", low=1e-9
    )
    cluster_distance: float = hp(0.008, "relative squared distance that is none", paper="0.008", low=0.0)
    pseudo_count: float = hp(0.001, "added to the root of the count", paper="0.001", low=1e-9)
    max_similarity: float = hp(8.0, "root of the count from which on nothing is paid", paper="8", low=0.0)
    distance_mean: str = hp(
        "all", "neighbours whose mean is the unit of distances", paper="all in Algorithm 1, kth in the text",
        choices=DISTANCE_MEANS,
    )  # fmt: skip
    distance_decay: float = hp(0.9999, "of that running mean, with each step", paper="a running average", low=1e-9, high=1.0)
    memory_size: int = hp(1_000, "embeddings of an episode, per environment", unit="agent steps", paper="30 000", low=1)
    novelty_max: float = hp(5.0, "L, the greatest factor for life-long novelty", paper="5", low=1.0)
    novelty_steps: int | None = hp(
        5,
        "last steps of each sequence that embedding and predictor learn from; none: all",
        unit="agent steps",
        paper="5",
        low=1,
    )
    embedding_features: int = hp(32, "numbers of an embedding", paper="32", low=1)
    embedding: str = hp(
        "learned", "of observations: by inverse dynamics, or as at the beginning, a random projection", paper="learned",
        choices=("learned", "random"),
    )  # fmt: skip
    embedding_lr: float = hp(5e-4, "learning rate of the embedding and its classifier", paper="5e-4", low=0.0)
    embedding_l2: float = hp(1e-5, "weight decay of the embedding", paper="1e-5", low=0.0)
    predictor_lr: float = hp(5e-4, "learning rate of the predictor", paper="5e-4", low=0.0)
    predictor_features: int = hp(128, "numbers that the predictor predicts, width of its dense layers", paper="128", low=1)
    n_step: int = hp(1, "steps of the return, which goes on by retrace_lambda", unit="agent steps", paper="1", low=1, high=1)
    retrace_lambda: float = hp(0.95, "lambda of Retrace", paper="0.95", low=0.0, high=1.0)
    target_epsilon: float = hp(0.01, "of the policy that is learned", paper="0.01", low=0.0, high=1.0)
    lr: float = hp(5e-4, "learning rate", paper="1e-4", low=0.0)
    optimizer_eps: float = hp(1e-4, "the optimizer's epsilon, if it has one", paper="1e-4", low=0.0)
    max_grad_norm: float | None = hp(40.0, "clips the gradient's norm; none: not", paper="40", low=0.0)
    core: str = hp("lstm", "what remembers, between base and head", paper="lstm", choices=tuple(CORES))
    core_inputs: tuple[str, ...] = hp(
        ("action", "reward", "arm", "intrinsic"), "what the core sees besides the observation: the policy that plays, and of "
        "the step before", paper="all of them", choices=(*INPUTS, *OWN_INPUTS),
    )  # fmt: skip
    capacity: int = hp(100_000, "replay memory", unit="agent steps", paper="5 million", low=1)
    target_every: int = hp(250, "between target copies", unit="updates", paper="1 500", low=1)

    def core_config(self) -> dict[str, object]:
        own: dict[str, nn.Module] = {"arm": ArmCode(self.mixtures), "intrinsic": LastIntrinsic()}
        return {**super().core_config(), "inputs": [own.get(one, one) for one in self.core_inputs]}

    def policy(self, spec: EnvSpec) -> Mixture:  # type: ignore[override]
        """Epsilon-greedy by the number of the lane, with the arms of the mixture."""
        return Mixture(super().policy(spec), self.arms_of(spec))

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        device = self.resolve_device(spec)
        distillation = RandomDistillation(spec.obs, self.predictor_features).to(device)
        inverse = self.inverse(spec, distillation.shape).to(device)
        learns = inverse if self.embedding == "learned" else inverse.classifier
        counts = PseudoCounts(
            self.neighbours, self.kernel_epsilon, self.cluster_distance, self.pseudo_count, self.max_similarity,
            self.distance_mean,
        )  # fmt: skip
        return {
            **super().hyperparameters(spec),
            "inverse": inverse,
            "inverse_optimizer": self.make_optimizer(learns, self.embedding_lr, weight_decay=self.embedding_l2),
            "distillation": distillation,
            "predictor_optimizer": self.make_optimizer(distillation.predictor, self.predictor_lr),
            "counts": counts,
            "beta": self.beta,
            "gamma": self.gamma,
            "gamma_min": self.gamma_min,
            "lam": self.retrace_lambda,
            "target_epsilon": self.target_epsilon,
            "most": self.novelty_max,
            "memory_size": self.memory_size,
            "distance_decay": self.distance_decay,
            "novelty_steps": min(self.novelty_steps or self.sequence_length, self.sequence_length),
        }

    def inverse(self, spec: EnvSpec, frame: tuple[int, ...]) -> InverseDynamics:
        """Embeds single frames of this shape: the base of the network, of images without dense layers of its own."""
        obs = spec.obs
        assert isinstance(obs, ArraySpec)  # distillation has looked
        obs = dataclasses.replace(obs, shape=frame, frame_stack=1)
        config = self.base_config(dataclasses.replace(spec, obs=obs))
        narrow: dict[object, dict[str, object]]
        narrow = {"nature": {"widths": ()}, "minatar": {"width": self.embedding_features}}
        base = build_base(obs, config | narrow.get(config["type"], {}))
        return InverseDynamics(base, spec.action.n, self.embedding_features)

    def arms_of(self, spec: EnvSpec) -> Arms:
        """What says which policy plays the next episode."""
        if self.arms == "uniform":
            return UniformArms(self.mixtures, self.seed, spec.lanes)
        return BanditArms(self.mixtures, spec.lanes, self.seed, self.bandit_window, self.bandit_epsilon, self.bandit_bonus)
