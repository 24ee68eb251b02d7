"""MAPPO and MADDPG: each equation against a slow reference, agent by agent; whom a gradient reaches; who has died."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.agents import MADDPG
from protorl.data import Batch, tree_map
from protorl.envs import make_vec_envs
from protorl.networks import CentralCritics, LocalCritics, NormalisedValueHead, TeamNetwork, in_numpy, separate
from protorl.policies import Categorical, Gaussian, GumbelSoftmax, OUNoise
from tests.contract.cases import small

B, M = 5, 2
DEATH, NUMBERS = "protorl/EarlyDeath-v0", "protorl/Apart-v0"


def spec(env: str = DEATH) -> Any:
    return make_vec_envs(env, 2, as_teams=True).spec


def agent(name: str, **fields: Any) -> Any:
    recipe = small(name, **fields)
    return recipe.build_agent(recipe.make_env(2).spec)


def batch(env: str = DEATH, **columns: Any) -> Batch:
    """Random examples of two agents, of which some have died; and of some, one dies with this step."""
    torch.manual_seed(1)

    def observed(alive: list[list[int]]) -> dict[str, torch.Tensor]:
        obs = torch.cat([torch.randn(B, M, 1), torch.eye(M).expand(B, M, M)], -1)
        return {"obs": obs, "alive": torch.tensor(alive, dtype=torch.uint8), "state": torch.randn(B, M)}

    action = torch.randint(2, (B, M)) if env == DEATH else torch.rand(B, M, 1) * 2 - 1
    return Batch({
        "obs": observed([[1, 1], [1, 0], [1, 1], [0, 1], [1, 1]]),
        "next_obs": observed([[1, 1], [1, 0], [1, 0], [0, 1], [0, 1]]),
        "action": action, "reward": torch.randn(B, M), "discount": torch.tensor([0.9, 0.9, 0.9, 0.0, 0.81]),
        "weight": torch.rand(B), **columns,
    })  # fmt: skip


# Networks


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("head", ["categorical", "deterministic", "gaussian", "beta"])
def test_a_team_network_asks_each_agents_own(share: bool, head: str) -> None:
    torch.manual_seed(0)
    one = spec(DEATH if head == "categorical" else NUMBERS).member
    members: Any = [prl.build_network(one, {"base": {"type": "mlp", "widths": (6,)}, "head": head}) for _ in range(M)]
    network = TeamNetwork(members[0] if share else separate(members), M)
    obs = batch().obs
    together = network(obs)
    for i in range(M):
        alone = members[0 if share else i](obs["obs"][:, i])
        for name, wanted in alone._asdict().items():
            torch.testing.assert_close(getattr(together, name)[:, i], wanted.expand_as(getattr(together, name)[:, i]))
    fast = in_numpy(network)
    assert share == (fast is not None)
    if fast is not None:
        found = fast({name: column.numpy() for name, column in obs.items()})
        for name, wanted in together._asdict().items():
            np.testing.assert_allclose(getattr(found, name), wanted.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("kind", [CentralCritics, LocalCritics])
def test_critics_of_a_team_are_networks_of_their_own(kind: Any, k: int) -> None:
    torch.manual_seed(0)
    critics = kind(spec(), widths=(6,), k=k)
    given = batch()
    action, own = torch.rand(B, M, 2), torch.rand(B, M, 2)

    def alone(member: int, i: int, joint: Any) -> Any:
        """One critic's layers, applied to what it sees."""
        x = (
            torch.cat([given.obs["state"], joint.flatten(1)], -1)
            if kind is CentralCritics
            else torch.cat([given.obs["obs"][:, i], joint[:, i]], -1)
        )
        first, _, last = critics.layers
        place = member * M + i
        return ((x @ first.weight[place] + first.bias[place]).relu() @ last.weight[place] + last.bias[place]).squeeze(-1)

    plain, mine = critics(given.obs, action), critics(given.obs, action, own)
    assert plain.shape == mine.shape == (k, M, B)
    torch.testing.assert_close(critics(given.obs, action, own, members=1), mine[:1])
    for member in range(k):
        for i in range(M):
            joint = action.clone()
            torch.testing.assert_close(plain[member, i], alone(member, i, joint))
            joint[:, i] = own[:, i]
            torch.testing.assert_close(mine[member, i], alone(member, i, joint))


