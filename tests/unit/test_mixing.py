"""Value decomposition: equations against slow ones, what counts and what does not, and teams that remember."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl
from protorl.accelerate import accelerate
from protorl.data import MASK, ActionSpec, ArraySpec, tree_map
from protorl.networks import in_numpy
from protorl.recipes import RECIPES

FIELDS: dict[str, Any] = {
    "env": "protorl/EarlyDeath-v0", "num_envs": 3, "widths": (16,), "core": "none", "core_size": 6, "sequence_length": 3,
    "period": 3, "burn_in": 1, "batch_size": 24, "capacity": 2_000, "warmup_steps": 0, "gamma": 0.9, "update_every": 10**6,
    "epsilon_start": 1.0, "epsilon_end": 1.0, "eta": 0.9,
}  # fmt: skip
MASKED = {"env": "protorl/MatrixGame-v0", "env_kwargs": {"payoff": [[1, 2, 3], [0, 1, 0]]}}
"""Agent 0 has 2 actions, agent 1 has 3."""
BOTH = pytest.mark.parametrize("name", ["vdn", "qmix"])


def built(name: str, steps: int = 120, **fields: Any) -> Any:
    """Parts that have gathered steps and learned nothing; the target is not the network."""
    parts = RECIPES[name](**{**FIELDS, **fields}).build()
    torch.manual_seed(11)
    for parameter in parts.agent.target.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    prl.train(*parts, steps=steps)
    return parts


# The equations


def monotone(mixer: Any, q: list[float], state: torch.Tensor) -> float:
    """Q_tot of one team, number by number."""
    hidden = [float(b) for b in mixer.b1(state)]
    w1, w2 = mixer.w1(state).abs(), mixer.w2(state).abs()
    for i, value in enumerate(q):
        for k in range(mixer.size):
            hidden[k] += value * float(w1[i * mixer.size + k])
    squashed = [h if h > 0 else float(np.expm1(h)) for h in hidden]
    return sum(h * float(w) for h, w in zip(squashed, w2)) + float(mixer.b2(state))


def q_tot(agent: Any, network: Any, q: list[float], alive: torch.Tensor, state: torch.Tensor) -> float:
    counted = [value if lives else 0.0 for value, lives in zip(q, alive.tolist())]
    return sum(counted) if isinstance(network.mixer, prl.Sum) else monotone(network.mixer, counted, state)


@torch.no_grad()
@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
@BOTH
def test_the_loss_and_the_priority_are_the_papers(name: str, core: str) -> None:
    """Step by step, team by team, agent by agent: two-step returns, deaths, ends of episodes and burn-in among them."""
    agent, memory, _ = built(name, core=core, n_step=2)
    batch = memory.sample()
    obs, burn_in, steps = batch.seen.obs, 1, 0.0
    every: list[list[float]] = []

    def values(network: Any, b: int) -> list[torch.Tensor]:
        """Q_i of each row, [M, A] each, of agents that are asked one at a time."""
        carry = [tree_map(lambda p, i=i: p[b : b + 1, i], agent.core.started(batch)) for i in range(2)]
        rows = []
        for t in range(len(batch.mask)):
            q = []
            for i in range(2):
                one = prl.Seen(
                    obs["obs"][t, b, i][None], batch.seen.first[t, b][None], batch.seen.action[t, b, i][None],
                    batch.seen.reward[t, b, i][None],
                )  # fmt: skip
                out, carry[i] = prl.networks.unroll(network.network.network, one, carry[i])
                q.append(out.q[0])
            rows.append(torch.stack(q))
        return rows

    for b in range(len(batch)):
        online, target = values(agent.network, b), values(agent.target, b)
        errors = []
        for t in range(burn_in, len(batch.mask)):
            if batch.mask[t, b]:
                then = int(batch.successor[t, b])
                best = [float(target[then][i][online[then][i].argmax()]) for i in range(2)]
                value = q_tot(agent, agent.target, best, obs["alive"][then, b], obs["state"][then, b])
                y = float(batch.reward[t, b].sum() + batch.discount[t, b] * value)
                done = [float(online[t][i][batch.action[t, b, i]]) for i in range(2)]
                errors.append(y - q_tot(agent, agent.network, done, obs["alive"][t, b], obs["state"][t, b]))
        every.append(errors)
    losses, priority = agent.loss_and_priority(batch)
    steps = sum(map(len, every)) / len(every)
    assert min(map(len, every)) < max(map(len, every))
    assert_close(losses, torch.tensor([sum(e**2 / 2 for e in errors) / steps for errors in every]), rtol=1e-4, atol=1e-6)
    wanted = [0.9 * max(map(abs, errors)) + 0.1 * sum(map(abs, errors)) / len(errors) for errors in every]
    assert_close(priority, torch.tensor(wanted), rtol=1e-4, atol=1e-6)
    assert (obs["alive"][batch.mask.bool()] == 0).any()  # there are dead ones


def test_the_value_of_the_team_never_falls_when_that_of_an_agent_rises() -> None:
    """1,000 random states and mixers' inputs: every slope is 0 or more, some are not 0, and larger values mean larger Q_tot."""
    torch.manual_seed(3)
    mixer = prl.Monotone(ArraySpec((7,), np.dtype(np.float32)), 3, 16, (8,))
    state, q = 3 * torch.randn(1_000, 7), (10 * torch.randn(1_000, 3)).requires_grad_()
    (slope,) = torch.autograd.grad(mixer(q, state).sum(), q)
    assert slope.min() >= 0
    assert (slope > 0).all(-1).float().mean() > 0.9
    with torch.no_grad():
        assert (mixer(q + torch.rand_like(q), state) >= mixer(q, state)).all()
        assert mixer(q, state).min() < -1 < 1 < mixer(q, state).max()  # the last bias has any sign


