"""Never Give Up: the paper's numbers, what is remembered and paid, and the targets against a slow reference."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate.faster import Faster
from protorl.agents.ngu import NGU, Told
from protorl.data import Seen, tree_map
from protorl.envs.tasks import DiscoMaze
from protorl.envs.tasks.disco_maze import MOVES
from protorl.functional import greedy_probabilities, mixture_betas, mixture_gammas, rescale, rescale_inverse, retrace
from protorl.networks import Episode, PseudoCounts, Running
from protorl.policies import BanditArms, UniformArms
from protorl.recipes import RECIPES

FIELDS: dict[str, Any] = {
    "env": "CartPole-v1", "num_envs": 3, "widths": (16,), "core_size": 12, "sequence_length": 8, "burn_in": 5, "period": 4,
    "batch_size": 24, "capacity": 2_000, "warmup_steps": 0, "first_priority": "largest", "update_every": 10**6, "epsilon": 0.9,
    "mixtures": 4, "memory_size": 40, "embedding_features": 4, "predictor_features": 8, "accelerate": "eager",
}  # fmt: skip


def built(steps: int = 300, **fields: Any) -> tuple[Any, prl.Replay, Any]:
    """Parts that have gathered steps and learned nothing; the target is not the network."""
    parts = RECIPES["ngu"](**{**FIELDS, **fields}).build()
    torch.manual_seed(11)
    for parameter in parts.agent.target.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    prl.train(*parts, steps=steps)
    return parts


# The mixture


def test_the_mixture_is_the_papers() -> None:
    wanted = {1: 2.65e-5, 5: 3.81e-4, 10: 0.010334, 14: 0.101773, 15: 0.15, 16: 0.198227, 20: 0.289666, 31: 0.3}
    betas = mixture_betas(32, 0.3)
    assert [float(betas[i]) for i in wanted] == pytest.approx(list(wanted.values()), rel=2e-3)
    wanted = {0: 0.997, 1: 0.996881, 10: 0.995576, 15: 0.994628, 20: 0.993477, 31: 0.99}
    gammas = mixture_gammas(32, 0.997, 0.99)
    assert [float(gammas[i]) for i in wanted] == pytest.approx(list(wanted.values()), abs=1e-6)
    assert betas[0] == 0  # the one that looks farthest does not explore
    assert (mixture_betas(1, 0.3).tolist(), mixture_betas(2, 0.5).tolist()) == ([0.0], [0.0, 0.5])
    assert float(mixture_gammas(1, 0.9, 0.5)) == pytest.approx(0.9)
    assert mixture_gammas(2, 0.9, 0.5).tolist() == pytest.approx([0.9, 0.5])


def test_arms_are_drawn_by_lane_and_as_likely() -> None:
    first = np.ones(2, np.bool_)
    both, second = UniformArms(4, 3, [5, 6]), UniformArms(4, 3, [6])
    drawn = np.array([(both(first), second(first[:1])[0]) for _ in range(400)], object)
    assert all(pair[1] == one for pair, one in drawn)
    counts = np.bincount(np.concatenate([pair for pair, _ in drawn]))
    assert len(counts) == 4
    assert counts.min() > 160


def test_old_episodes_leave_the_bandits_window() -> None:
    arms = BanditArms(3, [0, 1], window=5, epsilon=0.0)
    first, rows = np.ones(2, np.bool_), np.array([True, False])
    tried = []
    for _ in range(3):
        tried.append(int(arms(first)[0]))
        arms.ended(rows, np.array([tried[-1], 0]), np.array([1.0, 9.0]))
    assert tried == [0, 1, 2]
    for _ in range(5):
        arms.ended(rows, np.array([1, 0]), np.array([2.0, 9.0]))
    assert arms.counts(0).tolist() == [0, 5, 0]
    assert arms.played.tolist() == [8, 0]  # each row has a window of its own
    assert arms.bounds(0).tolist() == [np.inf, pytest.approx(2 + np.sqrt(np.log(5) / 5)), np.inf]
    assert arms(first).tolist() == [0, 0]  # what is not in the window goes first; the other row is at its beginning
    for arm in (0, 2, 1, 1, 1):
        arms.ended(rows, np.array([arm, 0]), np.array([2.0 + arm, 0.0]))
    assert arms(first)[0] == 2
    again = BanditArms(3, [0, 1], window=5, epsilon=0.0)
    again.load_state_dict(copy.deepcopy(arms.state_dict()))
    assert again.bounds(0).tolist() == arms.bounds(0).tolist()


# What is new in an episode


@pytest.mark.parametrize(("epsilon", "wanted"), [(1e-4, 0.706311), (1e-3, 0.703677), (1e-2, 0.680439)])
def test_the_kernel_gives_the_papers_numbers(epsilon: float, wanted: float) -> None:
    distances = np.array([[0, 0.004, 0.1, 0.5, 1, 1, 1.5, 2, 2.5, 3]], np.float32)
    assert PseudoCounts(epsilon=epsilon).reward(distances, np.ones(1))[0] == pytest.approx(wanted, rel=1e-5)


def test_what_follows_from_the_kernel() -> None:
    far, near = np.full((1, 10), 1.008, np.float32), np.zeros((1, 10), np.float32)
    for epsilon, wanted in ((1e-4, 30.5), (1e-3, 9.87), (1e-2, 3.16)):
        counts = PseudoCounts(epsilon=epsilon)
        assert counts.reward(far, np.ones(1))[0] == pytest.approx(wanted, rel=0.02)
        assert counts.reward(near, np.ones(1))[0] == pytest.approx(0.316, abs=1e-3)  # s_max = 8 never fires
    counts = PseudoCounts()
    assert counts.reward(np.full((1, 10), np.inf, np.float32), np.ones(1))[0] == pytest.approx(1_000)  # an empty memory
    assert counts.reward(near, np.zeros(1))[0] == pytest.approx(0.316, abs=1e-3)  # nothing moves: d_m is 0
    assert PseudoCounts(most=3.0).reward(near, np.ones(1))[0] == 0


@pytest.mark.parametrize("mean", ["all", "kth"])
def test_the_episodic_memory_is_a_list_of_what_was_seen(mean: str) -> None:
    """Against the paper's Algorithm 1, line by line; rows with memories of their own, the oldest entries leave."""
    rng, counts, size = np.random.default_rng(0), PseudoCounts(k=3, epsilon=1e-2, mean=mean), 7
    episode, seen = Episode.empty(2, size, 4), [[], []]
    running, weight = Running(0.9), [0.0, 0.0]
    for t in range(40):
        x = rng.standard_normal((2, 4)).astype(np.float32)
        x[1] = x[0] if t < 5 else x[1]
        rows = np.array([True, t % 3 > 0])
        found = counts.distances(episode, x, rows)
        typical = counts.typical(found)
        reward = counts.reward(found, running.including(typical))
        for i in np.flatnonzero(rows):
            memory = seen[i][-size:]
            d2 = sorted(float(((x[i] - y) ** 2).sum()) for y in memory)[:3]
            assert found[i][: len(d2)] == pytest.approx(d2, rel=1e-5)
            assert np.isinf(found[i][len(d2) :]).all()
            if d2:
                new = d2[-1] if mean == "kth" else sum(d2) / len(d2)
                d_m = (0.9 * weight[0] * weight[1] + new) / (0.9 * weight[0] + 1)  # updated before it is used
                kernel = [1e-2 / (max(d / d_m - 0.008, 0) + 1e-2) for d in d2]
                assert reward[i] == pytest.approx(1 / (sum(kernel) ** 0.5 + 1e-3), rel=1e-4)
            seen[i].append(x[i])
        if rows[0]:
            weight = [0.9 * weight[0] + 1, (0.9 * weight[0] * weight[1] + typical[0]) / (0.9 * weight[0] + 1)]
            running.count(typical[:1])
            assert running.moments[0] <= weight[0]  # not yet
            running.settle()
        episode.remember(x, rows)
    assert running.moments[:2].tolist() == pytest.approx(weight)


