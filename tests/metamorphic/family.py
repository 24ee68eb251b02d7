"""Agents that an author may well write, each of which keeps, changes or computes something in a way of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

import protorl as prl
from protorl.functional import huber, pick, td_target
from protorl.networks import FlatParameters, NoisyLinear, QOut, clone
from protorl.policies import EpsilonGreedy, Warmup

SPEC = prl.make_vec_envs("CartPole-v1", 2).spec


class Variant(prl.DQN):
    """DQN on CartPole with a small network; `learn` and what it calls are its own, so that each variant is short."""

    gamma = 0.99

    def __init__(self) -> None:
        network = self.make_network()
        super().__init__(network, EpsilonGreedy(SPEC.action, 0.1, rows=range(2)), prl.Adam(network, 1e-3), target_every=7)
        self.more()

    def make_network(self) -> Any:
        return prl.Network(prl.MLP(SPEC.obs, [16, 8]), prl.QHead(SPEC.action))

    def more(self) -> None:
        """What the variant has besides."""

    def value(self, batch: Any) -> torch.Tensor:
        """The value of the next observation [B]."""
        return self.target(batch.next_obs).q.amax(-1)

    def bootstrap(self, batch: Any) -> torch.Tensor:
        with torch.no_grad():
            return self.value(batch)


def mean_of(targets: Any, batch: Any) -> torch.Tensor:
    return torch.stack([target(batch.next_obs).q for target in targets]).mean(0).amax(-1)


class Nested(NamedTuple):
    one: Any
    two: Any


@dataclass
class Held:
    target: Any
    also: dict[str, Any] = field(default_factory=dict)


class TargetInAttribute(Variant):
    def more(self) -> None:
        self.older = clone(self.network)

    def value(self, batch: Any) -> torch.Tensor:
        return self.older(batch.next_obs).q.amax(-1)

    def update(self, batch: Any) -> prl.Update:
        update = super().update(batch)
        if self.updates % 5 == 0:
            self.older.load_state_dict(self.network.state_dict())
        return update


class TargetsInList(Variant):
    """Averaged-DQN (Anschel, Baram and Shimkin 2017): the mean over the last K targets."""

    def more(self) -> None:
        self.past = [clone(self.network)]

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of(self.past, batch)

    def update(self, batch: Any) -> prl.Update:
        update = super().update(batch)
        if self.updates % 6 == 0:
            self.past = [*self.past, clone(self.network)][-3:]
        return update


class TargetsInPlace(TargetsInList):
    """The same in memory that stays."""

    def more(self) -> None:
        self.past = [clone(self.network) for _ in range(3)]
        self.flat = [FlatParameters(target) for target in self.past]

    def update(self, batch: Any) -> prl.Update:
        update = prl.DQN.update(self, batch)
        if self.updates % 6 == 0:
            self.flat[self.updates // 6 % 3].copy_(self.online_parameters)
        return update


class TargetsInDict(TargetsInPlace):
    def more(self) -> None:
        super().more()
        self.by_name = {"a": self.past[0], "b": {"c": self.past[1]}}

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of([self.by_name["a"], self.by_name["b"]["c"]], batch)


class TargetsInTuple(TargetsInPlace):
    def more(self) -> None:
        super().more()
        self.both = Nested(self.past[0], (self.past[1],))

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of([self.both.one, self.both.two[0]], batch)


class TargetsInModuleList(TargetsInPlace):
    def more(self) -> None:
        super().more()
        self.listed = nn.ModuleList(self.past)

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of(self.listed, batch)


class TargetInDataclass(TargetsInPlace):
    def more(self) -> None:
        super().more()
        self.held = Held(self.past[0], {"deep": Held(self.past[1])})

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of([self.held.target, self.held.also["deep"].target], batch)


class TargetsInDeque(TargetsInList):
    def more(self) -> None:
        self.past = deque([clone(self.network)], maxlen=3)  # type: ignore[assignment]

    def update(self, batch: Any) -> prl.Update:
        update = prl.DQN.update(self, batch)
        if self.updates % 20 == 0:
            self.past.append(clone(self.network))
        return update


class Ensemble(Variant):
    """Three networks, an optimizer each."""

    def more(self) -> None:
        self.others = [self.make_network() for _ in range(2)]
        self.optimizers = [prl.Adam(other, 1e-3) for other in self.others]

    def value(self, batch: Any) -> torch.Tensor:
        return mean_of([self.target, *self.others], batch)

    def learn(self, batch: Any) -> prl.Update:
        update = super().learn(batch)
        for other, optimizer in zip(self.others, self.optimizers):
            td = td_target(batch.reward, batch.discount, self.bootstrap(batch)) - pick(other(batch.obs).q, batch.action)
            optimizer.step(huber(td, 1.0).mean())
        return update


class FrozenRandom(Variant):
    """A bonus by a random network that is never trained."""

    def more(self) -> None:
        self.random = self.make_network().requires_grad_(False)

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.random(batch.next_obs).q.std(-1)


class AnnealedNumber(Variant):
    def more(self) -> None:
        self.bonus = 1.0

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.bonus

    def update(self, batch: Any) -> prl.Update:
        self.bonus *= 0.9
        return super().update(batch)


class RarelyChangedNumber(AnnealedNumber):
    def update(self, batch: Any) -> prl.Update:
        self.bonus = 1.0 if self.updates < 20 else 2.0
        return Variant.update(self, batch)


class NumberInObject(Variant):
    def more(self) -> None:
        self.held = Held(1.0, {"scales": [0.5, 1.0]})

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) * self.held.also["scales"][0] + self.held.target

    def update(self, batch: Any) -> prl.Update:
        if self.updates == 20:
            self.held.also["scales"][0] = 0.25
        return super().update(batch)


@dataclass(slots=True)
class Slotted:
    bonus: float = 1.0


class NumberInSlots(Variant):
    def more(self) -> None:
        self.held = Slotted()

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.held.bonus

    def update(self, batch: Any) -> prl.Update:
        if self.updates > 15:
            self.held.bonus = 0.25
        return super().update(batch)


class ReboundTensor(Variant):
    def more(self) -> None:
        self.offset = torch.ones(())

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.offset

    def update(self, batch: Any) -> prl.Update:
        self.offset = self.offset * 0.9
        return super().update(batch)


class TensorFilledInDict(Variant):
    def more(self) -> None:
        self.kept = {"deep": [torch.ones(())]}

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.kept["deep"][0]

    def update(self, batch: Any) -> prl.Update:
        self.kept["deep"][0].mul_(0.9)
        return super().update(batch)


class TensorChangedInLearn(Variant):
    def more(self) -> None:
        self.running = torch.zeros(())

    def learn(self, batch: Any) -> prl.Update:
        self.running.lerp_(batch.reward.mean(), 0.1)
        return super().learn(batch.replace(reward=batch.reward - self.running))


class ReboundInLearn(TensorChangedInLearn):
    def learn(self, batch: Any) -> prl.Update:
        self.running = 0.9 * self.running + 0.1 * batch.reward.mean()
        return Variant.learn(self, batch.replace(reward=batch.reward - self.running))


class Decay:
    """A schedule with something inside."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self, step: int) -> float:
        self.now *= 0.95
        return self.now


