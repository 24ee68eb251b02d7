"""Random network distillation on PPO. (For off-policy recipes it is the field `bonus`, see `OffPolicy`.)"""

from __future__ import annotations

from typing import ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.data import EnvSpec
from protorl.networks import RandomDistillation
from protorl.policies import UniformActions
from protorl.recipes import presets
from protorl.recipes.fields import hp
from protorl.recipes.on_policy import OnPolicy
from protorl.recipes.ppo import OneTrunk, Proximal
from protorl.recipes.presets import Presets
from protorl.recipes.recurrent import Recurrent


class RND(Proximal, OneTrunk, Recurrent, OnPolicy):
    """Random Network Distillation, on PPO with two streams of reward."""

    name: ClassVar[str] = "rnd"
    paper: ClassVar[str] = "Burda et al. 2018, arXiv 1810.12894"
    presets: ClassVar[Presets] = presets.RND
    paper_preset: ClassVar[str] = "ALE/*"
    agent_class: ClassVar[type[Agent]] = agents.RND
    reward_streams: ClassVar[int | None] = 2

    normalise_advantage: bool = hp(False, "advantages with mean 0 and deviation 1 in each minibatch", paper="not mentioned")
    intrinsic_gamma: float = hp(0.99, "discount of the intrinsic reward, per agent step", paper="0.99", low=0.0, high=1.0)
    intrinsic_lambda: float = hp(
        0.95, "lambda of the advantage estimation of the intrinsic reward", paper="0.95", low=0.0, high=1.0
    )
    extrinsic_coef: float = hp(2.0, "weight of the reward's advantage", paper="2", low=0.0)
    intrinsic_coef: float = hp(1.0, "weight of the intrinsic reward's advantage", paper="1", low=0.0)
    predictor_lr: float | None = hp(None, "learning rate of the predictor, which stays; none: as lr", paper="1e-4", low=0.0)
    predictor_share: float = hp(
        0.25, "share of the examples that the predictor learns from", paper="0.25 (of 128 environments)", low=0.0, high=1.0
    )
    predictor_features: int = hp(512, "numbers that the predictor predicts, width of its dense layers", paper="512", low=1)
    warmup_rollouts: int = hp(
        1, "rollouts of random actions, for the moments of observations", unit="rollouts", paper="50", low=0
    )

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        distillation = RandomDistillation(spec.obs, self.predictor_features).to(self.resolve_device(spec))
        return {
            **super().hyperparameters(spec),
            "distillation": distillation,
            "predictor_optimizer": self.make_optimizer(distillation.predictor, self.predictor_lr),
            "random": UniformActions(spec.action, self.seed, spec.lanes),
            "intrinsic_gamma": self.intrinsic_gamma,
            "intrinsic_lambda": self.intrinsic_lambda,
            "extrinsic_coef": self.extrinsic_coef,
            "intrinsic_coef": self.intrinsic_coef,
            "predictor_share": self.predictor_share,
            "warmup_rollouts": self.warmup_rollouts,
        }
