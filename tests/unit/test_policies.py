"""Policies: who tosses which coin, when, and what is remembered."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from protorl.data import ActionSpec, Constant, Linear, ProtoRLError
from protorl.networks import QOut
from protorl.policies import Categorical, EpsilonGreedy, Greedy, Warmup, apex_epsilons

ACTION = ActionSpec("discrete", (), np.dtype("int64"), n=4)
BOX = ActionSpec("box", (2, 3), np.dtype("float32"))
MULTI = ActionSpec("multidiscrete", (2,), np.dtype("int64"), nvec=(2, 7))


class Logits(NamedTuple):
    logits: object


def q_values(n, best=2):
    q = np.zeros((n, 4), np.float32)
    q[:, best] = 1.0
    return QOut(q)


def draw(policy, out, calls):
    return np.array([policy(out) for _ in range(calls)])


def test_greedy_takes_the_first_of_the_best_from_numpy_or_torch():
    q = np.array([[0, 3, 3, 1], [5, 5, 5, 5]], np.float32)
    for out in (QOut(q), QOut(torch.from_numpy(q).requires_grad_())):
        for action in (Greedy(ACTION)(out), Greedy(ACTION).mode(out), EpsilonGreedy(ACTION, 0.5).mode(out)):
            assert action.tolist() == [1, 0]
            assert action.dtype == np.int64


def test_epsilon_zero_is_greedy_and_epsilon_one_is_uniform():
    assert (draw(EpsilonGreedy(ACTION, 0.0), q_values(3), 50) == 2).all()
    actions = draw(EpsilonGreedy(ACTION, 1.0), q_values(3), 4000)
    for row in range(3):
        share = np.bincount(actions[:, row], minlength=4) / 4000
        assert_close(share, np.full(4, 0.25), atol=0.03, rtol=0)


def test_each_row_tosses_its_own_coin():
    actions = draw(EpsilonGreedy(ACTION, 0.5), q_values(2), 2000)
    other = actions != 2
    assert_close(other.mean(0), np.full(2, 0.375), atol=0.04, rtol=0)
    assert abs(np.corrcoef(other[:, 0], other[:, 1])[0, 1]) < 0.07
    assert (other[:, 0] != other[:, 1]).any()


def test_what_a_row_does_depends_only_on_its_name():
    together = draw(EpsilonGreedy(ACTION, 0.5, seed=1), q_values(4), 100)
    apart = draw(EpsilonGreedy(ACTION, 0.5, seed=1, rows=[2, 3]), q_values(2), 100)
    assert (together[:, 2:] == apart).all()
    assert (draw(EpsilonGreedy(ACTION, 0.5, seed=2), q_values(4), 100) != together).any()


@pytest.mark.parametrize("n", [1, 8])
def test_the_schedule_counts_agent_steps_for_any_number_of_environments(n):
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.5

    policy = EpsilonGreedy(ACTION, schedule)
    seen.clear()
    for _ in range(80 // n):
        policy(q_values(n))
        policy.mode(q_values(3))
    assert seen == list(range(0, 80, n))
    assert policy.steps == 80


def test_a_linear_schedule_ends_where_it_says():
    policy = EpsilonGreedy(ACTION, Linear(1.0, 0.0, 100))
    early = draw(policy, q_values(4), 25)
    late = draw(policy, q_values(4), 25)
    assert (early != 2).any()
    assert (late == 2).all()


def test_epsilon_per_row():
    policy = EpsilonGreedy(ACTION, np.array([0.0, 1.0, 0.0]))
    actions = draw(policy, q_values(3), 200)
    assert ((actions != 2).mean(0) > 0.5).tolist() == [False, True, False]
    assert (actions[:, [0, 2]] == 2).all()


def test_apex_epsilons():
    assert_close(apex_epsilons(4), np.array([0.4, 0.04716, 0.00556, 0.00066]), atol=5e-6, rtol=0)
    expected = np.array([0.4, 0.16, 0.064, 0.0256, 0.01024, 0.0041, 0.00164, 0.00066])
    assert_close(apex_epsilons(8), expected, atol=5e-6, rtol=0)
    assert apex_epsilons(1).tolist() == [0.4]
    assert_close(apex_epsilons(2, base=0.5, alpha=1), np.array([0.5, 0.25]))


def test_categorical_samples_its_probabilities():
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.3, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.log(p) + np.array([[5.0], [-1000.0]])
    actions = draw(Categorical(ACTION), Logits(logits.astype(np.float32)), 5000)
    for row in range(2):
        assert_close(np.bincount(actions[:, row], minlength=4) / 5000, p[row], atol=0.025, rtol=0)
        assert (np.bincount(actions[:, row], minlength=4)[p[row] == 0] == 0).all()
    assert Categorical(ACTION).mode(Logits(torch.from_numpy(logits))).tolist() == [3, 0]


@pytest.mark.parametrize(("u", "expected"), [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_categorical_inverts_the_cdf_and_never_draws_a_forbidden_action(u, expected, monkeypatch):
    policy = Categorical(ActionSpec("discrete", (), np.dtype("int64"), n=5))
    monkeypatch.setattr(policy.draws, "take", lambda n, k: np.full((n, k), u))
    inf = -np.inf
    assert policy(Logits(np.array([[inf, 0.3, inf, 0.3, inf]]))).tolist() == [expected]


def test_categorical_log_prob_and_entropy():
    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf], [0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    policy, out = Categorical(ACTION), Logits(logits)
    action = torch.tensor([2, 0])
    finite = torch.distributions.Categorical(logits=logits[0, :3].detach())
    log_prob, entropy = policy.log_prob(out, action), policy.entropy(out)
    assert_close(log_prob.detach(), torch.stack([finite.log_prob(action[0]), torch.tensor(0.25).log()]))
    assert_close(entropy.detach(), torch.stack([finite.entropy(), torch.tensor(4.0).log()]))
    for value in (log_prob, entropy):
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(gradient).all()


# Several choices at once; the third of the first choice, and the last of the second, do not exist.
TABLE = np.array([[[0.3, -1.0, -np.inf], [0.0, 1.0, 2.0]], [[2.0, 2.0, -np.inf], [-1.0, 0.5, -np.inf]]], np.float32)
PAIR = ActionSpec("multidiscrete", (2,), np.dtype("int64"), nvec=(2, 3))


def test_multidiscrete_log_probs_and_entropies_add_up():
    policy, logits = Categorical(PAIR), torch.from_numpy(TABLE.copy()).requires_grad_()
    action = torch.tensor([[1, 2], [0, 1]])
    log_prob, entropy = policy.log_prob(Logits(logits), action), policy.entropy(Logits(logits))
    assert log_prob.shape == entropy.shape == (2,)
    for row in range(2):
        parts = [torch.distributions.Categorical(logits=choice[choice > -torch.inf]) for choice in logits.detach()[row]]
        assert_close(log_prob[row].detach(), sum(part.log_prob(action[row, i]) for i, part in enumerate(parts)))
        assert_close(entropy[row].detach(), sum(part.entropy() for part in parts))
    for value in (log_prob, entropy):
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.isfinite(gradient).all()
        assert (gradient[torch.isinf(logits)] == 0).all()
    lead = Logits(logits.expand(4, 3, 2, 2, 3))
    assert_close(policy.log_prob(lead, action.expand(4, 3, 2, 2)), log_prob.expand(4, 3, 2))
    assert policy.entropy(lead).shape == (4, 3, 2)


def test_multidiscrete_samples_are_distributed_as_the_product_of_the_choices():
    """Chi-square over the pairs, at a level that a right sampler misses once in 1e6."""
    calls, policy, out = 6000, Categorical(PAIR, seed=2), Logits(TABLE)
    actions, log_probs = (np.array(part) for part in zip(*(policy.sample(out) for _ in range(calls))))
    assert (actions.shape, actions.dtype, log_probs.shape) == ((calls, 2, 2), np.int64, (calls, 2))
    p = np.exp(TABLE) / np.exp(TABLE).sum(-1, keepdims=True)
    for row in range(2):
        seen = np.zeros((3, 3))
        np.add.at(seen, tuple(actions[:, row].T), 1)
        expected = calls * np.outer(*p[row])
        possible = expected > 0
        assert (seen[~possible] == 0).all()
        chi2 = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
        assert chi2 < {6: 36.0, 4: 31.0}[possible.sum()]
    taken = policy.log_prob(Logits(torch.from_numpy(TABLE).expand(calls, 2, 2, 3)), torch.from_numpy(actions))
    assert_close(torch.from_numpy(log_probs), taken, rtol=1e-5, atol=1e-6)
    assert policy.mode(out).tolist() == [[0, 2], [0, 1]]


def test_categorical_sample_gives_the_log_prob_that_learning_computes():
    policy, out = Categorical(ACTION), Logits(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3)
    for _ in range(20):
        action, log_prob = policy.sample(out)
        assert (log_prob.shape, log_prob.dtype) == ((6,), np.float32)
        assert_close(torch.from_numpy(log_prob), policy.log_prob(out, torch.from_numpy(action)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("action", "low", "high"), [(ACTION, 0, 3), (MULTI, [0, 0], [1, 6]), (BOX, -1, 1)])
def test_warmup_is_uniform_then_the_policys(action, low, high):
    inner = Greedy(ACTION)
    policy = Warmup(inner, action, steps=3000)
    out = q_values(3)
    actions = draw(policy, out, 1000)
    assert actions.shape == (1000, 3, *action.shape)
    assert actions.dtype == action.dtype
    assert (actions.min((0, 1)) >= low).all()
    assert (actions.max((0, 1)) <= high).all()
    middle = (np.asarray(low) + np.asarray(high)) / 2
    spread = np.asarray(high) - np.asarray(low)
    assert (np.abs(actions.mean((0, 1)) - middle) < 0.05 * spread).all()
    assert (actions.max((0, 1)) > np.asarray(low) + 0.99 * spread).all()
    assert (draw(policy, out, 20) == 2).all()


def test_warmup_counts_rows_and_leaves_the_inner_clock_alone():
    inner = EpsilonGreedy(ACTION, Linear(1, 0, 10))
    policy = Warmup(inner, ACTION, steps=10)
    for _ in range(5):
        assert policy.mode(q_values(2)).tolist() == [2, 2]
        policy(q_values(2))
    assert (policy.done, inner.steps) == (10, 0)
    policy(q_values(2))
    assert (policy.done, inner.steps) == (10, 2)
    assert (draw(Warmup(Greedy(ACTION), ACTION, steps=0), q_values(2), 5) == 2).all()


MAKERS = [
    lambda: EpsilonGreedy(ACTION, Linear(1.0, 0.2, 3000)),
    lambda: EpsilonGreedy(ACTION, 0.5, rows=[4, 9]),
    lambda: Warmup(EpsilonGreedy(ACTION, 0.5), ACTION, steps=600),
    lambda: Warmup(Greedy(ACTION), ACTION, steps=10**6),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("calls", [0, 1, 250, 700])
def test_state_resumes_exactly(make, calls):
    policy, out = make(), q_values(2)
    draw(policy, out, calls)
    state = policy.state_dict()
    ahead = draw(policy, out, 800)
    fresh = make()
    fresh.load_state_dict(state)
    assert (draw(fresh, out, 800) == ahead).all()
    policy.load_state_dict(state)  # backwards, too
    assert (draw(policy, out, 800) == ahead).all()


def test_categorical_state_resumes_exactly():
    policy, out = Categorical(ACTION), Logits(np.zeros((2, 4)))
    draw(policy, out, 5)
    fresh = Categorical(ACTION)
    fresh.load_state_dict(policy.state_dict())
    assert (draw(fresh, out, 50) == draw(policy, out, 50)).all()


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, float("nan"), Linear(1.0, 10, 5), Constant(2.0), np.array([0.5, 1.2])])
def test_epsilon_must_be_a_probability(epsilon):
    with pytest.raises(ProtoRLError, match=r"\[0, 1\]"):
        EpsilonGreedy(ACTION, epsilon)


def test_mistakes_get_one_sentence():
    for make in (Greedy, lambda action: EpsilonGreedy(action, 0.1), Categorical):
        with pytest.raises(ProtoRLError, match="'box'"):
            make(BOX)
    with pytest.raises(ProtoRLError, match="-1"):
        Warmup(Greedy(ACTION), ACTION, steps=-1)
    with pytest.raises(ProtoRLError, match="'tuple'"):
        Warmup(Greedy(ACTION), ActionSpec("tuple", (), np.dtype("int64")), steps=1)
    with pytest.raises(ProtoRLError, match="2 rows"):
        EpsilonGreedy(ACTION, np.array([0.1, 0.2, 0.3]), rows=[0, 1])
    with pytest.raises(ProtoRLError, match="at least 1"):
        apex_epsilons(0)
    policy = EpsilonGreedy(ACTION, 0.1)
    policy(q_values(2))
    with pytest.raises(ProtoRLError, match="serves 2 environments but was given 3"):
        policy(q_values(3))
