"""Recipes of the kinds that a paper's author writes in good faith.

Those that are wrong in themselves (`STAYING`) have a fault each, which `protorl check` must name. The others (`MENDED`) were
faults of the library: natural code that was trained wrong, or forgotten, in silence.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import nn

import protorl as prl
from protorl.data import Field
from protorl.functional import pick, td_target
from protorl.networks import clone


class Small(prl.recipes.DQN):
    """DQN with little to compute."""

    widths: tuple[int, ...] = (16, 16)
    batch_size: int = 32
    warmup_steps: int = 64
    update_every: int = 1
    updates: int = 1
    lr: float = 1e-3


# Natural code that a library must not get wrong


class MeanOfTargets(prl.DQN):
    """Averaged-DQN: the mean of the K last targets, in a list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = [clone(self.network) for _ in range(3)]

    @torch.no_grad()
    def bootstrap(self, batch: prl.Batch) -> torch.Tensor:
        return torch.stack([target(batch.next_obs).q for target in self.targets]).mean(0).amax(-1)

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        if self.updates % self.target_every == 0:
            self.targets[self.updates // self.target_every % 3].load_state_dict(self.network.state_dict())
        return update


class AveragedDQN(Small):
    agent_class = MeanOfTargets


class AnnealedBonus(prl.DQN):
    """A number that `update` changes and `learn` reads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bonus = 1.0

    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        return super().td_error(batch) + self.bonus

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        self.bonus *= 0.98
        return update


class AnnealedFloat(Small):
    agent_class = AnnealedBonus


class FirstUpdatesDiffer(prl.DQN):
    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        return super().td_error(batch) + (1.0 if self.updates < 2 else 0.0)


class BranchOnUpdates(Small):
    agent_class = FirstUpdatesDiffer


class RunningBaseline(prl.DQN):
    """A tensor that `learn` makes anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.baseline = torch.zeros(())

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        self.baseline = 0.9 * self.baseline + 0.1
        return update

    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        return super().td_error(batch) - self.baseline


class ReboundTensor(Small):
    agent_class = RunningBaseline


class FilledInPlace(prl.DQN):
    """A tensor in a dict, filled in place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = {"mean": torch.zeros(())}

    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        return super().td_error(batch) - self.kept["mean"]

    def update(self, batch: prl.Batch) -> prl.Update:
        self.kept["mean"].lerp_(torch.ones(()), 0.1)
        return super().update(batch)


class TensorInDict(Small):
    agent_class = FilledInPlace


class TorchOptimised(prl.DQN):
    """Any optimizer of torch's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def learn(self, batch: prl.Batch) -> prl.Update:
        losses, priority = self.loss_and_priority(batch)
        loss = (batch.weight * losses).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return prl.Update(priority.detach(), {"loss": loss.detach()})


class TorchOptimizer(Small):
    agent_class = TorchOptimised


class SteepHead(prl.QHead):
    def forward(self, x: torch.Tensor) -> Any:
        return type(super().forward(x))(5.0 * torch.tanh(super().forward(x).q))


class OverriddenHead(Small):
    def network(self, spec: prl.EnvSpec) -> prl.Network:
        return prl.Network(prl.MLP(spec.obs, self.widths), SteepHead(spec.action))


class ScalingMLP(prl.MLP):
    """Scales what it sees."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return super().forward(obs * torch.tensor([0.1, 0.5, 5.0, 0.5]))


class OverriddenMLP(Small):
    def network(self, spec: prl.EnvSpec) -> prl.Network:
        return prl.Network(ScalingMLP(spec.obs, self.widths), prl.QHead(spec.action))


class ClippedSight(prl.DQN):
    def infer(self, obs: Any, explore: bool) -> Any:
        return super().infer(np.clip(obs, -0.02, 0.02), explore)


class OverriddenInfer(Small):
    agent_class = ClippedSight


class OwnSAC(prl.SAC):
    def __init__(self, *args: Any, own_number: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_number = own_number


class IgnoredBySAC(prl.recipes.SAC):
    """The documented pattern."""

    agent_class = OwnSAC
    own_number: float = prl.hp(0.5, "of the paper")
    widths: tuple[int, ...] = (16, 16)
    batch_size: int = 32
    warmup_steps: int = 64

    def agent_arguments(self) -> dict[str, Any]:
        return {"own_number": self.own_number}


class OwnPPO(prl.PPO):
    pass


class IgnoredByPPO(prl.recipes.PPO):
    agent_class = OwnPPO
    widths: tuple[int, ...] = (16, 16)


class RecentErrors(prl.DQN):
    """Remembers in a deque."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recent: deque[float] = deque([1.0], maxlen=50)

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        self.recent.append(float(update.priority.mean()))
        return update


class ForgottenDeque(Small):
    agent_class = RecentErrors


class Falling:
    """A schedule that counts its calls itself."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 1e-3 * 0.99**self.calls


class ForgottenSchedule(Small):
    def learning_rate(self) -> Any:
        return Falling()


class WithParameter(prl.DQN):
    """A parameter of the agent's own, moved by hand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.zeros(()), requires_grad=False)

    def update(self, batch: prl.Batch) -> prl.Update:
        update = super().update(batch)
        self.shift.add_(0.01)
        return update


class ForgottenParameter(Small):
    agent_class = WithParameter


MENDED: dict[type[prl.Recipe], tuple[str, str]] = {
    AveragedDQN: ("learning, fast = plain", ""),
    AnnealedFloat: ("learning, fast = plain", "learn stays eager: it reads `bonus`, which changes from call to call"),
    BranchOnUpdates: ("learning, fast = plain", "learn stays eager: it reads `updates`, which changes from call to call"),
    ReboundTensor: ("learning, fast = plain", "learn stays eager: it reads `baseline`, which changes from call to call"),
    TensorInDict: ("kill and resume, bit for bit", ""),
    TorchOptimizer: ("learning, fast = plain", "learn stays eager: it reads a tensor's value in Python"),
    OverriddenHead: ("acting, fast = plain", ""),
    OverriddenMLP: ("acting, fast = plain", ""),
    OverriddenInfer: ("acting, fast = plain", "acting stays eager: ClippedSight has an `infer` of its own"),
    IgnoredBySAC: ("agent_class and agent_arguments hold", ""),
    IgnoredByPPO: ("agent_class and agent_arguments hold", ""),
    ForgottenDeque: ("kill and resume, bit for bit", ""),
    ForgottenSchedule: ("kill and resume, bit for bit", ""),
    ForgottenParameter: ("kill and resume, bit for bit", ""),
}
"""What the library got wrong once: the row of `protorl check` that said so, and what it says there now of what stays eager."""


# Code that is wrong in itself


class UnusedField(Small):
    temperature: float = prl.hp(0.5, "of the paper")


class UnreadColumn(prl.DQN):
    """Declares and gives a column that no update reads."""

    def columns(self, spec: prl.EnvSpec) -> prl.Columns:
        columns = super().columns(spec)
        return prl.Columns(columns.obs, columns.action, columns.num_envs, {"score": Field((), np.dtype(np.float32))})

    def act(self, *args: Any, **kwargs: Any) -> prl.Act:
        act = super().act(*args, **kwargs)
        return act._replace(extras={"score": np.zeros(len(act.action), np.float32)})


class UnusedColumn(Small):
    agent_class = UnreadColumn


class Undeclared(UnreadColumn):
    def columns(self, spec: prl.EnvSpec) -> prl.Columns:
        return prl.DQN.columns(self, spec)


class UndeclaredColumn(Small):
    agent_class = Undeclared


class MissingColumnAgent(prl.DQN):
    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        return super().td_error(batch) + batch.intrinsic


class MissingColumn(Small):
    agent_class = MissingColumnAgent


class Unweighed(prl.DQN):
    def learn(self, batch: prl.Batch) -> prl.Update:
        losses, priority = self.loss_and_priority(batch)
        loss = losses.mean()
        self.optimizer.step(loss)
        return prl.Update(priority.detach(), {"loss": loss.detach()})


class WeightsIgnored(Small):
    agent_class = Unweighed


class TwiceWeighed(prl.DQN):
    def loss_and_priority(self, batch: prl.Batch) -> Any:
        losses, priority = super().loss_and_priority(batch)
        return batch.weight * losses, priority


class WeightsSquared(Small):
    agent_class = TwiceWeighed


class OnePriority(prl.DQN):
    def learn(self, batch: prl.Batch) -> prl.Update:
        update = super().learn(batch)
        return update._replace(priority=update.priority.mean().expand(len(batch)))


class PrioritiesIgnored(Small):
    agent_class = OnePriority


class HalfOptimised(Small):
    """The optimizer owns the base alone."""

    def make_optimizer(self, network: Any) -> Any:
        return prl.Adam(network.base, self.lr)


class SpareLayer(prl.MLP):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spare = nn.Linear(3, 3)


class UnmovedParameter(Small):
    def network(self, spec: prl.EnvSpec) -> prl.Network:
        return prl.Network(SpareLayer(spec.obs, self.widths), prl.QHead(spec.action))


class Residual(prl.DQN):
    """Forgets that the target is no function of the parameters."""

    def bootstrap(self, batch: prl.Batch) -> torch.Tensor:
        return self.network(batch.next_obs).q.amax(-1)


class GradientIntoTarget(Small):
    agent_class = Residual


class TrainableTarget(prl.DQN):
    """The target is a plain copy, and the gradient goes backward through all there is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.target.requires_grad_(True)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def bootstrap(self, batch: prl.Batch) -> torch.Tensor:
        return self.target(batch.next_obs).q.amax(-1)

    def learn(self, batch: prl.Batch) -> prl.Update:
        losses, priority = self.loss_and_priority(batch)
        loss = (batch.weight * losses).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return prl.Update(priority.detach(), {"loss": loss.detach()})


class GradientCollected(Small):
    agent_class = TrainableTarget


class Timeless(prl.DQN):
    """A discount of its own, which knows no end of an episode."""

    def td_error(self, batch: prl.Batch) -> torch.Tensor:
        q = pick(self.network(batch.obs).q, batch.action)
        return td_target(batch.reward, torch.full_like(batch.reward, 0.8), self.bootstrap(batch)) - q


class TerminationIgnored(Small):
    agent_class = Timeless


class TwoSteps(Small):
    """A memory of two-step returns whatever n_step says."""

    def memory(self, agent: Any, spec: Any) -> prl.Replay:
        memory = super().memory(agent, spec)
        memory.view = prl.NStep(self.n_step, 0.5)
        return memory


class CountingActs(prl.DQN):
    """An evaluation moves what training uses."""

    acts = 0

    def act(self, *args: Any, **kwargs: Any) -> prl.Act:
        self.acts += 1
        return super().act(*args, **kwargs)


class EvaluationCounts(Small):
    agent_class = CountingActs


class Restless(prl.DQN):
    """Draws from the process's generator in evaluations, too."""

    def act(self, *args: Any, **kwargs: Any) -> prl.Act:
        act = super().act(*args, **kwargs)
        return act._replace(action=torch.randint(2, act.action.shape).numpy())


class EvaluationDraws(Small):
    agent_class = Restless


class Forgetful(AnnealedBonus):
    """Leaves out of its state what it will need."""

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "bonus"}


