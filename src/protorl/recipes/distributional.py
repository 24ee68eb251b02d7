"""DQN with a distribution of returns: Rainbow, QR-DQN and IQN."""

from __future__ import annotations

from typing import ClassVar

from protorl import agents
from protorl.agents import Agent
from protorl.agents.qr_dqn import PRIORITIES
from protorl.data import EnvSpec
from protorl.recipes import presets
from protorl.recipes.dqn import Annealing, Huber, QLearning
from protorl.recipes.fields import hp
from protorl.recipes.off_policy import OffPolicy
from protorl.recipes.presets import Presets


def distribution_head(recipe: QLearning, **head: object) -> dict[str, object]:
    """A head that predicts distributions, with what all of them take of a recipe's fields."""
    return {"dueling": recipe.head == "dueling", "noisy": recipe.noisy, "activation": recipe.activation, **head}


def split(recipe: QLearning, spec: EnvSpec) -> tuple[dict[str, object], tuple[int, ...]]:
    """The base without its last dense layer, and that layer's width: it belongs to the head. Not where there is but one."""
    base = recipe.base_config(spec)
    if base["type"] == "nature":
        return base | {"widths": ()}, (512,)
    if base["type"] == "mlp" and len(recipe.widths) > 1:
        return recipe.base_config(spec, widths=recipe.widths[:-1]), recipe.widths[-1:]
    return base, ()


class Rainbow(Annealing, QLearning, OffPolicy):
    """Rainbow: double, dueling, noisy, prioritized, n-step, and a categorical distribution."""

    name: ClassVar[str] = "rainbow"
    paper: ClassVar[str] = "Hessel et al. 2018, arXiv 1710.02298"
    presets: ClassVar[Presets] = presets.RAINBOW
    agent_class: ClassVar[type[Agent]] = agents.Rainbow

    lr: float = hp(2.5e-4, "learning rate", paper="6.25e-5", low=0.0)
    optimizer_eps: float = hp(1.5e-4, "the optimizer's epsilon, if it has one", paper="1.5e-4", low=0.0)
    max_grad_norm: float | None = hp(None, "clips the gradient's norm; none: not", paper="none", low=0.0)
    warmup_steps: int = hp(1_000, "before the first update", unit="agent steps", paper="20 000", low=0)
    target_every: int = hp(250, "between target copies", unit="updates", paper="2 000 (8 000 steps)", low=1)
    epsilon_start: float = hp(0.0, "exploration at first, besides the noise", paper="0", low=0.0, high=1.0)
    epsilon_end: float = hp(0.0, "exploration in the end, besides the noise", paper="0", low=0.0, high=1.0)
    n_step: int = hp(3, "steps of the return", unit="agent steps", paper="3", low=1)
    per_alpha: float = hp(0.5, "prioritization exponent; 0: uniform replay", paper="0.5", low=0.0)
    head: str = hp("dueling", "head of the network", paper="dueling", choices=("q", "dueling"))
    noisy: bool = hp(True, "noisy layers in the head (Fortunato et al. 2018)", paper="yes")
    atoms: int = hp(51, "values of the distribution's support", paper="51", low=2)
    v_min: float = hp(-10.0, "least value of the support; it must cover the discounted returns", paper="-10")
    v_max: float = hp(10.0, "largest value of the support", paper="10")

    def layout(self, spec: EnvSpec) -> tuple[dict[str, object], dict[str, object]]:
        """The head begins with the last hidden layer."""
        base, widths = split(self, spec)
        support = {"atoms": self.atoms, "v_min": self.v_min, "v_max": self.v_max}
        return base, distribution_head(self, type="c51", widths=widths, **support)


class QRDQN(Huber, Annealing, QLearning, OffPolicy):
    """QR-DQN: quantiles of the return at fixed levels."""

    name: ClassVar[str] = "qr-dqn"
    paper: ClassVar[str] = "Dabney et al. 2018, arXiv 1710.10044"
    presets: ClassVar[Presets] = presets.QR_DQN
    agent_class: ClassVar[type[Agent]] = agents.QRDQN

    lr: float = hp(6.3e-4, "learning rate", paper="5e-5", low=0.0)
    optimizer_eps: float = hp(0.01 / 128, "the optimizer's epsilon, if it has one", paper="0.01 / 32", low=0.0)
    max_grad_norm: float | None = hp(None, "clips the gradient's norm; none: not", paper="none", low=0.0)
    kappa: float = hp(1.0, "quantile Huber loss: linear beyond this error", paper="1", low=1e-6)
    epsilon_end: float = hp(0.05, "exploration in the end", paper="0.01", low=0.0, high=1.0)
    quantiles: int = hp(50, "quantiles of each action's return", paper="200", low=1)
    priority: str = hp("error", "by what prioritized replay goes: the error of the mean, or the loss", choices=PRIORITIES)

    def layout(self, spec: EnvSpec) -> tuple[dict[str, object], dict[str, object]]:
        """DQN's base, with a linear head."""
        return self.base_config(spec), distribution_head(self, type="quantile", quantiles=self.quantiles)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        return {**super().hyperparameters(spec), "priority": self.priority}


class IQN(Huber, Annealing, QLearning, OffPolicy):
    """IQN: the quantile of the return at any level, from levels drawn anew each time."""

    name: ClassVar[str] = "iqn"
    paper: ClassVar[str] = "Dabney et al. 2018, arXiv 1806.06923"
    presets: ClassVar[Presets] = presets.IQN
    agent_class: ClassVar[type[Agent]] = agents.IQN

    lr: float = hp(6.3e-4, "learning rate", paper="5e-5", low=0.0)
    optimizer_eps: float = hp(0.01 / 128, "the optimizer's epsilon, if it has one", paper="0.01 / 32", low=0.0)
    max_grad_norm: float | None = hp(None, "clips the gradient's norm; none: not", paper="none", low=0.0)
    kappa: float = hp(1.0, "quantile Huber loss: linear beyond this error", paper="1", low=1e-6)
    epsilon_end: float = hp(0.05, "exploration in the end", paper="0.01", low=0.0, high=1.0)
    samples: int = hp(64, "levels at which a prediction is learned, N", paper="64", low=1)
    target_samples: int = hp(64, "levels of its target, N'", paper="64", low=1)
    act_samples: int = hp(32, "levels over which a value is averaged to choose an action, K", paper="32", low=1)
    cosines: int = hp(64, "cosines that a level is embedded in", paper="64", low=1)

    def layout(self, spec: EnvSpec) -> tuple[dict[str, object], dict[str, object]]:
        """The head begins with the last hidden layer."""
        base, widths = split(self, spec)
        return base, distribution_head(self, type="iqn", widths=widths, levels=self.act_samples, cosines=self.cosines)

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        levels = {"samples": self.samples, "target_samples": self.target_samples, "act_samples": self.act_samples}
        return {**super().hyperparameters(spec), **levels, "seed": self.seed, "rows": spec.lanes}
