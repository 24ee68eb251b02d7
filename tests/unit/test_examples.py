"""The equations of the examples against slow and obvious ones; and that agents learn by the equations that they name."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import protorl as prl
from protorl.recipes import RECIPES
from protorl.recipes.find import find_recipe
from tests.contract.cases import settings

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL: dict[str, Any] = {
    "widths": (8, 8), "warmup_steps": 30, "batch_size": 6, "steps": 1_000, "capacity": 100, "update_every": 1,
}  # fmt: skip


def parts(name: str, env: str, **fields: Any) -> Any:
    """Parts of an example that has learned a little, so that targets differ from what they follow."""
    cls: Any = find_recipe(str(EXAMPLES / name))
    known = {key: value for key, value in SMALL.items() if key in cls.__dataclass_fields__}
    built = cls(env=env, **{**known, **fields}).build()
    prl.train(*built, steps=90)
    built.actors.close()
    return built


def with_noise(memory: Any) -> prl.Batch:
    batch = memory.sample()
    return batch.replace(noise=torch.randn_like(batch.action), next_noise=torch.randn_like(batch.action))


def test_tqc_keeps_the_smallest_quantiles_of_all_critics_together() -> None:
    agent, memory, _ = parts("tqc.py:TQC", "Pendulum-v1", critics=3, quantiles=4, drop=1)
    batch = with_noise(memory)
    with torch.no_grad():
        action, log_prob = agent.sample(batch.next_obs, batch.next_noise)
        z = agent.target(batch.next_obs, action)
    assert z.shape == (3, 6, 4)
    for i, kept in enumerate(agent.bootstrap(batch)):
        expected = sorted(float(z[k, i, n]) for k in range(3) for n in range(4))[:9]
        assert_close(kept, torch.tensor(expected) - agent.alpha * log_prob[i])
    losses, priority, _ = agent.loss_and_priority(batch)
    y = batch.reward[:, None] + batch.discount[:, None] * agent.bootstrap(batch)
    predicted = agent.critic(batch.obs, batch.action)
    for k, i in itertools.product(range(3), range(6)):
        loss = 0.0
        for n, j in itertools.product(range(4), range(9)):
            u = y[i, j] - predicted[k, i, n]
            loss += abs((n + 0.5) / 4 - float(u < 0)) * (0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5) / 9
        assert_close(losses[k, i], loss)
    assert_close(priority, (y.mean(1) - predicted.mean((0, 2))).abs())


def test_redq_believes_the_least_of_random_critics_and_climbs_their_mean() -> None:
    agent, memory, _ = parts("redq.py:REDQ", "Pendulum-v1", critics=4, subset=2)
    batch = with_noise(memory)
    with torch.no_grad():
        action, log_prob = agent.sample(batch.next_obs, batch.next_noise)
        q = agent.target(batch.next_obs, action)
    pairs = {
        pair: torch.minimum(q[pair[0]], q[pair[1]]) - agent.alpha * log_prob for pair in itertools.combinations(range(4), 2)
    }
    chosen = set()
    for _ in range(60):
        value = agent.bootstrap(batch)
        chosen |= {pair for pair, expected in pairs.items() if torch.allclose(value, expected)}
    assert chosen == set(pairs)
    action, log_prob = agent.sample(batch.obs, batch.noise)
    assert_close(agent.actor_loss(batch)[0], agent.alpha * log_prob - agent.critic(batch.obs, action).mean(0))
    before = agent.actor_optimizer.updates.item()
    for _ in range(2 * agent.delay):
        agent.update(memory.sample())
    assert agent.actor_optimizer.updates.item() == before + 2


def test_averaged_dqn_believes_the_mean_of_the_last_targets() -> None:
    agent, memory, _ = parts("averaged_dqn.py:AveragedDQN", "CartPole-v1", targets=3, target_every=4, updates=1)
    seen = []
    for _ in range(12):
        agent.update(memory.sample())
        if agent.updates % 4 == 0:
            seen.insert(0, {name: p.clone() for name, p in agent.network.state_dict().items()})
    for network, expected in zip((agent.target, *agent.past), seen, strict=True):
        assert all(torch.equal(p, expected[name]) for name, p in network.state_dict().items())
    batch = memory.sample()
    q = sum(network(batch.next_obs).q for network in (agent.target, *agent.past)) / 3
    assert_close(agent.bootstrap(batch), q.amax(-1))


def test_pqn_learns_lambda_returns_that_end_with_episodes() -> None:
    agent = parts("pqn.py:PQN", "CartPole-v1", num_envs=2, rollout_steps=16, trace=0.7).agent
    t, n = 5, 2
    ended = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1], [0, 0]], dtype=torch.bool)
    discount = 0.9 * torch.tensor([[1, 1], [0, 1], [1, 1], [1, 1], [1, 1]])  # one terminates, the other is cut short
    obs = torch.randn(t + 1, n, 4)
    next_obs = obs[1:].clone()
    next_obs[1, 0], next_obs[3, 1] = torch.randn(2, 4)  # an episode's last observation is not the next one's first
    reward = torch.randn(t, n)
    rollout = prl.Batch(
        {"obs": obs[:-1], "next_obs": next_obs, "reward": reward, "discount": discount, "ended": ended, "action": 0}
    )
    best = agent.network(next_obs).q.amax(-1)
    for lane in range(n):
        ret = None
        for i in reversed(range(t)):
            follows = best[i, lane] if ret is None or ended[i, lane] else 0.3 * best[i, lane] + 0.7 * ret
            ret = reward[i, lane] + discount[i, lane] * follows
            assert_close(agent.prepare(rollout).ret[i, lane], ret)


def test_awr_weighs_actions_by_their_advantage() -> None:
    agent, memory, _ = parts("awr.py:AWR", "CartPole-v1", beta=0.5, limit=3.0)
    batch = memory.sample()
    out = agent.network(batch.obs)
    ret = batch.reward + batch.discount * agent.network.value(batch.next_obs)
    advantage = (ret - out.value).detach()
    log_prob = torch.log_softmax(out.policy.logits, -1)[range(6), batch.action]
    loss = ((ret.detach() - out.value) ** 2 - torch.clamp(torch.exp(advantage / 0.5), max=3.0) * log_prob).mean()
    assert_close(agent.learn(batch).metrics["loss"], loss.detach())


# Named equations

EQUATIONS = {
    "dqn": ("bootstrap", "td_error", "loss_and_priority"),
    "double-dqn": ("bootstrap", "td_error", "loss_and_priority"),
    "munchausen-dqn": ("td_error", "loss_and_priority"),
    "rainbow": ("target_distribution", "loss_and_priority"),
    "qr-dqn": ("target_quantiles", "loss_and_priority"),
    "iqn": ("z", "target_quantiles", "loss_and_priority"),
    "ddpg": ("target_action", "reduce", "bootstrap", "loss_and_priority", "actor_loss"),
    "td3": ("target_action", "reduce", "bootstrap", "loss_and_priority", "actor_loss"),
    "sac": ("sample", "reduce", "bootstrap", "loss_and_priority", "actor_loss", "temperature_loss"),
    "ppo": ("advantage", "surrogate", "value_error"),
    "rnd": ("advantage", "intrinsic", "combined", "surrogate", "value_error"),
}


@pytest.mark.parametrize(("name", "equation"), [(name, equation) for name in EQUATIONS for equation in EQUATIONS[name]])
def test_an_agent_learns_by_the_equations_that_it_names(name: str, equation: str) -> None:
    """With another equation in the place of one, other numbers are learned."""
    plain: Any = RECIPES[name].agent_class

    def doubled(value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(doubled, value))
        return value._replace(quantiles=2 * value.quantiles) if hasattr(value, "quantiles") else 2 * value

    other = type("Other", (plain,), {equation: lambda self, *args: doubled(getattr(plain, equation)(self, *args))})
    if equation == "z":
        other = type("Other", (plain,), {equation: staticmethod(lambda *args: doubled(plain.z(*args)))})
    learned = []
    squared = {"kappa": float("inf")}
    fields: dict[str, Any] = {"dqn": squared, "double-dqn": squared}
    for agent_class in (plain, other):
        cls: Any = type("Own", (RECIPES[name],), {"__module__": __name__, "agent_class": agent_class})
        torch.manual_seed(0)
        built = cls(**settings(name, **fields.get(name, {}))).build()
        prl.train(*built, steps=64)
        built.actors.close()
        learned.append(list(built.agent.network.parameters()))
        if equation == "temperature_loss":
            learned[-1] = [built.agent.alpha_optimizer.m]
    assert not all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


def test_drqn_unrolls_from_an_empty_memory_to_the_greedy_value_of_the_next_row() -> None:
    agent, memory, _ = parts(
        "drqn.py:DRQN", "CartPole-v1", core_size=6, sequence_length=4, n_step=1, updates=1, epsilon_steps=50
    )
    batch = memory.sample()
    losses, priority = agent.loss_and_priority(batch)
    for b in range(6):
        carries = [torch.zeros(1, 6)] * 2
        kept = {"network": carries, "target": carries}
        q: dict[str, list[Any]] = {"network": [], "target": []}
        for t, (name, network) in itertools.product(range(5), (("network", agent.network), ("target", agent.target))):
            seen = prl.Seen(*[column[t, b].unsqueeze(0) for column in batch.seen[:4]])
            with torch.no_grad():
                out, kept[name] = network(seen, agent.core.kind(*kept[name]))
            q[name].append(out.q[0])
        rows = [t for t in range(4) if batch.mask[t, b]]
        td = [
            float(batch.reward[t, b] + batch.discount[t, b] * q["target"][int(batch.successor[t, b])].max())
            - float(q["network"][t][batch.action[t, b]])
            for t in rows
        ]
        assert_close(priority[b], torch.tensor(sum(map(abs, td)) / len(td)))
        cost = [0.5 * e * e if abs(e) <= 1 else abs(e) - 0.5 for e in td]
        assert_close(losses[b], torch.tensor(sum(cost) / len(cost)))


def test_qatten_mixes_by_attention_and_is_monotone() -> None:
    agent, memory, _ = parts("qatten.py:Qatten", "protorl/TwoStepGame-v0", heads=3)
    mixer, obs = agent.network.mixer, memory.sample().seen.obs
    state, q = obs["state"][0, :4], torch.randn(4, 2, requires_grad=True)
    q_tot = mixer(q, state)
    with torch.no_grad():
        for b in range(4):
            found = float(mixer.value(state[b]))
            for h, weight in enumerate(mixer.weight(state[b]).abs()):
                size = mixer.attention(state[b])[2 * h : 2 * h + 2].exp()
                found += float(weight * (size / size.sum() * q[b]).sum())
            assert_close(q_tot[b], torch.tensor(found))
    assert (torch.autograd.grad(q_tot.sum(), q)[0] >= 0).all()
