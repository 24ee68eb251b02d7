"""Deep Q-Network.

Mnih et al. 2015, "Human-level control through deep reinforcement learning", Nature 518, Algorithm 1:

    y = r + gamma max_a' Q(s', a'; theta-),     minimise huber(y - Q(s, a; theta)),     every C updates theta- <- theta
"""

from __future__ import annotations

import torch

from protorl.agents.agent import Agent
from protorl.data import Batch, ProtoRLError, Schedule, Update
from protorl.functional import huber, pick, td_target
from protorl.networks import FlatParameters, Network, Optimizer, clone
from protorl.policies import ActionValues, Policy


class DQN(Agent):
    """Q-learning with a target network.

    network: gives `.q` [B, A]. policy: explores (epsilon-greedy in the paper). optimizer: of `network`'s parameters.
    target_every: updates between copies of the network to its target (the paper's 10 000 steps are 2 500 updates).
    kappa: where the Huber loss turns linear; the paper clips the error to [-1, 1], which is kappa = 1. inf: squared error.
    lr: a schedule over updates that the optimizer's learning rate follows; None: it stays as it is.

    `loss_and_priority` is what variants with another kind of prediction override: `learn` does the rest.

    Differs from the paper: the loss is a mean over the minibatch, not a sum; examples are weighed and give priorities, so
    that any sampler works (Schaul et al. 2016); `discount` carries gamma, termination and the number of steps.
    """

    network: Network

    def __init__(
        self,
        network: Network,
        policy: Policy[ActionValues],
        optimizer: Optimizer,
        *,
        target_every: int = 2_500,
        kappa: float = 1.0,
        lr: Schedule | None = None,
    ) -> None:
        super().__init__()
        if target_every < 1:
            raise ProtoRLError(f"target_every {target_every} is not a number of updates: use 1 or more")
        self.network, self.policy, self.optimizer = network, policy, optimizer
        self.target = clone(network)
        self.online_parameters, self.target_parameters = FlatParameters(network), FlatParameters(self.target)
        self.target_every, self.kappa, self.lr = target_every, kappa, lr

    @torch.no_grad()
    def bootstrap(self, batch: Batch) -> torch.Tensor:
        """max_a' Q(s', a'; theta-): the value to trust of the next observation [B]."""
        return self.target(batch.next_obs).q.amax(-1)

    def td_error(self, batch: Batch) -> torch.Tensor:
        """y - Q(s, a; theta) [B]."""
        q = pick(self.network(batch.obs).q, batch.action)
        return td_target(batch.reward, batch.discount, self.bootstrap(batch)) - q

    def loss_and_priority(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """huber(td) and |td|: what each example costs, and how surprising it is, both [B]."""
        td = self.td_error(batch)
        return huber(td, self.kappa), td.abs()

    def learn(self, batch: Batch) -> Update:
        losses, priority = self.loss_and_priority(batch)
        loss = (batch.weight * losses).mean()
        grad_norm = self.optimizer.step(loss)
        metrics = {"loss": loss.detach()}
        if grad_norm is not None:
            metrics["grad_norm"] = grad_norm
        return Update(priority.detach(), metrics)

    def update(self, batch: Batch) -> Update:
        if self.lr is not None:
            self.optimizer.lr.fill_(self.lr(self.updates))
        update = super().update(batch)
        if self.updates % self.target_every == 0:
            self.target_parameters.copy_(self.online_parameters)
        return update
