"""What every agent is: it acts, it learns from a batch, and its state can be saved."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from protorl.agents.state import Built, Saver, restore
from protorl.data import (
    Act,
    Array,
    Batch,
    Carry,
    Columns,
    EnvSpec,
    Seen,
    State,
    Step,
    Stream,
    Update,
    optional,
    tree_map,
)
from protorl.networks import ActorCritic, Core, NoCore, Optimizer, core_of
from protorl.parts import Aside, Reached
from protorl.policies import Policy


class Noted(type):
    """Notes what an agent is once its constructor has returned: all that it changes from then on is its state."""

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        agent = super().__call__(*args, **kwargs)
        agent.settled = {}
        agent.reached = Reached(Optimizer, torch.optim.Optimizer)
        agent.built = Built(agent)
        return agent


class Agent(metaclass=Noted):
    """An algorithm: networks, optimizers, targets, and what else it changes. One paper, one subclass.

    A subclass sets `network` and `policy`, and writes `learn`; `update` adds what happens every so many updates.
    Whatever it changes after it was built is saved in checkpoints: numbers, tensors, modules and optimizers, in attributes,
    lists, dicts and tuples.
    `pure` names the methods that touch tensors only and map a batch to an Update: what `accelerate` may compile.
    `streams` are the rewards it is paid besides `reward`: whoever builds its memory gives them to the view.
    """

    network: nn.Module
    policy: Policy[Any]
    built: Built
    settled: dict[str, object]
    """What was decided about how it computes (`protorl.accelerate`)."""
    reached: Reached
    pure: ClassVar[tuple[str, ...]] = ("learn",)
    judges: ClassVar[tuple[str, ...]] = ("infer",)
    """The methods that compute something of each row [N, ...] by a network where it acts, from the first argument's rows."""
    streams: tuple[Stream, ...] = ()

    def __init__(self) -> None:
        self.updates = 0

    @property
    def actor(self) -> nn.Module:
        """The part of the network that acts: all of it, unless a critic is in it too."""
        return self.network.actor if isinstance(self.network, ActorCritic) else self.network

    @property
    def core(self) -> Core | NoCore:
        """What the actor remembers by; a feed-forward one carries nothing."""
        return core_of(self.actor)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.network.parameters()).device

    def columns(self, spec: EnvSpec) -> Columns:
        """What a memory must remember of each step; an agent that emits extras adds them as generic fields. With a core, they
        are what it carried before the step."""
        return Columns(spec.obs, spec.action, spec.num_envs, self.core.columns(), spec.reward_shape)

    def initial_carry(self, n: int) -> Carry:
        """The carry of `n` rows at an episode's start: any tree of arrays or tensors [n, ...]. A feed-forward agent has none.
        Whoever acts puts these rows back where an episode starts (`seen.first`); `act` may change a carry in place."""
        return self.core.initial_carry(n)

    def act(self, seen: Seen, carry: Carry = (), *, explore: bool) -> Act:
        """Actions [N, *A] for what is seen, [N, ...]: with exploration, or the best the agent knows; and the next carry."""
        out, after = self.recall(seen, carry, explore)
        return Act(self.explore(out, seen) if explore else self.policy.mode(out), after, self.core.stored(carry))

    def recall(self, seen: Seen, carry: Carry, explore: bool) -> tuple[Any, Carry]:
        """The actor's outputs for what is seen, [N, ...], and the carry after it."""
        core = self.core
        return core.told(self.infer(core.asked(seen, carry), explore), carry)

    def explore(self, out: object, seen: Seen) -> Array:
        """The policy's action; a policy with a clock (`idle`) is told of rows whose action is not taken."""
        action: Array = self.policy(out)
        if seen.pending is not None and hasattr(self.policy, "idle"):
            self.policy.idle(seen.pending)
        return action

    def prepare(self, rollout: Batch) -> Batch:
        """What becomes of a rollout [T, N] once before the updates from it (see `Rollout`): nothing, unless an agent says."""
        return rollout

    def learn(self, batch: Batch) -> Update:
        """One step of the paper's optimisation; tensors only, so that it can be compiled."""
        raise NotImplementedError

    def paid(self, batch: Batch) -> Batch:
        """The batch with what the agent pays itself besides the reward: nothing, unless it is `curious`."""
        return batch

    def drawn(self, batch: Batch) -> Batch:
        """The batch with the random numbers that `learn` uses, as columns of their own: so `learn` stays a pure function."""
        return batch

    def update(self, batch: Batch) -> Update:
        """`learn`, then what the paper does every so many updates."""
        update = self.learn(self.drawn(batch))
        self.updates += 1
        return update

    @optional
    def annotate(self, step: Step, carry: Carry) -> tuple[Step, Carry]:
        """Where the environment is, after each of its steps in training: may add columns to `step.extras`, pay the agent, and
        advance the carry (a tree of the same kind). Not called unless written."""
        return step, carry

    @optional
    def observe(self, step: Step) -> None:
        """Told of every step where the agent learns, in the order of arrival, before it is stored; rows that are not `valid`
        revealed nothing. Not called unless written."""

    @torch.inference_mode()
    def infer(self, obs: Any, explore: bool) -> Any:
        """The actor's answer to NumPy observations [N, *O], without gradients; noise in its layers only to explore. One with a
        core is asked about what is seen with the carry before it, and answers with the carry after it, too."""
        asked = as_tensor(obs, self.device)
        if explore:
            return self.core.ask(self.actor, asked)
        self.actor.eval()
        try:
            return self.core.ask(self.actor, asked)
        finally:
            self.actor.train()

    infer.asks_the_actor = True  # type: ignore[attr-defined]  # and nothing else: something faster may answer in its place

    def published(self) -> list[torch.Tensor]:
        """What actors in other processes need of it: the memory of every tensor that is no optimizer's own, each once."""
        return self.reached.memory(self)

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


def as_tensor(obs: Any, device: torch.device) -> Any:
    """NumPy observations as tensors on a device; of what a core is asked, all arrays (a carry may be of tensors already)."""

    def tensor(array: Array | torch.Tensor) -> torch.Tensor:
        return (torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array).to(device)

    return tensor(obs) if isinstance(obs, np.ndarray) else tree_map(tensor, obs)