class InnerSchedule(Variant):
    def more(self) -> None:
        self.schedule = Decay()
        self.scale = torch.ones(())

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) * self.scale

    def update(self, batch: Any) -> prl.Update:
        self.scale.fill_(self.schedule(self.updates))
        return super().update(batch)


class ScheduleInPolicy(Variant):
    """Exploration by a schedule with something inside; every update tells how often it was asked."""

    def more(self) -> None:
        self.policy = Warmup(EpsilonGreedy(SPEC.action, Decay(), rows=range(2)), SPEC.action, 0, rows=range(2))

    def update(self, batch: Any) -> prl.Update:
        self.policy(QOut(np.zeros((2, 2), np.float32)))  # type: ignore[arg-type]
        return super().update(batch.replace(reward=batch.reward + self.policy.policy.schedule.now))


class DoubledHead(prl.QHead):
    def forward(self, x: torch.Tensor) -> QOut:
        return QOut(2 * super().forward(x).q + 1)


class OwnHead(Variant):
    def make_network(self) -> Any:
        return prl.Network(prl.MLP(SPEC.obs, [16, 8]), DoubledHead(SPEC.action))


class DoubledDueling(prl.DuelingHead):
    def forward(self, x: torch.Tensor) -> QOut:
        return QOut(2 * super().forward(x).q)


