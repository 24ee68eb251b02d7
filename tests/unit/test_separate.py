"""Networks of their own for each agent, in one product: the numbers of each alone, and gradients for it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.data import ActionSpec, ArraySpec, ProtoRLError
from protorl.envs import make_vec_envs
from protorl.networks import ActorCritic, QEnsemble, Separate, build_network, clone, separate
from protorl.networks.heads import QOut
from tests.contract.cases import small

OBS = ArraySpec((5,), np.dtype(np.float32))
CHOICE = ActionSpec("discrete", (), np.dtype(np.int64), n=3)
BOX = ActionSpec("box", (3,), np.dtype(np.float32), low=-np.ones(3, np.float32), high=np.ones(3, np.float32))


def observed(*lead: int) -> Any:
    """Observations [*lead, 5] of two agents, and of whom they are [*lead]."""
    obs, agent = torch.randn(*lead, 5), torch.randint(2, lead)
    obs[..., 3:] = torch.eye(2)[agent]
    return obs, agent


HEADS = {
    "q": CHOICE, "dueling": CHOICE, "c51": CHOICE, "quantile": CHOICE, "categorical": CHOICE, "gaussian": BOX, "beta": BOX,
    "deterministic": BOX,
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("lead", [(7,), (4, 3), (3,)])
def test_each_row_is_answered_by_its_agent(head: str, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    spec = prl.data.EnvSpec("two", OBS, HEADS[head], 2)
    members: Any = [build_network(spec, {"base": {"type": "mlp", "widths": (6,)}, "head": head}) for _ in range(2)]
    obs, agent = observed(*lead)
    together, alone = separate(members)(obs), [member(obs) for member in members]
    for name, found in together._asdict().items():
        each = [getattr(one, name) for one in alone]
        if name == "atoms":
            wanted = each[0]
        elif name == "log_std" and each[0].dim() == 1:
            wanted = torch.stack(each)[agent]
        else:
            one, other = each
            mine = agent.reshape(*agent.shape, *[1] * (one.dim() - agent.dim()))
            wanted = torch.where(mine == 0, one, other)
        torch.testing.assert_close(found, wanted)


def test_critics_of_actions_too() -> None:
    torch.manual_seed(0)
    spec = prl.data.EnvSpec("two", OBS, BOX, 2)
    members = [
        ActorCritic(
            build_network(spec, {"base": {"type": "mlp", "widths": (6,)}, "head": "deterministic"}),
            QEnsemble(prl.networks.MLP(OBS, (4,)), BOX, (6,), k=3),
        )
        for _ in range(2)
    ]
    both: Any = separate(members)
    obs, agent = observed(7)
    action = both.actor(obs).action
    q = both.critic(obs, action)
    assert q.shape == (3, 7)
    for row in range(7):
        torch.testing.assert_close(q[:, row], members[int(agent[row])].critic(obs, action)[:, row])
    torch.testing.assert_close(both.critic(obs, action, members=1), q[:1])


def test_gradients_reach_the_agents_own_network_alone() -> None:
    spec = prl.data.EnvSpec("two", OBS, CHOICE, 2)
    both = Separate([build_network(spec, {"base": {"type": "mlp", "widths": (6,)}}) for _ in range(2)])
    obs, _ = observed(6)
    obs[:, 3:] = torch.tensor([0.0, 1.0])
    out: QOut = clone(both)(obs)
    torch.testing.assert_close(out.q, both(obs).q)
    both(obs).q.sum().backward()
    for parameter in both.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[0].any()
        assert parameter.grad[1].any()


@pytest.mark.parametrize("name", ["double-dqn", "ppo"])
def test_a_recipe_trains_them(name: str) -> None:
    recipe = small(name, env="protorl/TwoStepGame-v0", steps=80, share=False, eval_every=0)
    agent, memory, actors = recipe.build()
    start = [p.detach().clone() for p in agent.network.parameters()]
    prl.train(agent, memory, actors, steps=80)
    assert all(bool((p[m] != q[m]).any()) for p, q in zip(agent.network.parameters(), start) for m in range(2))


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("dqn", {"env": "CartPole-v1"}, "CartPole-v1 has none: use share=true"),
        ("ppo", {"env": "protorl/TwoStepGame-v0", "normalise_obs": True}, "share=true with it, or normalise_obs=false"),
        ("iqn", {"env": "protorl/TwoStepGame-v0"}, "an IQNHead is asked"),
    ],
)
def test_what_cannot_be_apart_is_refused(name: str, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ProtoRLError, match=sentence):
        small(name, share=False, **fields).build()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td3", "sac"])
def test_continuous_control_apart(name: str) -> None:
    class Push(prl.envs.games.Game):
        def action_space(self, agent: str) -> Any:
            return prl.envs.games.spaces.Box(-1, 1, (1,), np.float32)

        def step(self, actions: Any) -> Any:
            acted, self.agents = self.agents, []
            every = dict.fromkeys
            paid = {agent: float(actions[agent][0]) * (1 if agent == "agent_0" else -1) for agent in acted}
            return {a: self.observe(a) for a in acted}, paid, every(acted, True), every(acted, False), {a: {} for a in acted}

    recipe = small(name, share=False, warmup_steps=64, update_every=1, lr=1e-2, actor_lr=1e-2, steps=300)
    env = make_vec_envs(Push, 1)
    agent, memory, actors = recipe.assemble(env)
    prl.train(agent, memory, actors, steps=300)
    first, second = agent.act(env.seen, explore=False).action[:, 0]
    assert first > 0.3
    assert second < -0.3