def test_running_moments_are_those_of_all_numbers() -> None:
    numbers, running, slow = np.random.default_rng(1).standard_normal(100) + 3, Running(), Running(0.95)
    for piece in np.split(numbers, [1, 30, 31, 31, 80]):
        running.count(piece)
        slow.count(piece)
    assert (running.standardised(np.ones(2)) == 0).all()
    running.settle()
    slow.settle()
    assert running.standardised(numbers[:3]) == pytest.approx((numbers[:3] - numbers.mean()) / numbers.std())
    share = 0.95 ** np.arange(99, -1, -1)
    mean = (share * numbers).sum() / share.sum()
    variance = (share * (numbers - mean) ** 2).sum() / share.sum()
    assert slow.standardised(np.array([5.0])) == pytest.approx((5 - mean) / variance**0.5)


def test_who_follows_the_episodic_reward_sees_more_of_a_maze_than_chance() -> None:
    """With the agent's place for an embedding: of the ways that are open, always the one that pays most."""

    def share(follows: bool, seed: int) -> float:
        env, counts, rng = DiscoMaze(11, time_limit=150), PseudoCounts(epsilon=1e-2), np.random.default_rng(seed)
        env.reset(seed=seed)
        episode, running = Episode.empty(1, 500, 2), Running()
        over, info, here = False, {}, np.ones(1, np.bool_)
        while not over:
            episode.remember(np.array([env.place], np.float32), here)
            ways = [a for a, (r, c) in enumerate(MOVES) if not env.wall[env.place[0] + r, env.place[1] + c]]
            there = [np.array([[env.place[0] + MOVES[a][0], env.place[1] + MOVES[a][1]]], np.float32) for a in ways]
            near = [counts.distances(episode, x, here) for x in there]
            pay = [counts.reward(d, running.including(counts.typical(d)))[0] for d in near]
            running.count(np.concatenate([counts.typical(d) for d in near]))
            running.settle()
            best = np.flatnonzero(np.array(pay) >= max(pay) - 1e-6)
            *_, over, info = env.step(ways[int(rng.choice(best))] if follows else int(rng.choice(ways)))
        return float(info["visited"])

    led, chance = (np.mean([share(follows, seed) for seed in range(8)]) for follows in (True, False))
    assert led > chance + 0.15


