"""Twin Delayed DDPG.

Fujimoto, van Hoof and Meger 2018, "Addressing function approximation error in actor-critic methods", arXiv 1802.09477,
Algorithm 1:

    y = r + γ min_i Q'_i(s', clip(μ'(s') + ε, -1, 1)),    ε ~ clip(N(0, σ), -c, c)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protorl.agents.ddpg import DDPG
from protorl.data import Batch, ProtoRLError


class TD3(DDPG):
    """DDPG with two critics of which the smaller is believed, a smoothed target action, and a delayed actor.

    target_noise: σ, noise_clip: c, both in units of the action's half range. The rest as DDPG, with the paper's τ and delay.
    Metrics: as DDPG.

    Differs from the paper: as DDPG.
    """

    def __init__(
        self,
        *args: Any,
        tau: float = 0.005,
        delay: int = 2,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, tau=tau, delay=delay, **kwargs)
        for name, value in (("target_noise", target_noise), ("noise_clip", noise_clip)):
            if not value >= 0:
                raise ProtoRLError(f"{name} {value} is impossible: use 0 or more, in half ranges of the action")
        self.target_noise, self.noise_clip = target_noise, noise_clip

    def target_action(self, batch: Batch) -> Tensor:
        """clip(μ'(s') + ε, -1, 1) [B, A]."""
        noise = (self.target_noise * batch.noise).clamp(-self.noise_clip, self.noise_clip)
        return (super().target_action(batch) + noise).clamp(-1, 1)

    def reduce(self, q: Tensor) -> Tensor:
        """min_k q_k [B]."""
        return q.amin(0)

    def drawn(self, batch: Batch) -> Batch:
        """With the noise on target actions, standard normal [B, A]."""
        batch = super().drawn(batch)
        return batch.replace(noise=torch.randn_like(batch.action))