def test_a_mixing_network_of_nothing_is_refused() -> None:
    with pytest.raises(prl.ProtoRLError, match="mixing_size 0 is too small"):
        prl.Monotone(ArraySpec((7,), np.dtype(np.float32)), 3, 0)


# What counts, and what does not


@BOTH
def test_the_dead_and_what_is_no_step_count_for_nothing(name: str) -> None:
    agent, memory, _ = built(name, core="gru", n_step=2)
    batch = memory.sample()
    before = agent.loss_and_priority(batch)
    silent, obs = batch.mask == 0, batch.seen.obs
    dead = (obs["alive"] == 0) | silent.unsqueeze(-1)
    assert dead[1:].any()
    changed = batch.replace(
        action=torch.where(dead, 1 - batch.action, batch.action),
        reward=torch.where(silent.unsqueeze(-1), 1e6, batch.reward),
        discount=torch.where(silent, 7.0, batch.discount),
    )
    assert all(map(torch.equal, agent.loss_and_priority(changed), before))
    q = torch.randn(*obs["alive"].shape)
    other = torch.where(obs["alive"] == 0, torch.full_like(q, -torch.inf), q)
    assert torch.equal(agent.network.mix(q, obs), agent.network.mix(other, obs))


@BOTH
def test_longer_padding_changes_nothing(name: str) -> None:
    """Episodes of 4 steps in sequences of 4, and in sequences of 9."""
    found = []
    for length in (4, 9):
        agent, memory, _ = built(name, core="gru", sequence_length=length, period=4, burn_in=0, batch_size=30)
        batch = memory.sample()
        order = batch.index.argsort()
        losses, priority = agent.loss_and_priority(batch)
        (gradient,) = torch.autograd.grad(losses.sum(), [next(agent.network.parameters())])
        found.append((batch.index[order], losses[order], priority[order], gradient, len(batch.mask)))
    (index, losses, priority, gradient, rows), (index2, losses2, priority2, gradient2, rows2) = found
    assert rows < rows2
    if torch.equal(index, index2):
        assert_close(gradient, gradient2)
    common = {int(i): n for n, i in enumerate(index2)}
    pairs = [(n, common[int(i)]) for n, i in enumerate(index) if int(i) in common]
    assert len(pairs) > 5
    for n, m in pairs:
        assert_close(losses[n], losses2[m])
        assert_close(priority[n], priority2[m])


@BOTH
def test_what_is_not_available_is_never_chosen_nor_believed(name: str) -> None:
    agent, memory, actors = built(name, **MASKED, sequence_length=1, period=1, burn_in=0)
    batch = memory.sample()
    assert batch.seen.obs[MASK][..., 0, 2].sum() == 0
    assert set(batch.action[0, :, 0].tolist()) == {0, 1}
    assert set(batch.action[0, :, 1].tolist()) == {0, 1, 2}
    unrolled = agent.unrolled(agent.network, batch)
    assert (unrolled[..., 0, 2] == -torch.inf).all()
    update = agent.update(batch)
    assert torch.isfinite(update.priority).all()
    assert all(torch.isfinite(p).all() for p in agent.network.parameters())
    assert torch.isfinite(agent.bootstrap(batch, unrolled)).all()
    best = agent.act(actors.env.seen, agent.initial_carry(3), explore=False).action
    assert best[:, 0].max() < 2


# Teams that act