class ForgottenByHand(Small):
    agent_class = Forgetful


class BuildsAnother(Small):
    """Names one agent and builds another."""

    agent_class = MeanOfTargets

    def agent(self, spec: prl.EnvSpec) -> prl.Agent:
        network = self.network(spec)
        return prl.DQN(network, self.policy(spec), self.make_optimizer(network))


class Crashing(prl.DQN):
    def learn(self, batch: prl.Batch) -> prl.Update:
        raise ValueError("a matrix\nof the wrong shape")


class LearnRaises(Small):
    agent_class = Crashing


STAYING: dict[type[prl.Recipe], str] = {
    UnusedField: "fields reach something",
    UnusedColumn: "columns declared are those used",
    UndeclaredColumn: "columns declared are those used",
    MissingColumn: "trains",
    WeightsIgnored: "an example of weight 0 teaches nothing",
    WeightsSquared: "an example of weight 0 teaches nothing",
    PrioritiesIgnored: "prioritized replay keeps its meaning",
    HalfOptimised: "every parameter moves",
    UnmovedParameter: "every parameter moves",
    GradientIntoTarget: "no gradient reaches a target",
    GradientCollected: "no gradient reaches a target",
    ForgottenByHand: "kill and resume, bit for bit",
    BuildsAnother: "agent_class and agent_arguments hold",
    TerminationIgnored: "probe ConstantReward",
    TwoSteps: "n-step replay keeps its meaning",
    EvaluationCounts: "evaluation leaves no trace",
    EvaluationDraws: "evaluation leaves no trace",
    LearnRaises: "trains",
}
"""Faults that stay faults, each with the check that finds it, in the quick form too."""


# What is wrong where others act


class SeededByProcess(Small):
    """Exploration by a number that a recipe's fields do not bring to a worker."""

    def policy(self, spec: prl.EnvSpec) -> prl.EpsilonGreedy:
        return prl.EpsilonGreedy(spec.action, 0.5, seed=os.getpid(), rows=spec.lanes)
