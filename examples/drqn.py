"""DRQN: Hausknecht and Stone 2015, "Deep recurrent Q-learning for partially observable MDPs", arXiv 1507.06527, section 4:
random updates, from sequences with an empty memory at their start.

protorl train examples/drqn.py:DRQN --env protorl/CartPoleNoVel-v0
"""

import torch
from torch import Tensor

import protorl as prl
from protorl.functional import huber, pick, td_target
from protorl.networks import unroll


class DRQNAgent(prl.DQN):
    """y_t = r_t + gamma max_a' Q(h_{t+1}, a'; theta-), where h_t is what the network remembers."""

    def q(self, network: prl.Network, batch: prl.Batch) -> Tensor:
        start = self.core.kind(*[torch.zeros_like(part) for part in self.core.started(batch)])
        return unroll(network, batch.seen, start)[0].q  # [T, B, A]

    def loss_and_priority(self, batch: prl.Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            value = self.q(self.target, batch).amax(-1).gather(0, batch.successor)  # [T, B]
        td = td_target(batch.reward, batch.discount, value) - pick(self.q(self.network, batch), batch.action)
        steps = batch.mask.sum(0)
        return (batch.mask * huber(td)).sum(0) / steps, (batch.mask * td.abs()).sum(0) / steps


class DRQN(prl.recipes.DQN):
    """DQN with an LSTM, from sequences."""

    paper = "Hausknecht and Stone 2015, arXiv 1507.06527"
    agent_class = DRQNAgent

    core_size: int = prl.hp(64, "numbers that the LSTM remembers", paper="512", low=1)
    sequence_length: int = prl.hp(10, "of a sequence", unit="agent steps", paper="10", low=1)

    def core_config(self) -> dict[str, object]:
        return {"type": "lstm", "size": self.core_size}

    def view(self, agent: prl.Agent) -> prl.Sequence:
        length = self.sequence_length
        return prl.Sequence(length, 0, length, self.n_step, self.gamma, self.clip_reward, self.reward_scale)