# Where the environment is


def seen(obs: Any, first: Any) -> Seen:
    n = len(first)
    return Seen(np.asarray(obs, np.float32), np.array(first), np.zeros(n, np.int64), np.zeros(n, np.float32))


def step_to(agent: NGU, carry: Any, obs: Any, **fields: Any) -> Any:
    """What annotate pays for getting there."""
    obs = np.asarray(obs, np.float32)
    n, yes = len(obs), np.ones(len(obs), np.bool_)
    told = {"terminated": ~yes, "truncated": ~yes, "valid": yes, "reward": np.ones(n, np.float32), **fields}
    step = prl.Step(
        obs=obs, action=np.zeros(n, np.int64), discount=np.ones(n, np.float32), next_obs=obs, first=~yes, extras={}, **told
    )
    return agent.annotate(step, carry)[0].extras["intrinsic"]


def test_each_row_has_a_memory_and_it_begins_with_the_first_observation() -> None:
    agent, *_ = built(steps=0, num_envs=2)
    carry = agent.initial_carry(2)
    here, there = [[1.0, 0, 0, 0]] * 2, [[0.0, 2, 0, 1]] * 2
    carry = agent.act(seen(here, [True, True]), carry, explore=True).carry
    assert carry.episode.number.tolist() == [1, 1]
    assert carry.intrinsic.tolist() == [0, 0]  # the first one pays nobody
    one, two = step_to(agent, carry, there)
    assert one == two  # the same to both, whatever the other has seen
    assert 1 < one < 1_000  # it has a neighbour: no empty memory
    carry = agent.act(seen(there, [False, False]), carry, explore=True).carry
    again, _ = step_to(agent, carry, there)
    assert again < one / 2  # seen already, by the step before alone: it is remembered behind the query
    fresh = agent.initial_carry(2)
    fresh = agent.act(seen(there, [True, True]), fresh, explore=True).carry  # as actors do at an episode's start
    assert fresh.episode.number.tolist() == [1, 1]
    invalid = step_to(agent, fresh, here, valid=np.array([True, False]))
    assert (invalid > 1).tolist() == [True, False]
    assert invalid[1] == 0
    assert fresh.episode.number.tolist() == [2, 1]


