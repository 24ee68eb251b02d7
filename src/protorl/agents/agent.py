"""What every agent is: it acts, it learns from a batch, and its state can be saved."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from protorl.agents.state import Built, Saver, restore
from protorl.data import Act, Batch, Columns, EnvSpec, Obs, State, Step, TensorObs, Update, tree_map
from protorl.networks import ActorCritic
from protorl.parts import Aside


class Noted(type):
    """Notes what an agent is once its constructor has returned: all that it changes from then on is its state."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        agent = super().__call__(*args, **kwargs)
        agent.settled = {}
        agent.built = Built(agent)
        return agent


class Agent(metaclass=Noted):
    """An algorithm: networks, optimizers, targets and counters. One paper, one subclass.

    A subclass sets `network` and `policy`, and writes `learn`; `update` adds what happens every so many updates.
    Whatever it changes after it was built is saved in checkpoints: numbers, tensors, modules and optimizers, in attributes,
    lists, dicts and tuples.
    `pure` names the methods that touch tensors only and map a batch to an Update: what `accelerate` may compile.
    """

    network: nn.Module
    policy: Any
    built: Built
    settled: dict[str, Any]
    """What was decided about how it computes (`protorl.accelerate`)."""
    pure: ClassVar[tuple[str, ...]] = ("learn",)

    def __init__(self) -> None:
        self.updates = 0

    @property
    def actor(self) -> nn.Module:
        """The part of the network that acts: all of it, unless a critic is in it too."""
        return self.network.actor if isinstance(self.network, ActorCritic) else self.network

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.network.parameters()).device

    def columns(self, spec: EnvSpec) -> Columns:
        """What a memory must remember of each step; an agent that emits extras adds them as generic fields."""
        return Columns(spec.obs, spec.action, spec.num_envs)

    def initial_carry(self, n: int) -> Any:
        """The carry of `n` environments at an episode's start; a feed-forward agent has none."""
        return ()

    def act(self, obs: Obs, carry: Any = (), *, explore: bool) -> Act:
        """Actions [N, *A] for observations [N, *O]: with exploration, or the best the agent knows."""
        out = self.infer(obs, explore)
        return Act(self.policy(out) if explore else self.policy.mode(out))

    def prepare(self, rollout: Batch) -> Batch:
        """What becomes of a rollout [T, N] once before the updates from it (see `Rollout`): nothing, unless an agent says."""
        return rollout

    def learn(self, batch: Batch) -> Update:
        """One step of the paper's optimisation; tensors only, so that it can be compiled."""
        raise NotImplementedError

    def update(self, batch: Batch) -> Update:
        """`learn`, then what the paper does every so many updates."""
        update = self.learn(batch)
        self.updates += 1
        return update

    def observe(self, step: Step) -> None:
        """Told of every step; most agents need not know."""

    @torch.inference_mode()
    def infer(self, obs: Obs, explore: bool) -> Any:
        """The actor's outputs for NumPy observations [N, *O], without gradients; noise in its layers only to explore."""
        if explore:
            return self.actor(as_tensor(obs, self.device))
        self.actor.eval()
        try:
            return self.actor(as_tensor(obs, self.device))
        finally:
            self.actor.train()

    infer.asks_the_actor = True  # type: ignore[attr-defined]  # and nothing else: something faster may answer in its place

    def state_dict(self) -> State:
        """Everything that remembers, by attribute name. Raises: ProtoRLError, by name, for what a checkpoint could not bring
        back."""
        for thing in vars(self).values():
            if isinstance(thing, Aside):
                thing.notice()
        return Saver(self, self.built).all()

    def load_state_dict(self, state: State) -> None:
        """Become what `state_dict` saved of an agent that was built the same. Raises: ProtoRLError where it was another."""
        restore(self, state, self.device)


def as_tensor(obs: Obs, device: torch.device) -> TensorObs:
    """NumPy observations as tensors on a device."""
    return tree_map(lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device), obs)