class OwnDuelingHead(Variant):
    def make_network(self) -> Any:
        return prl.Network(prl.MLP(SPEC.obs, [16, 8]), DoubledDueling(SPEC.action))


class ScaledMLP(prl.MLP):
    def forward(self, obs: Any) -> torch.Tensor:
        return super().forward(obs * 3)


class OwnBody(Variant):
    def make_network(self) -> Any:
        return prl.Network(ScaledMLP(SPEC.obs, [16, 8]), prl.QHead(SPEC.action))


class NegatedNetwork(prl.Network):
    def forward(self, obs: Any) -> Any:
        return QOut(-super().forward(obs).q)


class OwnNetwork(Variant):
    def make_network(self) -> Any:
        return NegatedNetwork(prl.MLP(SPEC.obs, [16, 8]), prl.QHead(SPEC.action))


class OwnInfer(Variant):
    def infer(self, obs: Any, explore: bool) -> Any:
        return QOut(-super().infer(obs, explore).q)


class OwnPolicy(Variant):
    """Acts by the second best value."""

    def more(self) -> None:
        class Second(EpsilonGreedy):
            def mode(self, out: Any) -> Any:
                return np.asarray(out.q).argmin(-1)

        self.policy = Second(SPEC.action, 0.1, rows=range(2))


class BranchOnUpdates(Variant):
    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) if self.updates >= 2 else torch.zeros_like(batch.reward)


class LateBranch(Variant):
    def more(self) -> None:
        self.late = False

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + (1.0 if self.late else 0.0)

    def update(self, batch: Any) -> prl.Update:
        self.late = self.updates >= 25
        return super().update(batch)


class BranchOnValue(Variant):
    def value(self, batch: Any) -> torch.Tensor:
        best = super().value(batch)
        return best * 0.5 if best.mean() > 0 else best


class ItemInLearn(Variant):
    def more(self) -> None:
        self.level = torch.ones(())

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.level.item()

    def update(self, batch: Any) -> prl.Update:
        self.level.mul_(0.9)
        return super().update(batch)


def with_layer(*layers: Any) -> Any:
    """A network with further layers before its head."""
    network = prl.Network(prl.MLP(SPEC.obs, [16, 8]), prl.QHead(SPEC.action))
    network.base.layers.extend(layers)
    return network


class Dropout(Variant):
    def make_network(self) -> Any:
        return with_layer(nn.Dropout(0.2))


class BatchNorm(Variant):
    def make_network(self) -> Any:
        return with_layer(nn.BatchNorm1d(8))


class Noisy(Variant):
    def make_network(self) -> Any:
        return with_layer(NoisyLinear(8, 8))


class WeightNorm(Variant):
    def make_network(self) -> Any:
        return with_layer(parametrizations.weight_norm(nn.Linear(8, 8)))


class SpectralNorm(Variant):
    def make_network(self) -> Any:
        return with_layer(parametrizations.spectral_norm(nn.Linear(8, 8)))


class SharedLayers(Variant):
    """Two networks on one base."""

    def more(self) -> None:
        self.second = prl.Network(self.network.base, prl.QHead(SPEC.action))
        self.second_optimizer = prl.Adam(self.second.head, 1e-3)

    def learn(self, batch: Any) -> prl.Update:
        update = super().learn(batch)
        q = pick(self.second(batch.obs).q, batch.action)
        self.second_optimizer.step((batch.reward - q).square().mean())
        return update


class UsedTwice(Variant):
    def make_network(self) -> Any:
        layer = nn.Linear(8, 8)
        return with_layer(layer, nn.Tanh(), layer)


class Hooked(Variant):
    def make_network(self) -> Any:
        network = super().make_network()
        network.base.layers[1].register_forward_hook(lambda module, inputs, output: output * 0.5)
        return network


class Doubles(Variant):
    """A head in float64, which no flat buffer holds, with an optimizer of torch's."""

    def more(self) -> None:
        self.precise = nn.Linear(4, 1, dtype=torch.float64)
        self.precise_optimizer = torch.optim.SGD(self.precise.parameters(), 1e-2)

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + self.precise(batch.next_obs.double())[:, 0].float()

    def update(self, batch: Any) -> prl.Update:
        self.precise_optimizer.zero_grad()
        (self.precise(batch.obs.double())[:, 0] - batch.reward).square().mean().backward()
        self.precise_optimizer.step()
        return super().update(batch)