def test_every_agent_of_a_team_tosses_its_own_coin_and_a_row_counts_once() -> None:
    action = ActionSpec("discrete", (3,), np.dtype(np.int64), n=4)
    policy = prl.EpsilonGreedy(action, 0.5, seed=1, rows=range(2))
    q = torch.zeros(2, 3, 4)
    q[..., 2] = 1.0
    q[0, 1, 0] = -torch.inf
    acts = np.stack([policy(prl.networks.QOut(q)) for _ in range(2_000)])
    assert acts.shape == (2_000, 2, 3)
    assert policy.steps == 4_000
    explored = acts != 2
    np.testing.assert_allclose(explored.mean(0), [[0.375, 1 / 3, 0.375], [0.375] * 3], atol=0.04)
    assert abs(np.corrcoef(explored.reshape(2_000, 6).T) - np.eye(6)).max() < 0.1  # nobody tosses another one's
    assert not (acts[:, 0, 1] == 0).any()
    alone = prl.EpsilonGreedy(action, 0.5, seed=1, rows=[1])  # what a row does does not depend on the others
    assert np.array_equal([alone(prl.networks.QOut(q[1:])) for _ in range(50)], acts[:50, 1:])
    policy.idle(np.array([True, False]))
    assert policy.steps == 3_999
    ladder = prl.EpsilonGreedy(action, np.array([0.0, 1.0]), seed=1)
    acts = np.stack([ladder(prl.networks.QOut(q)) for _ in range(100)])
    assert (acts[:, 0] == 2).all()
    assert set(acts[:, 1, 2].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("core", ["none", "gru", "lstm"])
def test_numpy_answers_for_teams_as_torch_does(core: str) -> None:
    agent, _, actors = built("qmix", core=core)
    seen, carry = actors.env.seen, agent.initial_carry(3)
    plain, after = agent.recall(seen, carry, False)
    form = in_numpy(agent.network)
    assert form is not None
    out, carried = agent.core.told(form(agent.core.asked(seen, carry)), carry)
    assert out.q.shape == (3, 2, 2)
    np.testing.assert_allclose(out.q, plain.q, rtol=1e-5, atol=1e-6)
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), carried, after)


@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_each_agents_memory_is_stored_and_gives_back_what_the_actor_valued(core: str) -> None:
    """What is stored with a sequence is what both agents carried where it was taken."""
    valued: dict[bytes, Any] = {}
    fields = {**FIELDS, "core": core, "num_envs": 1, "burn_in": 2, "batch_size": 8}
    agent, memory, actors = RECIPES["vdn"](**fields).build()
    plain = agent.recall

    def recall(seen: Any, carry: Any, explore: bool) -> Any:
        out, after = plain(seen, carry, explore)
        valued[known(seen.obs["obs"][0], seen.action[0], *[part[0] for part in carry])] = torch.as_tensor(out.q[0]).clone()
        return out, after

    def known(*arrays: Any) -> bytes:
        return b"".join(np.asarray(array).tobytes() for array in arrays)

    agent.recall = recall
    prl.train(agent, memory, actors, steps=60)
    batch = memory.sample()
    carry = agent.core.started(batch)
    assert carry[0].shape == (8, 2, 6)
    assert carry[0].any()
    with torch.no_grad():
        q = agent.network(batch.seen, carry).out.q
    for b in range(8):
        key = known(batch.seen.obs["obs"][0, b], batch.seen.action[0, b], *[part[b] for part in carry])
        assert_close(q[0, b], valued[key], atol=1e-5, rtol=1e-4)


@BOTH
def test_each_agent_may_have_a_network_of_its_own(name: str) -> None:
    agent, memory, _ = built(name, share=False)
    assert agent.network.network.network.size == 2
    batch = memory.sample()
    assert torch.isfinite(agent.update(batch).priority).all()
    with pytest.raises(prl.ProtoRLError, match="a core remembers for one network that all agents share: use share=true"):
        built(name, share=False, core="gru")


@pytest.mark.parametrize("fields", [{}, {"core": "gru"}, {"per_alpha": 0.6, "n_step": 3, "bonus": "rnd"}])
def test_a_compiled_update_is_the_plain_one(fields: Any) -> None:
    one, two = (built("qmix", **fields) for _ in range(2))
    accelerate(two.agent, "eager")
    batch = one.memory.sample()
    for part in (one, two):
        part.agent.update(batch)
    tree_map(assert_close, one.agent.state_dict()["network"], two.agent.state_dict()["network"])


def test_a_single_agent_is_no_team() -> None:
    with pytest.raises(prl.ProtoRLError, match="CartPole-v1 has a single agent: use an environment of several"):
        RECIPES["qmix"](env="CartPole-v1").build()


def test_r2d2_learns_where_actions_are_masked() -> None:
    """The row behind an episode has the action before it, which may not be available there."""
    recipe = RECIPES["r2d2"](
        **MASKED, num_envs=2, widths=(8,), core_size=4, sequence_length=2, burn_in=0, period=1, n_step=1, batch_size=16,
        warmup_steps=0, first_priority="largest", update_every=10**6, core_inputs=("action",),
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    prl.train(agent, memory, actors, steps=100)
    batch = memory.sample()
    silent = batch.mask == 0
    batch = batch.replace(action=torch.where(silent, torch.full_like(batch.action, 2), batch.action))
    assert torch.isfinite(agent.update(batch).priority).all()
    assert all(torch.isfinite(p).all() for p in agent.network.parameters())


def test_what_one_agent_of_a_team_has() -> None:
    spec = prl.make_vec_envs("protorl/MatrixGame-v0", 3, as_teams=True, payoff=[[1, 2, 3], [0, 1, 0]]).spec
    lanes = prl.make_vec_envs("protorl/MatrixGame-v0", 3, payoff=[[1, 2, 3], [0, 1, 0]]).spec
    assert spec.member == lanes
    assert lanes.member is lanes