def test_the_embedding_stays_as_it_is_until_the_episode_ends() -> None:
    agent, *_ = built(steps=0, num_envs=2)
    obs, rows = np.eye(4, dtype=np.float32)[:2], np.ones(2, np.bool_)
    carry = agent.act(seen(obs, [True, True]), agent.initial_carry(2), explore=True).carry
    before = agent.embedded(obs, carry, rows)
    for parameter in agent.inverse.parameters():
        parameter.data += 0.5
    assert np.array_equal(agent.embedded(obs, carry, rows), before)
    carry.weights[1] = 0  # the second row begins an episode
    carry = agent.act(seen(obs, [False, True]), carry, explore=True).carry
    now = agent.embedded(obs, carry, rows)
    assert np.array_equal(now[0], before[0])
    with torch.no_grad():
        assert now[1] == pytest.approx(agent.inverse.embedding(torch.from_numpy(obs))[1].numpy(), rel=1e-5)


@pytest.mark.parametrize(("sigmas", "factor"), [(0.0, 1.0), (-3.0, 1.0), (2.0, 3.0), (10.0, 5.0)])
def test_life_long_novelty_is_a_factor_between_1_and_5(sigmas: float, factor: float) -> None:
    agent, *_ = built(steps=0, num_envs=1)
    agent.errors.count(np.array([1.0, 3.0]))
    agent.errors.settle()  # mean 2, deviation 1

    def paid(error: float) -> float:
        agent.erred = lambda obs: np.full(1, error, np.float32)
        carry = agent.act(seen([[1.0, 0, 0, 0]], [True]), agent.initial_carry(1), explore=True).carry
        return float(step_to(agent, carry, [[0.0, 2, 0, 1]])[0])

    assert paid(2 + sigmas) == pytest.approx(factor * paid(2.0), rel=1e-5)