def test_popart_keeps_values_and_learns_in_deviations() -> None:
    torch.manual_seed(0)
    ret, there = 50 + 20 * torch.randn(40, 6, M), torch.rand(40, 6, M) < 0.7
    x = torch.randn(7, 3)
    heads = {}
    for preserve in (True, False):
        torch.manual_seed(3)
        head = NormalisedValueHead(M, preserve=preserve)
        head.build(3)
        before = head(x).value
        heads[preserve] = head
        for part in (ret[:15], ret[15:]):
            head.count(part, there[:15] if len(part) == 15 else there[15:])
        for i in range(M):
            mine = ret[..., i][there[..., i]]
            torch.testing.assert_close(head.mean[i], mine.mean(), rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(head.std[i], mine.std(correction=0), rtol=1e-5, atol=1e-4)
        after = head(x).value
        assert torch.allclose(before, after, atol=2e-4) == preserve
    other = NormalisedValueHead(M)
    other.build(3)
    other.load_state_dict(heads[True].state_dict())
    torch.testing.assert_close(other(x).value, heads[True](x).value)
    more = torch.randn(5, 1, M)
    for head in (other, heads[True]):
        head.count(more, torch.ones(5, 1, M, dtype=torch.bool))
    torch.testing.assert_close(other.std, heads[True].std)


# Policies


def test_of_teams_each_agent_draws_for_itself() -> None:
    action: Any = spec().action
    policy, logits = Categorical(action, seed=3), np.log(np.array([[0.2, 0.8], [1.0, 1e-9]], np.float32))
    said: Any = SimpleNamespace(logits=np.broadcast_to(logits, (4_000, M, 2)))
    drawn, log_prob = policy.sample(said)
    assert drawn.shape == log_prob.shape == (4_000, M)
    assert abs(drawn[:, 0].mean() - 0.8) < 0.03
    assert (drawn[:, 1] == 0).all()
    np.testing.assert_allclose(log_prob[:, 0], logits[0][drawn[:, 0]], atol=1e-5)
    numbers: Any = spec(NUMBERS).action
    said.mean, said.log_std = np.zeros((3, M, 1), np.float32), np.zeros(1, np.float32)
    drawn, log_prob = Gaussian(numbers).sample(said)
    assert (drawn.shape, log_prob.shape) == ((3, M, 1), (3, M))
    noise = OUNoise(numbers)
    assert noise(3).shape == (3, M, 1)
    noise.restart(np.array([True, False, False]))
    assert (noise.x[0] == 0).all()
    assert (noise.x[1:] != 0).all()  # type: ignore[index]


def test_gumbel_softmax_draws_what_categorical_draws_and_passes_a_soft_gradient() -> None:
    torch.manual_seed(0)
    vectors = GumbelSoftmax(3, temperature=0.5)
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).expand(40_000, 3).clone().requires_grad_()
    out: Any = SimpleNamespace(logits=logits)
    noise = vectors.noise(vectors.vectors(torch.zeros(40_000)))
    drawn = vectors(out, noise)
    assert set(drawn.detach().unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(drawn.detach().mean(0), torch.tensor([0.2, 0.5, 0.3]), atol=0.01, rtol=0)
    direction = torch.tensor([1.0, -2.0, 0.5])
    (found,) = torch.autograd.grad((drawn * direction).sum(), logits)
    soft = torch.softmax((logits + noise) / 0.5, -1)
    (wanted,) = torch.autograd.grad((soft * direction).sum(), logits)
    torch.testing.assert_close(found, wanted)
    out.logits = torch.tensor([[1.0, -torch.inf, 3.0]])
    assert vectors.penalty(out).tolist() == [5.0]
    assert (vectors(out, torch.zeros(1, 3)) == torch.tensor([[0.0, 0.0, 1.0]])).all()


# MADDPG


def drawn(made: Any, env: str = DEATH) -> Batch:
    torch.manual_seed(2)
    given: Batch = made.drawn(batch(env))
    return given


@pytest.mark.parametrize("name", ["maddpg", "matd3"])
def test_the_critics_loss_agent_by_agent(name: str) -> None:
    made = agent(name)
    given = drawn(made)
    with torch.no_grad():
        losses, priority, q = made.loss_and_priority(given)
    assert losses.shape == q.shape == (1 + (name == "matd3"), M, B)
    logits = made.target.actor(given.next_obs).logits
    done = torch.nn.functional.one_hot((logits + given.next_noise).argmax(-1), 2).float()
    following, plain = made.target.critic(given.next_obs, done), batch()
    errors = torch.zeros(B, M)
    for b in range(B):
        for i in range(M):
            bootstrap = min(following[k, i, b] for k in range(len(following)))
            future = plain.discount[b] * plain.next_obs["alive"][b, i]
            y = plain.reward[b, i] + future * bootstrap
            for k in range(len(q)):
                error = plain.obs["alive"][b, i] * (y - q[k, i, b])
                torch.testing.assert_close(losses[k, i, b], error**2)
                errors[b, i] += error.abs() / len(q)
    torch.testing.assert_close(priority, errors.sum(1) / plain.obs["alive"].sum(1))


@pytest.mark.parametrize("others", ["replay", "current"])
@pytest.mark.parametrize("env", [DEATH, NUMBERS])
def test_an_actor_climbs_its_own_critic_by_its_own_action_alone(others: str, env: str) -> None:
    """The gradient of each agent's network, against its objective written down alone."""
    made = agent("maddpg", env=env, others=others, logit_penalty=0.0, share=False)
    given = drawn(made, env)
    parameters = list(made.network.actor.parameters())
    found = torch.autograd.grad(made.actor_loss(given).sum(), parameters)
    for i in range(M):
        now = made.vectors(made.actor(given.obs), given.own_noise)
        joint = (given.action if others == "replay" else now.detach()).clone()
        joint[:, i] = now[:, i]
        alone = -(given.obs["alive"][:, i] * made.critic(given.obs, joint)[0, i]).sum()
        wanted = torch.autograd.grad(alone, parameters)
        for one, other in zip(found, wanted):
            torch.testing.assert_close(one[i], other[i])
            assert (other[1 - i] == 0).all()
        assert any((other[i] != 0).any() for other in wanted)


def test_an_actors_step_leaves_the_critics_and_the_other_way_round() -> None:
    made = agent("maddpg")
    given = drawn(made)
    actor, critic = ([p.clone() for p in part.parameters()] for part in (made.network.actor, made.network.critic))
    made.improve(given)
    assert all(torch.equal(a, b) for a, b in zip(critic, made.network.critic.parameters()))
    moved = [p.clone() for p in made.network.actor.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(actor, moved))
    made.learn(given)
    assert all(torch.equal(a, b) for a, b in zip(moved, made.network.actor.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(critic, made.network.critic.parameters()))


def test_logits_are_pulled_to_0() -> None:
    made = agent("maddpg", logit_penalty=0.25)
    given = drawn(made)
    with torch.no_grad():
        loss = made.actor_loss(given)
        logits = made.actor(given.obs).logits
        made.logit_penalty = 0.0
        without = made.actor_loss(given)
    penalty = (given.obs["alive"] * logits.square().mean(-1)).sum(1)
    torch.testing.assert_close(loss - without, 0.25 * penalty)


# MAPPO


def rollout(made: Any) -> Batch:
    """T = B steps of one team: agent 1 dies with its third step, and lives again when the next episode begins."""
    given = batch()
    alive = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1]], dtype=torch.uint8)
    after = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0], [1, 1]], dtype=torch.uint8)
    columns = {
        "obs": {**given.obs, "alive": alive}, "next_obs": {**given.next_obs, "alive": after}, "action": given.action,
        "reward": given.reward * alive, "discount": torch.tensor([0.9, 0.9, 0.9, 0.0, 0.9]), "weight": torch.ones(B),
        "ended": torch.tensor([False, False, False, True, False]),
        "first": torch.tensor([True, False, False, False, True]), "log_prob": -torch.rand(B, M),
    }  # fmt: skip
    with torch.no_grad():
        columns["value"] = made.network.critic(columns["obs"]).value
        columns["next_obs"]["state"][:3] = columns["obs"]["state"][1:4]
        columns["next_obs"]["state"][3] += 1
    return Batch({key: tree_map(lambda leaf: leaf.unsqueeze(1), column) for key, column in columns.items()})