class TorchOptimizer(Variant):
    """Written as everywhere else: `zero_grad`, `backward`, `step` inside `learn`."""

    optimizer_class: Any = torch.optim.Adam

    def more(self) -> None:
        self.torch_optimizer = self.optimizer_class(self.network.parameters(), 1e-3)

    def learn(self, batch: Any) -> prl.Update:
        losses, priority = self.loss_and_priority(batch)
        loss = losses.mean()
        self.torch_optimizer.zero_grad()
        loss.backward()
        self.torch_optimizer.step()
        return prl.Update(priority.detach(), {"loss": loss.detach()})


class TorchRAdam(TorchOptimizer):
    optimizer_class = torch.optim.RAdam


class TorchSGD(TorchOptimizer):
    @staticmethod
    def optimizer_class(parameters: Any, lr: float) -> Any:
        return torch.optim.SGD(parameters, lr, momentum=0.9)


class LateParameter(Variant):
    def more(self) -> None:
        self.extra: Any = None

    def value(self, batch: Any) -> torch.Tensor:
        return super().value(batch) + (0.0 if self.extra is None else self.extra)

    def update(self, batch: Any) -> prl.Update:
        if self.updates == 10:
            self.extra = nn.Parameter(torch.full((1,), 0.5))
        return super().update(batch)


class ReplacedHead(Variant):
    """The last layer begins anew, in another place."""

    def update(self, batch: Any) -> prl.Update:
        if self.updates == 15:
            fresh = nn.Linear(8, 2)
            with torch.no_grad():
                fresh.weight.copy_(self.network.head.layers[0].weight * 0.5)
                fresh.bias.zero_()
            self.network.head.layers[0] = fresh
            self.optimizer = prl.Adam(self.network, 1e-3)
            self.online_parameters = FlatParameters(self.network)
        return super().update(batch)


class PlainState(Variant):
    """Floats, tensors, lists, dicts, sets, deques, generators and closures that decide what comes next."""

    def more(self) -> None:
        self.count, self.seen, self.best = 0, {1}, None
        self.queue, self.table = deque([0.0], maxlen=4), {("a", 1): np.zeros(3)}
        self.generator = np.random.default_rng(5)
        self.parameter = nn.Parameter(torch.zeros(2))
        counter = [0]

        def count() -> int:
            counter[0] += 1
            return counter[0]

        self.counter = count

    def update(self, batch: Any) -> prl.Update:
        self.count += 1
        self.seen.add(self.count)
        self.queue.append(float(self.generator.normal()))
        self.table["a", 1] += self.counter()
        self.best = max(self.best or 0.0, self.queue[-1])
        with torch.no_grad():
            self.parameter.add_(self.best)
        shift = sum(self.queue) + len(self.seen) + float(self.table["a", 1].sum()) + float(self.parameter[0].detach())
        return super().update(batch.replace(reward=batch.reward + 1e-3 * shift))


FAMILY: list[type[Variant]] = [
    Variant, TargetInAttribute, TargetsInList, TargetsInPlace, TargetsInDict, TargetsInTuple, TargetsInModuleList,
    TargetInDataclass, TargetsInDeque, Ensemble, FrozenRandom, AnnealedNumber, RarelyChangedNumber, NumberInObject,
    NumberInSlots,
    ReboundTensor, TensorFilledInDict, TensorChangedInLearn, ReboundInLearn, InnerSchedule, ScheduleInPolicy, OwnHead,
    OwnDuelingHead, OwnBody,
    OwnNetwork, OwnInfer, OwnPolicy, BranchOnUpdates, LateBranch, BranchOnValue, ItemInLearn, Dropout, BatchNorm, Noisy,
    WeightNorm, SpectralNorm, SharedLayers, UsedTwice, Hooked, Doubles, TorchOptimizer, TorchRAdam, TorchSGD, LateParameter,
    ReplacedHead, PlainState,
]  # fmt: skip

STAY_PLAIN = {
    TargetsInList, Dropout,
    AnnealedNumber, ReboundTensor, ReboundInLearn, BranchOnUpdates, BranchOnValue, ItemInLearn, TorchOptimizer, TorchRAdam,
    TorchSGD,
}  # fmt: skip
"""Those whose `learn` cannot be one graph."""