def test_columns_say_what_was_done_and_paid() -> None:
    _, memory, actors = built(steps=600)
    batch = memory.sample()
    gammas = mixture_gammas(4, 0.997, 0.99)
    assert set(batch.arm.unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(batch.gamma, gammas[batch.arm])
    real = batch.mask.bool()
    assert torch.equal(batch.discount[real & ~batch.ended], batch.gamma[real & ~batch.ended])
    inside = ~batch.seen.first[1:] & (batch.successor[:-1] > torch.arange(len(real) - 1).unsqueeze(-1))
    assert torch.equal(batch.last_intrinsic[1:][inside], batch.intrinsic[:-1][inside])  # r^i belongs to what the step led to
    assert not batch.last_intrinsic[batch.seen.first].any()
    assert (batch.arm == batch.arm[-2:-1])[real].all()  # one for the whole episode
    epsilons = torch.from_numpy(prl.policies.apex_epsilons(3, 0.9)).float()
    likely = torch.cat([epsilons / 2, 1 - epsilons / 2])
    assert ((batch.mu[real].unsqueeze(-1) - likely).abs().amin(-1) < 1e-6).all()
    assert (batch.intrinsic[real] > 0).all()
    carry = actors.carry
    assert len(np.unique(carry.episode.number)) > 1  # emptied where an episode started


def test_the_network_sees_the_same_where_it_acts_and_where_it_learns() -> None:
    """Every row of sampled sequences from the stored state: arm, intrinsic reward, action and reward before among them."""
    valued: dict[bytes, torch.Tensor] = {}
    recipe = RECIPES["ngu"](**FIELDS)
    agent, memory, actors = recipe.build()
    plain = agent.recall

    def recall(told: Told, carry: Any, explore: bool) -> Any:
        out, after = plain(told, carry, explore)
        valued.update((obs.tobytes(), row.clone()) for obs, row in zip(told.obs, out.q))
        return out, after

    agent.recall = recall
    prl.train(agent, memory, actors, steps=300)
    batch = memory.sample()
    real = batch.mask[5:].bool()
    with torch.no_grad():
        q = agent.unrolled(agent.network, batch)[real]
    acted = torch.stack([valued[obs.tobytes()] for obs in batch.seen.obs[5:][real].numpy()])
    assert len(q) > 100
    torch.testing.assert_close(q, acted, atol=1e-5, rtol=1e-4)


# In learning


def test_retrace_cuts_the_trace_of_the_next_step() -> None:
    q, following, ratio = (torch.tensor(x) for x in ([1.0, 2, 3], [2.0, 3, 4], [0.5, 2.0, 1.0]))
    reward, discount = torch.full((3,), 0.5), torch.full((3,), 0.9)
    found = retrace(q, following, reward, discount, ratio, 0.95)
    assert found.tolist() == pytest.approx([4.130127, 4.1405, 4.1], rel=1e-6)
    ended = retrace(q, following, reward, torch.tensor([0.9, 0.0, 0.9]), ratio, 0.95)
    assert ended.tolist() == pytest.approx([1 + 1.3 + 0.855 * -1.5, 0.5, 4.1])
    one_step = retrace(q, following, reward, discount, ratio, 0.0)
    assert torch.equal(one_step, reward + discount * following)


def test_greedy_probabilities_are_those_of_the_policy() -> None:
    q = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    pi = greedy_probabilities(q, 0.3)
    assert pi.tolist() == [pytest.approx([0.1, 0.8, 0.1]), pytest.approx([0.8, 0.1, 0.1])]
    policy = prl.EpsilonGreedy(prl.ActionSpec("discrete", (), np.dtype(np.int64), n=3), np.array([0.3, 0.3]))
    out = prl.networks.QOut(q)
    assert policy.probabilities(out) == pytest.approx(pi.numpy())
    masked = prl.networks.QOut(torch.tensor([[1.0, -np.inf, 3.0], [0.0, -1.0, -2.0]]))
    assert policy.probabilities(masked)[0].tolist() == pytest.approx([0.15, 0, 0.85])


@torch.no_grad()
@pytest.mark.parametrize("scale", ["h", "none"])
def test_the_targets_are_the_papers(scale: str) -> None:
    agent, memory, _ = built(scale=scale)
    h, back = (rescale, rescale_inverse) if scale == "h" else ((lambda x: x), (lambda x: x))
    batch = memory.sample()
    td, betas = agent.td_error(batch), mixture_betas(4, 0.3)
    assert batch.mask.sum(0).min() < 8  # there are short ones
    assert batch.ended.any()
    online, target = (agent.unrolled(network, batch) for network in (agent.network, agent.target))
    for b in range(len(batch)):
        later = 0.0
        for t in range(12, 4, -1):  # backwards: G_t - Q_t = δ_t + γ c_{t+1} (G_{t+1} - Q_{t+1})
            if not batch.mask[t, b]:
                assert td[t - 5, b] == 0
                continue
            then = int(batch.successor[t, b])
            pi = greedy_probabilities(online[then - 5, b], 0.01)
            value = (pi * back(target[then - 5, b])).sum()
            action = batch.action[t, b]
            paid = batch.reward[t, b] + betas[batch.arm[t, b]] * batch.intrinsic[t, b]
            q = back(target[t - 5, b])[action]
            more = paid + batch.discount[t, b] * (value + later) - q
            assert float(td[t - 5, b]) == pytest.approx(float(h(q + more) - online[t - 5, b, action]), rel=1e-3, abs=1e-4)
            likely = greedy_probabilities(online[t - 5, b], 0.01)[action] / batch.mu[t, b]
            later = 0.95 * min(1.0, float(likely)) * more


@pytest.mark.parametrize(("asked", "count"), [(5, 5), (8, 8), (None, 8)])  # the paper's, and all of them
def test_embedding_and_predictor_learn_from_the_last_steps_of_each_sequence(asked: int | None, count: int) -> None:
    agent, memory, _ = built(novelty_steps=asked)
    batch = memory.sample()
    now, then, action, weight = agent.recent(batch)
    for b in range(len(batch)):
        steps = int(batch.mask[:, b].sum())
        assert weight[:, b].tolist() == [1.0] * min(steps, count) + [0.0] * max(count - steps, 0)
        for i in range(min(steps, count)):
            t = 5 + steps - 1 - i
            assert torch.equal(now[i, b], batch.seen.obs[t, b])
            assert torch.equal(then[i, b], batch.seen.obs[t + 1, b])
            assert action[i, b] == batch.action[t, b]
            assert not batch.seen.first[t + 1, b]  # never across a reset
    before = copy.deepcopy([p.detach().clone() for p in (*agent.inverse.parameters(), *agent.distillation.parameters())])
    agent.update(batch)
    after = [*agent.inverse.parameters(), *agent.distillation.parameters()]
    still = [torch.equal(one, two) for one, two in zip(before, after)]
    frozen = len([*agent.distillation.target.parameters()])
    assert sum(still) == frozen


def test_a_random_projection_is_never_trained() -> None:
    agent, memory, _ = built(embedding="random")
    before = [p.detach().clone() for p in agent.inverse.parameters()]
    agent.update(memory.sample())
    assert all(map(torch.equal, before[:-4], agent.inverse.embedding.parameters()))
    assert not any(map(torch.equal, before[-4:], agent.inverse.classifier.parameters()))  # its loss says what f tells


def test_the_running_means_hold_from_the_next_update_on() -> None:
    agent, memory, _ = built(steps=300)
    assert agent.distances.coming[0] > 200
    assert not agent.distances.moments.any()
    agent.update(memory.sample())
    assert torch.equal(agent.distances.moments, agent.distances.coming)
    assert agent.errors.moments[0] == 300


def test_wrong_numbers_get_a_sentence() -> None:
    for fields, message in (
        ({"n_step": 3}, "n_step 3 is out of range: it must be 1 agent steps"),
        ({"gamma": 1.0}, "gamma 1.0 has no logarithm of 1 - gamma: use a discount below 1"),
        ({"core_inputs": ("actions",)}, "core_inputs 'actions' is unknown"),
    ):
        with pytest.raises(prl.ProtoRLError, match=message):
            built(steps=0, **fields)
    with pytest.raises(prl.ProtoRLError, match="distance_mean 'most' is unknown: use all or kth"):
        PseudoCounts(mean="most")


def test_the_cores_inputs_are_the_same_in_numpy_and_in_torch() -> None:
    told = Told(*seen(np.zeros((2, 4)), [True, False]), np.array([1, 3]), np.array([0.0, 2.5], np.float32))
    mapped = tree_map(torch.from_numpy, told)
    agent, *_ = built(steps=0)
    arm, intrinsic = agent.core.inputs[2:]
    assert arm(mapped).tolist() == arm.in_numpy()(told).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert intrinsic(mapped).tolist() == intrinsic.in_numpy()(told).tolist() == [[0], [2.5]]


@pytest.mark.slow
def test_an_update_is_one_graph_with_the_same_numbers() -> None:
    """Compared at its first and hundredth call, from the same state; here without a compiler."""
    agent, memory, _ = built(sequence_length=3, burn_in=1, period=2, batch_size=8)
    agent.learn = Faster(agent, "learn", lambda made, inputs, name: lambda tensors: made.graph(*made.given(tensors)))
    for _ in range(104):
        agent.update(memory.sample())
    assert not agent.settled["learn"]["plain"]
    assert agent.learn.calls == 101
