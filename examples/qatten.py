"""Qatten: Yang et al. 2020, "Qatten: a general framework for cooperative multiagent reinforcement learning", arXiv 2002.03939,
equation 9, with attention to agents that is made of the state alone.

protorl train examples/qatten.py:Qatten --env protorl/TwoStepGame-v0
"""

from torch import Tensor, nn

import protorl as prl


class Attention(nn.Module):
    """Q_tot = c(s) + sum_h |w_h(s)| sum_i lambda_hi(s) Q_i, where softmax makes lambda_h of the state: [..., M] -> [...]."""

    def __init__(self, state: prl.ArraySpec, agents: int, heads: int) -> None:
        super().__init__()
        self.agents, self.heads = agents, heads
        self.inputs = prl.MLP(state, ())
        features = self.inputs.features
        self.attention, self.weight = nn.Linear(features, heads * agents), nn.Linear(features, heads)
        self.value = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        s = self.inputs(state)
        shares = self.attention(s).unflatten(-1, (self.heads, self.agents)).softmax(-1)  # [..., H, M]
        heads = (shares * q.unsqueeze(-2)).sum(-1)
        return (self.weight(s).abs() * heads).sum(-1) + self.value(s).squeeze(-1)


class Qatten(prl.recipes.VDN):
    """VDN's agents, mixed by attention."""

    paper = "Yang et al. 2020, arXiv 2002.03939"

    heads: int = prl.hp(4, "heads of the attention", paper="4", low=1)

    def mixer(self, spec: prl.EnvSpec) -> nn.Module:
        return Attention(spec.obs["state"], spec.team.size, self.heads)
