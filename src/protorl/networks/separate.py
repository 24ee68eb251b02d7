"""One network for each agent of a team, and all of them in one product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from protorl.data import EnvSpec, ProtoRLError, visible
from protorl.networks.actor_critic import ActorCritic, QEnsemble
from protorl.networks.cores import Core
from protorl.networks.heads import IQNHead
from protorl.networks.scalers import ObsScaler
from protorl.parts import Aside


class Plan(Aside):
    """What one of several alike modules computes, without numbers of its own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).to("meta")


class Separate(nn.Module):
    """M networks of one kind, as one: each row of a batch is answered by that of its agent, whose one-hot stands at the end of
    its observation vector (`TeamSpec`).

    Their parameters are stacked, [M, ...] each, and all M answer all rows in one batched product, of which each row keeps its
    own: gradients reach the agent's network alone. What the networks give besides (critics' q [K, B]) keeps its form.
    members: M modules, alike but for their numbers. Raises ProtoRLError for those that keep statistics while they act, or that
    answer other questions than what to do (an `IQNHead`).
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if any(isinstance(part, ObsScaler) for member in members for part in member.modules()):
            raise ProtoRLError("normalise_obs scales what all agents see alike: use share=true with it, or normalise_obs=false")
        if any(isinstance(part, IQNHead) for member in members for part in member.modules()):
            raise ProtoRLError("an IQNHead is asked for quantile levels besides: use share=true with it, or qr-dqn")
        if any(isinstance(part, Core) for member in members for part in member.modules()):
            raise ProtoRLError("a core remembers for one network that all agents share: use share=true with it, or core=none")
        parameters, buffers = torch.func.stack_module_state(list(members))
        self.plan, self.size = Plan(members[0]), len(members)
        self.names = {name: name.replace(".", "/") for name in parameters}
        self.weights = nn.ParameterDict({self.names[name]: nn.Parameter(p.detach()) for name, p in parameters.items()})
        self.fixed = {name: name.replace(".", "/") for name in buffers}
        for name, key in self.fixed.items():
            self.register_buffer(key, buffers[name].detach(), persistent=False)
        self.critic = isinstance(members[0], QEnsemble)

    def forward(self, obs: Any, *given: Any, **named: Any) -> Any:
        stacked = {name: self.weights[key] for name, key in self.names.items()}
        fixed = {name: getattr(self, key) for name, key in self.fixed.items()}
        module = self.plan.module
        if module.training != self.training:  # noisy layers ask
            module.train(self.training)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Any:
            out: Any = torch.func.functional_call(module, (parameters, buffers), (obs, *given), named)
            if hasattr(out, "log_std"):  # the same everywhere, or a number for each row: now the latter
                out = out._replace(log_std=out.log_std.expand_as(out.mean))
            return out

        each = torch.func.vmap(one, randomness="different")(stacked, fixed)
        agent = visible(obs)[..., -self.size :].argmax(-1)  # [...]
        if isinstance(each, Tensor):
            return mine(each, agent, behind=self.critic)
        fields = {name: field[0] if name == "atoms" else mine(field, agent) for name, field in zip(each._fields, each)}
        return type(each)(**fields)


def mine(numbers: Tensor, agent: Tensor, behind: bool = False) -> Tensor:
    """Of [M, ..., *X], the numbers [..., *X] of each row's agent [...]; `behind`: of [M, *X, ...] the [*X, ...]."""
    axes = numbers.dim() - 1 - agent.dim()
    index = agent.reshape(*[1] * axes, *agent.shape) if behind else agent.reshape(*agent.shape, *[1] * axes)
    return numbers.take_along_dim(index.unsqueeze(0), 0).squeeze(0)


def separate(members: Sequence[nn.Module]) -> nn.Module:
    """M networks as one; of an actor and its critic, each apart. Raises: as `Separate`."""
    if all(isinstance(member, ActorCritic) for member in members):
        pairs: list[Any] = list(members)
        actor: Any = Separate([pair.actor for pair in pairs])
        return ActorCritic(actor, Separate([pair.critic for pair in pairs]))
    return Separate(members)


def one_each(spec: EnvSpec, build: Callable[[EnvSpec], nn.Module]) -> nn.Module:
    """What `build(spec)` makes, once for each agent of a team whose rows are agents, as one. Raises ProtoRLError where nothing
    in the observation says whose a row is; and as `Separate`."""
    if spec.team is None or not spec.team.lanes or spec.team.size < 2 or spec.pixels:
        raise ProtoRLError(
            f"share=false gives each agent of a team networks of its own, by the place in its observation vector that says "
            f"which one it is, and {spec.id} has none: use share=true"
        )
    return separate([build(spec) for _ in spec.team.agents])