@pytest.mark.parametrize("scale", ["popart", "moments", "none"])
def test_advantages_and_the_loss_agent_by_agent(scale: str) -> None:
    made = agent("mappo", normalise_value=scale, clip_value=0.2, entropy_coef=0.01)
    given = rollout(made)
    with torch.no_grad():
        value, following = given.value[:, 0], made.network.critic(tree_map(lambda x: x[:, 0], given.next_obs)).value
    following[:3] = value[1:4]
    advantage = torch.zeros(B, M)
    for i in range(M):
        running = 0.0
        for t in reversed(range(B)):
            future = float(given.discount[t, 0] * given.next_obs["alive"][t, 0, i])
            running = 0.0 if given.ended[t, 0] else running
            delta = given.reward[t, 0, i] + future * following[t, i] - value[t, i]
            running = delta + future * made.gae_lambda * running
            advantage[t, i] = running
    prepared = made.prepare(given)
    lives = given.obs["alive"][:, 0] > 0
    torch.testing.assert_close(prepared.advantage[:, 0][lives], advantage[lives])
    torch.testing.assert_close(prepared.ret[:, 0][lives], (advantage + value)[lives])
    for i, head in [(i, head) for head in made.heads for i in range(M)]:
        mine = (advantage + value)[:, i][lives[:, i]]
        torch.testing.assert_close(head.mean[i], mine.mean())
        torch.testing.assert_close(head.std[i], mine.std(correction=0).clamp(min=0.1))

    flat = Batch({key: tree_map(lambda x: x.flatten(0, 1), prepared.columns[key]) for key in prepared})
    flat = flat.replace(weight=torch.ones(B))
    metrics = made.learn(flat)
    again = agent("mappo", normalise_value=scale, clip_value=0.2, entropy_coef=0.01)
    again.prepare(rollout(again))  # as it was before it learned
    out = again.network(flat.obs)
    log_p = torch.log_softmax(out.policy.logits, -1)
    scaled = [h.std for h in again.heads] or [torch.ones(M)]
    (sigma,) = scaled
    a = advantage[lives]
    mean, std = a.mean(), (a - a.mean()).square().mean().mul(2 * B / (2 * B - 1)).sqrt()
    terms = []
    for b in range(B):
        for i in range(M):
            if lives[b, i]:
                ratio = (log_p[b, i, flat.action[b, i]] - flat.log_prob[b, i]).exp()
                adv = (flat.advantage[b, i] - mean) / (std + 1e-8)
                surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
                now, old, ret = (x[b, i] / sigma[i] for x in (out.value, flat.value, flat.ret))
                near = old + (now - old).clamp(-0.2, 0.2)
                error = torch.maximum((now - ret) ** 2, (near - ret) ** 2)
                entropy = -(log_p[b, i].exp() * log_p[b, i]).sum()
                terms.append(-surrogate + 0.5 * error - 0.01 * entropy)
    torch.testing.assert_close(metrics.metrics["loss"], torch.stack(terms).mean().detach(), rtol=1e-4, atol=1e-5)


def test_what_the_dead_see_and_say_changes_nothing() -> None:
    updates = []
    for number in (0.0, 5.0):
        made = agent("mappo")
        given = rollout(made)
        dead = given.obs["alive"] == 0
        given.obs["obs"][..., 0][dead] = number
        given.log_prob[dead] = -number
        prepared = made.prepare(given)
        flat = Batch({key: tree_map(lambda x: x.flatten(0, 1), prepared.columns[key]) for key in prepared})
        made.learn(flat.replace(weight=torch.ones(B)))
        updates.append([p.clone() for p in made.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*updates))


# Mistakes


@pytest.mark.parametrize("name", ["mappo", "maddpg", "matd3"])
def test_an_environment_of_one_agent_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(prl.ProtoRLError, match="CartPole-v1 has a single agent: use an environment of several"):
        small(name, env="CartPole-v1").build()


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(prl.ProtoRLError, match="temperature 0 is impossible"):
        GumbelSoftmax(3, 0)
    made = agent("maddpg")
    with pytest.raises(prl.ProtoRLError, match="others 'nobody' is unknown: use replay or current"):
        MADDPG(made.network, made.policy, made.actor_optimizer, made.critic_optimizer, vectors=made.vectors, others="nobody")
