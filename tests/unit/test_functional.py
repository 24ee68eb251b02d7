"""Each equation against numbers worked out by hand and against a slow, obvious reference."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from protorl import functional as F


def test_td_target_stops_at_a_termination():
    y = F.td_target(tensor([1.0, 1.0]), tensor([0.9, 0.0]), tensor([10.0, 10.0]))
    assert_close(y, tensor([10.0, 1.0]))


def test_pick_takes_one_action_per_row_whatever_the_integer_type():
    q = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert F.pick(q, tensor([2, 0], dtype=dtype)).tolist() == [3.0, 4.0]
    assert F.pick(q.expand(4, 2, 3), tensor([2, 0]).expand(4, 2)).shape == (4, 2)


def test_double_q_chooses_online_and_judges_with_the_target():
    online, target = tensor([[1.0, 2.0]]), tensor([[10.0, 5.0]])
    assert F.double_q(online, target).item() == 5.0
    assert F.double_q(target, target).item() == target.max().item()


def test_huber_by_hand_and_its_gradient_is_the_clipped_error():
    delta = tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], requires_grad=True)
    loss = F.huber(delta)
    assert_close(loss, tensor([2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]))
    (gradient,) = torch.autograd.grad(loss.sum(), delta)
    assert_close(gradient, delta.detach().clamp(-1, 1))


@pytest.mark.parametrize("kappa", [0.3, 1.0, 2.5])
def test_huber_agrees_with_torch(kappa):
    delta = torch.linspace(-5, 5, 101)
    expected = torch.nn.functional.huber_loss(delta, torch.zeros_like(delta), delta=kappa, reduction="none")
    assert_close(F.huber(delta, kappa), expected)


def test_quantile_huber_by_hand():
    loss = F.quantile_huber(tensor([0.0, 1.0]), tensor([2.0, -1.0]), F.quantile_levels(2))
    assert_close(loss, tensor(0.75))


def test_quantile_huber_sums_over_predictions_and_averages_over_targets():
    torch.manual_seed(0)
    quantiles, target, kappa = torch.randn(3, 4), torch.randn(3, 5), 0.7
    tau = torch.rand(3, 4)
    expected = torch.zeros(3)
    for b in range(3):
        for i in range(4):
            for j in range(5):
                u = target[b, j] - quantiles[b, i]
                core = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                expected[b] += abs(tau[b, i] - float(u < 0)) * core / kappa / 5
    assert_close(F.quantile_huber(quantiles, target, tau, kappa), expected)


def test_quantile_regression_finds_the_quantiles():
    target = torch.arange(0.0, 100.0)
    theta = torch.full((4,), 50.0, requires_grad=True)
    for _ in range(400):
        (gradient,) = torch.autograd.grad(F.quantile_huber(theta, target, F.quantile_levels(4), 0.01), theta)
        theta = (theta - 2.0 * gradient).detach().requires_grad_()
    assert_close(theta.detach(), tensor([12.5, 37.5, 62.5, 87.5]), atol=2.0, rtol=0)


def test_quantile_levels_are_midpoints():
    assert F.quantile_levels(4).tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize(
    ("reward", "discount", "expected"),
    [
        (0.25, 0.5, [0, 0.05, 0.45, 0.45, 0.05]),
        (0.5, 1.0, [0, 0.1, 0.2, 0.4, 0.3]),  # every moved atom lands on an atom
        (0.3, 0.0, [0, 0, 0.4, 0.6, 0]),  # terminal
        (50.0, 0.9, [0, 0, 0, 0, 1]),  # beyond the support
        (0.0, 1.0, [0.1, 0.2, 0.4, 0.2, 0.1]),
    ],
)
def test_categorical_projection_by_hand(reward, discount, expected):
    atoms, p = torch.linspace(-1, 1, 5), tensor([[0.1, 0.2, 0.4, 0.2, 0.1]])
    projected = F.categorical_projection(tensor([reward]), tensor([discount]), p, atoms)
    assert_close(projected, tensor([expected], dtype=torch.float32), atol=1e-6, rtol=0)


def test_categorical_projection_keeps_mass_and_mean_inside_the_support():
    torch.manual_seed(0)
    atoms = torch.linspace(-10, 10, 51)
    p = torch.softmax(torch.randn(64, 51), -1)
    reward, discount = torch.rand(64) * 2 - 1, torch.rand(64) * 0.9
    projected = F.categorical_projection(reward, discount, p, atoms)
    assert_close(projected.sum(-1), torch.ones(64), atol=1e-5, rtol=0)
    assert_close((projected * atoms).sum(-1), reward + discount * (p * atoms).sum(-1), atol=1e-4, rtol=0)


def test_categorical_kl_is_zero_at_equality_and_has_the_cross_entropy_gradient():
    torch.manual_seed(0)
    p = tensor([[0.0, 0.25, 0.75]])
    assert_close(F.categorical_kl(p, tensor([[0.5, 0.25, 0.25]]).log()), tensor([0.75 * math.log(3)]))
    full = torch.softmax(torch.randn(2, 3), -1)
    assert_close(F.categorical_kl(full, full.log()), torch.zeros(2), atol=1e-6, rtol=0)
    logits = torch.randn(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.categorical_kl(p, torch.log_softmax(logits, -1)).sum(), logits)
    assert_close(gradient, torch.softmax(logits, -1).detach() - p)


def test_munchausen_by_hand():
    q, next_q = tensor([[1.0, 1.05, 0.9]]).expand(2, 3), tensor([[0.5, 0.6, 0.55]]).expand(2, 3)
    assert_close(F.log_policy(q, 0.03)[0], tensor([-0.05536, -0.00536, -0.15536]), atol=5e-6, rtol=0)
    reward = 1.0 + F.munchausen_bonus(q, tensor([2, 0]), alpha=0.9, tau=0.03, low=-1.0)
    y = F.td_target(reward, tensor(0.99), F.soft_value(next_q, 0.03))
    assert_close(y, tensor([1.460193, 1.550193]), atol=2e-6, rtol=0)


def test_munchausen_bonus_is_clipped_and_soft_value_is_its_definition():
    q = tensor([[1000.0, 0.0, -1000.0], [0.3, 0.2, 0.1]])
    assert_close(F.munchausen_bonus(q, tensor([2, 0]), 0.9, 0.03, -1.0)[0], tensor(-0.9))
    log_pi = F.log_policy(q, 0.03)
    assert torch.isfinite(log_pi).all()
    pi = (log_pi / 0.03).exp()
    assert_close(pi.sum(-1), torch.ones(2))
    assert_close(F.soft_value(q, 0.03), (pi * (q - log_pi)).sum(-1))


def test_rescale_by_hand():
    x = tensor([1.0, 10.0, 100.0, 1000.0, 1e5])
    expected = tensor([0.415214, 2.326625, 9.149876, 31.638584, 415.229347])
    assert_close(F.rescale(x), expected, atol=0, rtol=2e-6)
    assert_close(F.rescale(-x), -expected, atol=0, rtol=2e-6)
    assert_close(F.rescale_inverse(tensor(5.0)), tensor(34.586162))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_rescale_inverse_undoes_rescale(dtype, rtol):
    x = torch.cat([tensor([0.0], dtype=dtype), torch.logspace(-30, 8, 77, dtype=dtype)])
    x = torch.cat([x, -x])
    for eps in (1e-3, 1e-2):
        assert_close(F.rescale_inverse(F.rescale(x, eps), eps), x, atol=0, rtol=rtol)
        assert_close(F.rescale(F.rescale_inverse(x, eps), eps), x, atol=0, rtol=rtol)


def inverse_in_fifty_digits(z, eps):
    """The published formula, whose digits cancel, with enough of them."""
    with localcontext() as context:
        context.prec = 50
        z, eps = Decimal(z), Decimal(eps)
        root = (1 + 4 * eps * (abs(z) + 1 + eps)).sqrt()
        return float((((root - 1) / (2 * eps)) ** 2 - 1).copy_sign(z))


@pytest.mark.parametrize("eps", [2**-10, 2**-7])
def test_rescale_inverse_and_its_gradient_have_all_digits_of_float32(eps):
    z = torch.cat([torch.logspace(-20, 5, 101), -torch.logspace(-20, 5, 101)]).requires_grad_()
    x = F.rescale_inverse(z, eps)
    expected = tensor([inverse_in_fifty_digits(value, eps) for value in z.tolist()], dtype=torch.float64)
    assert_close(x.double(), expected, rtol=4e-7, atol=0)
    (gradient,) = torch.autograd.grad(x.sum(), z)
    size = expected.abs()
    slope = 1 / (0.5 / (size + 1).sqrt() + eps)  # one over the derivative of `rescale` there
    assert_close(gradient.double(), slope, rtol=1e-6, atol=0)


def test_transformed_n_step_target_of_r2d2_by_hand():
    rewards, gamma = [1.0, 0.0, 2.0, 0.0, 1.0], 0.997
    n_step = sum(gamma**k * r for k, r in enumerate(rewards))
    y = F.rescale(F.td_target(tensor(n_step), tensor(gamma**5), F.rescale_inverse(tensor(5.0))))
    assert_close(y, tensor(5.286770), atol=2e-6, rtol=0)


# Returns along time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 100])
def test_discounted_sum_is_its_recursion(steps):
    torch.manual_seed(steps)
    x, decay = torch.randn(steps, 3, 2), torch.rand(steps, 3, 2)
    decay[torch.rand(steps, 3, 2) < 0.1] = 0.0
    kept = x.clone(), decay.clone()
    expected, y = torch.empty_like(x), torch.zeros(3, 2)
    for t in reversed(range(steps)):
        y = x[t] + decay[t] * y
        expected[t] = y
    assert_close(F.discounted_sum(x, decay), expected)
    assert_close((x, decay), kept, rtol=0, atol=0)
    assert_close(F.discounted_sum(torch.ones(steps), torch.ones(steps)), torch.arange(steps, 0, -1.0))


def test_traps_gae_with_a_truncation_and_a_termination():
    reward, value, next_value = tensor([1.0, 2, 3, 4, 5]), tensor([0.5, 1, 1.5, 2, 2.5]), tensor([1.0, 9, 2, 7, 3])
    discount = tensor([0.9, 0.9, 0.9, 0.0, 0.9])
    ended = tensor([False, True, False, True, False])
    expected = tensor([7.952, 9.1, 4.74, 2.0, 5.2])
    assert_close(F.gae(reward, discount, ended, value, next_value, 0.8), expected)
    as_terminal = F.gae(reward, discount * ~ended, ended, value, next_value, 0.8)
    assert_close(as_terminal[:2], tensor([2.12, 1.0]))  # the bug: what a truncation taken for a termination gives
    grid = F.gae(*(x[:, None].expand(5, 4) for x in (reward, discount, ended, value, next_value)), 0.8)
    assert_close(grid, expected[:, None].expand(5, 4))


def test_one_stream_of_reward_ends_with_the_episode_and_another_flows_on():
    """By hand, the same numbers twice: the episode terminates in row 1, and the next row begins another."""
    reward, value, shown = tensor([1.0, 2, 3, 4]), tensor([1.0, 2, 3, 4]), tensor([2.0, 3, 4, 5])
    both = [torch.stack([x, x], -1) for x in (reward, value, shown)]
    ends = tensor([False, True, False, False])
    discount = torch.stack([0.5 * (~ends).float(), tensor([0.5] * 4)], -1)
    ended = torch.stack([ends, torch.zeros_like(ends)], -1)
    expected = tensor([[1.0, 1.5390625], [0.0, 2.15625], [2.625, 2.625], [2.5, 2.5]])
    assert_close(F.gae(both[0], discount, ended, both[1], both[2], 0.5), expected)


def slow_gae(reward, discount, ended, value, next_value, lam):
    advantage = torch.zeros_like(reward)
    for n in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            weight = 1.0
            for k in range(t, reward.shape[0]):
                advantage[t, n] += weight * (reward[k, n] + discount[k, n] * next_value[k, n] - value[k, n])
                weight *= float(discount[k, n]) * lam
                if ended[k, n]:
                    break
    return advantage


@pytest.mark.parametrize(("steps", "envs", "lam"), [(1, 2, 0.9), (17, 3, 0.95), (17, 3, 1.0), (17, 3, 0.0), (40, 1, 0.7)])
def test_gae_is_the_sum_of_its_definition(steps, envs, lam):
    """Terminations (discount 0, ended), truncations (ended only), lost lives (discount 0 only)."""
    torch.manual_seed(steps)
    reward, value, next_value = torch.randn(3, steps, envs, dtype=torch.float64)
    kind = torch.multinomial(tensor([0.7, 0.1, 0.1, 0.1]), steps * envs, replacement=True).reshape(steps, envs)
    discount = 0.97 * ((kind == 0) | (kind == 2)).double()
    ended = (kind == 1) | (kind == 2)
    expected = slow_gae(reward, discount, ended, value, next_value, lam)
    assert_close(F.gae(reward, discount, ended, value, next_value, lam), expected)
    if lam == 0.0:
        assert_close(expected, reward + discount * next_value - value)


def test_gae_of_one_environment_does_not_feel_the_others():
    steps = 50
    reward = torch.stack([torch.zeros(steps), torch.ones(steps)], 1)
    discount, ended, zero = torch.full((steps, 2), 0.99), torch.zeros(steps, 2, dtype=torch.bool), torch.zeros(steps, 2)
    advantage = F.gae(reward, discount, ended, zero, zero, 0.95)
    assert (advantage[:, 0] == 0).all()
    assert_close(advantage[:, 1], (1 - (0.99 * 0.95) ** torch.arange(steps, 0, -1.0)) / (1 - 0.99 * 0.95))


def test_no_advantage_flows_back_over_an_episodes_end():
    reward, ended = torch.zeros(6, 1), torch.zeros(6, 1, dtype=torch.bool)
    reward[4], ended[2] = 1.0, True  # truncated at t = 2
    advantage = F.gae(reward, torch.full((6, 1), 0.9), ended, torch.zeros(6, 1), torch.zeros(6, 1), 0.9)
    assert_close(advantage[:, 0], tensor([0.0, 0.0, 0.0, 0.81, 1.0, 0.0]))


# Policy gradients ---------------------------------------------------------------------------------------------------


def test_clipped_surrogate_by_hand():
    ratio = tensor([1.5, 1.5, 0.5, 0.5, 1.1, 1.0])
    advantage = tensor([2.0, -2.0, 2.0, -2.0, 3.0, 4.0])
    expected = tensor([2.4, -3.0, 1.0, -1.6, 3.3, 4.0])
    for clip in (0.2, tensor(0.2)):
        log_ratio = ratio.log().requires_grad_()
        surrogate = F.clipped_surrogate(log_ratio, advantage, clip)
        assert_close(surrogate.detach(), expected)
        (gradient,) = torch.autograd.grad(surrogate.sum(), log_ratio)
        # Nothing pulls a ratio further once it has left the interval on the side that pays.
        assert_close(gradient, ratio * advantage * tensor([0.0, 1, 1, 0, 1, 1]))


def test_kl_estimate_is_never_negative_and_unbiased():
    log_ratio = torch.linspace(-3, 3, 101)
    estimate = F.kl_estimate(log_ratio)
    assert (estimate >= 0).all()
    assert_close(estimate, log_ratio.exp() - 1 - log_ratio, rtol=1e-4, atol=1e-6)
    assert F.kl_estimate(tensor(0.0)) == 0
    assert F.kl_estimate(tensor(1e-3)).item() == pytest.approx(5.0017e-7, rel=0.01)  # not lost to rounding
    old, new = tensor([0.2, 0.3, 0.5]), tensor([0.4, 0.4, 0.2])
    assert_close((old * F.kl_estimate((new / old).log())).sum(), (old * (old / new).log()).sum())


def test_clipped_value_error_takes_the_worse_of_the_two():
    value, old, target = tensor([2.0, 2.0, 1.1]), tensor([1.0, 1.0, 1.0]), tensor([3.0, 1.0, 2.0])
    expected = tensor([1.8**2, 1.0, 0.9**2])
    for clip in (0.2, tensor(0.2)):
        assert_close(F.clipped_value_error(value, old, target, clip), expected)


def test_standardise_over_all_elements_and_not_one():
    x = tensor([[1.0, 2.0], [3.0, 6.0]])
    y = F.standardise(x)
    assert_close(y, (x - 3) / x.std())
    assert_close((y.mean(), y.std()), (tensor(0.0), tensor(1.0)))
    assert F.standardise(tensor([5.0])).tolist() == [5.0]  # a minibatch of one: no NaN
    assert F.standardise(tensor([2.0, 2.0, 2.0])).tolist() == [0.0, 0.0, 0.0]


# Densities ----------------------------------------------------------------------------------------------------------


def test_tanh_log_slope_where_the_plain_form_fails():
    u = torch.linspace(-4, 4, 33, dtype=torch.float64)
    assert_close(F.tanh_log_slope(u), torch.log(1 - torch.tanh(u) ** 2))
    far = tensor([-20.0, 20.0, -300.0, 300.0], requires_grad=True)
    slope = F.tanh_log_slope(far)
    assert_close(slope.detach(), 2 * (math.log(2) - far.detach().abs()))
    (gradient,) = torch.autograd.grad(slope.sum(), far)
    assert_close(gradient, tensor([2.0, -2.0, 2.0, -2.0]))


def near_the_bounds():
    """The float32 numbers next to -1 and 1, and some between."""
    steps = torch.arange(1, 400) * 2.0**-24
    return torch.cat([1 - steps, steps - 1, torch.linspace(-0.99, 0.99, 51)])


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (1.001, 3.0), (2.0, 3.0), (30.0, 1.5), (300.0, 100.0), (1e4, 3e4)])
def test_beta_density_has_the_digits_of_float32_at_the_bounds_and_for_large_parameters(alpha, beta):
    from scipy import stats

    a, b = tensor([alpha]), tensor([beta])
    law = stats.beta(a.double().numpy(), b.double().numpy())
    action = near_the_bounds() if alpha < 100 else 2 * torch.from_numpy(law.ppf([0.001, 0.1, 0.5, 0.9, 0.999])).float() - 1
    x = ((action.double() + 1) / 2).clamp(1e-6, 1 - 1e-6)
    expected = torch.from_numpy(law.logpdf(x.numpy())) - math.log(2)
    assert_close(F.beta_log_prob(action[:, None], a, b).double(), expected, rtol=1e-6, atol=1e-6)
    assert F.beta_entropy(a, b).item() == pytest.approx(law.entropy().item() + math.log(2), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("function", ["log_prob", "entropy"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.001, 3.0), (30.0, 1.5), (300.0, 100.0), (1e4, 3e4)])
def test_beta_density_has_the_gradients_of_float64(alpha, beta, function):
    mean = 2 * alpha / (alpha + beta) - 1
    found = []
    for dtype in (torch.float32, torch.float64):
        a, b = (tensor([value], requires_grad=True) for value in (alpha, beta))
        wide = a.to(dtype), b.to(dtype)
        y = F.beta_entropy(*wide) if function == "entropy" else F.beta_log_prob(tensor([mean]).to(dtype), *wide)
        found.append(torch.autograd.grad(y.sum(), (a, b)))
    assert_close(*found, rtol=1e-6, atol=0)


def test_a_sequence_is_as_surprising_as_its_trained_steps():
    delta = tensor([0.1, -0.5, 2.0, 0.4])
    assert_close(F.mixed_priority(delta.unsqueeze(1), torch.ones(4, 1), 0.9), tensor([1.875]))
    padded = torch.cat([tensor([9.0]), delta, tensor([-7.0, 3.0])]).unsqueeze(1)
    mask = tensor([0.0, 1, 1, 1, 1, 0, 0]).unsqueeze(1)
    assert_close(F.mixed_priority(padded, mask, 0.9), tensor([1.875]))
    assert F.mixed_priority(padded, torch.zeros(7, 1), 0.9).tolist() == [0.0]
