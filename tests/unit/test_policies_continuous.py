"""Policies over numbers: densities against torch's and against integrals, whose noise is whose, what is remembered."""

import math
import re
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from torch import tensor
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.testing import assert_close

import protorl as prl
from protorl.data import ActionSpec, ProtoRLError
from protorl.networks import BetaOut, DeterministicOut, GaussianOut
from protorl.policies import Beta, Categorical, Gaussian, GaussianNoise, NoisyDeterministic, OUNoise, SquashedGaussian, Warmup
from tests.contract.cases import small

BOX = ActionSpec("box", (3,), np.dtype("float32"))
ONE = ActionSpec("box", (1,), np.dtype("float32"))
CHOICES = ActionSpec("discrete", (), np.dtype("int64"), n=4)
MATRIX = ActionSpec("box", (2, 3), np.dtype("float32"))
MULTI = ActionSpec("multidiscrete", (2,), np.dtype("int64"), nvec=(2, 3))


def gaussian(n=5, actions=3, log_std=None, dtype=torch.float32):
    rng = torch.Generator().manual_seed(n)
    mean = torch.randn(n, actions, generator=rng, dtype=dtype)
    return GaussianOut(mean, torch.randn(n, actions, generator=rng, dtype=dtype) * 0.5 if log_std is None else log_std)


def beta(n=5, actions=3, dtype=torch.float32):
    rng = torch.Generator().manual_seed(n)
    alpha, other = 1 + 3 * torch.rand(2, n, actions, generator=rng, dtype=dtype)
    return BetaOut(alpha, other)


STOCHASTIC = [(Gaussian, gaussian), (SquashedGaussian, gaussian), (Beta, beta)]
each_stochastic = pytest.mark.parametrize(("policy", "outputs"), STOCHASTIC, ids=[p.__name__ for p, _ in STOCHASTIC])


def reference(policy, out):
    """The same distribution, built of torch's."""
    if policy is Beta:
        scale = torch.distributions.AffineTransform(-1.0, 2.0)
        return TransformedDistribution(torch.distributions.Beta(out.alpha, out.beta), scale)
    normal = Normal(out.mean, out.log_std.exp().expand_as(out.mean))
    return normal if policy is Gaussian else TransformedDistribution(normal, TanhTransform(cache_size=1))


def draw(policy, out, calls):
    return np.array([policy(out) for _ in range(calls)])


# Densities ----------------------------------------------------------------------------------------------------------


@each_stochastic
def test_log_prob_is_that_of_torch_summed_over_the_actions_of_a_row(policy, outputs):
    out = outputs()
    action = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    log_prob = policy(BOX).log_prob(out, action)
    assert log_prob.shape == (5,)  # not 5 x 5
    assert_close(log_prob, reference(policy, out).log_prob(action).sum(-1), rtol=1e-4, atol=1e-4)
    lead = type(out)(*(value.expand(2, 4, 5, 3) for value in out))
    assert_close(policy(BOX).log_prob(lead, action.expand(2, 4, 5, 3)), log_prob.expand(2, 4, 5))


@each_stochastic
def test_sampled_log_prob_is_the_one_learning_computes(policy, outputs):
    out = outputs(7)
    for _ in range(20):
        action, log_prob = policy(BOX, seed=3).sample(out)
        assert (action.shape, action.dtype) == ((7, 3), np.float32)
        assert (log_prob.shape, log_prob.dtype) == ((7,), np.float32)
        assert_close(torch.from_numpy(log_prob), policy(BOX).log_prob(out, torch.from_numpy(action)), rtol=2e-4, atol=2e-4)


@each_stochastic
def test_actions_are_distributed_as_the_density_says(policy, outputs):
    """Kolmogorov-Smirnov, per action, at a level that a right sampler misses once in 1e6."""
    out = outputs(2)
    sampler, kept = policy(BOX, seed=8), []
    for _ in range(4000):
        kept.append(sampler(out))
    actions = torch.from_numpy(np.array(kept)).double()
    cdf = actions if policy is not SquashedGaussian else torch.atanh(actions.clamp(-1 + 1e-7, 1 - 1e-7))
    if policy is Beta:
        from scipy.stats import beta as reference_beta

        cdf = torch.from_numpy(reference_beta(out.alpha.numpy(), out.beta.numpy()).cdf((actions.numpy() + 1) / 2))
    else:
        cdf = Normal(out.mean.double(), out.log_std.double().exp()).cdf(cdf)
    steps = torch.arange(1, 4001).double()[:, None, None] / 4000
    assert (cdf.sort(0).values - steps).abs().max() < 2.7 / math.sqrt(4000)


@pytest.mark.parametrize("policy", [SquashedGaussian, Beta])
@pytest.mark.parametrize(("a", "b"), [(0.3, -0.4), (2.0, 3.0), (1.0, 1.0)])
def test_density_integrates_to_one_over_the_unit_box(policy, a, b):
    if policy is Beta:
        out = BetaOut(tensor([[abs(a) + 1]]).double(), tensor([[abs(b) + 1]]).double())
    else:
        out = GaussianOut(tensor([[a]]).double(), tensor([[min(b, 0.0)]]).double())
    x = torch.tanh(torch.linspace(-18, 18, 40001, dtype=torch.float64))
    x = x[x.abs() < 1 - 1e-13][:, None]
    density = policy(ONE).log_prob(type(out)(*(value.expand_as(x) for value in out)), x).exp()
    assert torch.trapezoid(density, x[:, 0]).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("u", "expected"), [(0.0, -0.918939), (0.5, -0.803710), (2.0, -0.268933), (5.0, -4.805142), (8.0, -18.305233)]
)
def test_traps_squashed_log_prob_by_hand(u, expected):
    out = GaussianOut(torch.zeros(1, 1), torch.zeros(1, 1))
    action, log_prob = SquashedGaussian.rsample_with_log_prob(out, tensor([[u]]))
    assert action.item() == pytest.approx(math.tanh(u), rel=1e-6)
    assert log_prob.item() == pytest.approx(expected, abs=2e-6 * max(1, abs(expected)))
    action, sampled = with_noise(SquashedGaussian(ONE), u).sample(out)
    assert sampled.item() == pytest.approx(expected, abs=2e-6 * max(1, abs(expected)))
    # From the action alone a float32 near 1 has lost digits of u; a double has not.
    policy, double = SquashedGaussian(ONE), GaussianOut(*(value.double() for value in out))
    assert policy.log_prob(out, torch.from_numpy(action)).item() == pytest.approx(expected, rel=0.01)
    assert policy.log_prob(double, tensor([[math.tanh(u)]], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-6)


def test_traps_squashed_log_prob_in_an_environments_own_units():
    """With bounds of +-2 each action is half as dense."""
    log_prob = SquashedGaussian.rsample_with_log_prob(GaussianOut(torch.zeros(1, 1), torch.zeros(1, 1)), tensor([[0.5]]))[1]
    assert log_prob.item() - math.log(2) == pytest.approx(-1.496857, abs=1e-5)


def test_squashed_log_prob_is_that_of_the_noise_that_was_drawn():
    """μ + σ ε rounds to μ: what is left of it cannot say what ε was."""
    out = GaussianOut(tensor([[5.0]]), tensor([[-20.0]]))
    _, log_prob = SquashedGaussian.rsample_with_log_prob(out, tensor([[2.0]]))
    assert log_prob.item() == pytest.approx(25.694858, abs=3e-6)
    assert with_noise(SquashedGaussian(ONE), 2.0).sample(out)[1].item() == pytest.approx(25.694858, abs=3e-6)


def test_squashed_log_prob_and_its_gradients_have_the_digits_of_float32_everywhere():
    """Values and gradients against their closed forms in float64."""
    ranges = torch.linspace(-20, 20, 41), torch.linspace(-20, 2, 23), torch.linspace(-6, 6, 13)
    mean, log_std, noise = (x.reshape(-1, 1) for x in torch.meshgrid(*ranges, indexing="ij"))
    parameters = mean.requires_grad_(), log_std.requires_grad_()
    action, log_prob = SquashedGaussian.rsample_with_log_prob(GaussianOut(*parameters), noise)
    m, s, z = (x.detach().double() for x in (mean, log_std, noise))
    u = m + s.exp() * z
    slope = 2 * (math.log(2) - u.abs() - torch.log1p(torch.exp(-2 * u.abs())))
    expected = -0.5 * z * z - s - 0.5 * math.log(2 * math.pi) - slope
    assert_close(log_prob.double(), expected.sum(-1), rtol=1e-6, atol=1e-5)
    assert_close(action.double(), torch.tanh(u), rtol=2e-6, atol=2e-6)
    gradients = [x.double() for x in torch.autograd.grad(log_prob.sum(), parameters)]
    assert_close(gradients, [2 * torch.tanh(u), 2 * torch.tanh(u) * s.exp() * z - 1], rtol=1e-6, atol=1e-5)


def with_noise(policy, value):
    policy.draws.take = lambda n, k: np.full((n, k), value)
    return policy


def test_traps_beta_by_hand():
    out, policy = BetaOut(tensor([[2.0]]), tensor([[3.0]])), Beta(ONE)
    assert policy.log_prob(out, tensor([[-0.5]])).item() == pytest.approx(0.523248 - math.log(2), abs=1e-5)  # x = .25
    # On [-2, 2] the action -1 is -.5 here; half as dense again.
    assert policy.log_prob(out, tensor([[-0.5]])).item() - math.log(2) == pytest.approx(-0.863046, abs=1e-5)
    assert policy.entropy(out).item() == pytest.approx(-0.234907 + math.log(2), abs=1e-5)
    assert policy.mode(out).item() == pytest.approx(2 / 3 - 1, abs=1e-5)
    assert policy.mode(BetaOut(tensor([[1.0]]), tensor([[1.0]]))).item() == 0


@pytest.mark.parametrize("policy", [Gaussian, Beta])
def test_entropy_is_that_of_torch_and_of_an_integral(policy):
    out = dict(STOCHASTIC)[policy](dtype=torch.float64)
    ours = policy(BOX).entropy(out)
    assert ours.shape == (5,)
    base = reference(policy, out)
    assert_close(ours, (base if policy is Gaussian else base.base_dist).entropy().sum(-1) + (policy is Beta) * 3 * math.log(2))
    one = type(out)(*(value[:1, :1] for value in out))
    x = torch.linspace(-1 + 1e-9, 1 - 1e-9, 100_001, dtype=torch.float64)[:, None] * (1 if policy is Beta else 30)
    log_prob = policy(ONE).log_prob(type(out)(*(value.expand_as(x) for value in one)), x)
    assert policy(ONE).entropy(one).item() == pytest.approx(
        -torch.trapezoid(log_prob.exp() * log_prob, x[:, 0]).item(), abs=1e-4
    )


@pytest.mark.parametrize("log_std", [-20.0, -4.0, -1.0, 0.0, 1.0, 2.0])
def test_squashed_entropy_by_quadrature_is_the_mean_surprise(log_std):
    """Against an integral, and against the surprise of its own samples."""
    mean = tensor([[0.0], [0.7], [-3.0]]).double()
    out = GaussianOut(mean, tensor([log_std]).double())
    z = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    u = mean + math.exp(log_std) * z
    slope = torch.log1p(-torch.tanh(u).square().clamp(max=1 - 1e-16))
    slope = torch.where(u.abs() > 8, 2 * (math.log(2) - u.abs()), slope)
    expected = Normal(0.0, 1.0).entropy() + log_std + torch.trapezoid(slope * Normal(0.0, 1.0).log_prob(z).exp(), z)
    entropy = SquashedGaussian(ONE).entropy(out)
    assert_close(entropy, expected, rtol=0, atol=1e-6)
    single = SquashedGaussian(ONE).entropy(GaussianOut(mean.float(), out.log_std.float()))
    assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)
    noise = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = GaussianOut(mean.expand(3, 20_000)[..., None], out.log_std)
    surprise = -SquashedGaussian.rsample_with_log_prob(wide, noise[..., None])[1]
    error = surprise.std(-1) / math.sqrt(20_000)
    assert ((surprise.mean(-1) - entropy).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("policy", [Gaussian, SquashedGaussian])
def test_a_log_std_that_does_not_depend_on_the_state_is_one_for_all_rows(policy):
    log_std = tensor([-1.0, 0.0, 0.5], requires_grad=True)
    out = gaussian(log_std=log_std)
    full = out._replace(log_std=log_std.expand(5, 3))
    action, log_prob = policy(BOX, seed=1).sample(out)
    same, same_log_prob = policy(BOX, seed=1).sample(full)
    assert (action == same).all()
    assert (log_prob == same_log_prob).all()
    taken = torch.from_numpy(action) * 0.5
    assert_close(policy(BOX).log_prob(out, taken), policy(BOX).log_prob(full, taken))
    assert_close(policy(BOX).entropy(out), policy(BOX).entropy(full))
    assert policy(BOX).entropy(out).shape == (5,)


@each_stochastic
def test_log_prob_and_entropy_have_the_gradients_of_finite_differences(policy, outputs):
    out = outputs(2, dtype=torch.float64)
    parameters = tuple(value.clone().requires_grad_() for value in out)
    action = torch.tensor([[0.1, -0.6, 0.8], [0.0, 0.5, -0.9]], dtype=torch.float64, requires_grad=True)
    made = policy(BOX)
    assert torch.autograd.gradcheck(lambda a, *p: made.log_prob(type(out)(*p), a), (action, *parameters))
    assert torch.autograd.gradcheck(lambda *p: made.entropy(type(out)(*p)), parameters)


@pytest.mark.parametrize("policy", [Gaussian, SquashedGaussian])
def test_rsample_is_differentiable_in_its_parameters(policy):
    out = gaussian(2, dtype=torch.float64)
    parameters = tuple(value.clone().requires_grad_() for value in out)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = policy(BOX)
    assert torch.autograd.gradcheck(lambda *p: made.rsample(GaussianOut(*p), noise), parameters)
    plain = out.mean + out.log_std.exp() * noise
    assert_close(made.rsample(out, noise), plain if policy is Gaussian else plain.tanh())
    if policy is SquashedGaussian:
        assert torch.autograd.gradcheck(lambda *p: made.rsample_with_log_prob(GaussianOut(*p), noise), parameters)
        action, log_prob = made.rsample_with_log_prob(out, noise)
        assert_close(log_prob, made.log_prob(out, action), rtol=1e-6, atol=1e-6)


def test_beta_rsample_climbs_its_mean():
    """d E[a] / d alpha of a = 2x - 1 is 2 beta / (alpha + beta)^2."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alpha, other = tensor([[2.0]], requires_grad=True), tensor([[3.0]])
        action = Beta(ONE).rsample(BetaOut(alpha.expand(40_000, 1), other.expand(40_000, 1)))
    assert action.min() > -1
    assert action.max() < 1
    (gradient,) = torch.autograd.grad(action.mean(), alpha)
    assert gradient.item() == pytest.approx(2 * 3 / 25, rel=0.05)


@pytest.mark.parametrize("u", [-20.0, 20.0])
def test_squashed_gaussian_stays_finite_where_tanh_rounds_to_one(u):
    mean, log_std = tensor([[u]], requires_grad=True), tensor([[0.0]], requires_grad=True)
    out = GaussianOut(mean, log_std)
    action, log_prob = SquashedGaussian.rsample_with_log_prob(out, torch.zeros(1, 1))
    assert action.item() == math.copysign(1, u)
    assert log_prob.item() == pytest.approx(-0.918939 - 2 * (math.log(2) - 20), abs=1e-4)
    values = (log_prob, SquashedGaussian(ONE).log_prob(out, action.detach()), SquashedGaussian(ONE).entropy(out))
    for value in values:
        gradients = torch.autograd.grad(value.sum(), (mean, log_std), retain_graph=True)
        assert all(torch.isfinite(x).all() for x in (value, *gradients))
    action, log_prob = SquashedGaussian(ONE).sample(out)
    assert np.isfinite(log_prob).all()


def test_beta_stays_finite_at_the_bounds():
    alpha, other = tensor([[1.5], [60.0], [1.0]], requires_grad=True), tensor([[40.0], [1.2], [1.0]], requires_grad=True)
    out = BetaOut(alpha, other)
    for action in (-torch.ones(3, 1), torch.ones(3, 1)):
        log_prob = Beta(ONE).log_prob(out, action)
        gradients = torch.autograd.grad(log_prob.sum(), (alpha, other))
        assert all(torch.isfinite(x).all() for x in (log_prob, *gradients))
    policy = Beta(ONE)
    actions, log_probs = zip(*(policy.sample(BetaOut(tensor([[0.01]]), tensor([[0.01]]))) for _ in range(200)))
    assert np.abs(actions).max() < 1
    assert np.isfinite(log_probs).all()


def test_modes():
    assert (Gaussian(BOX).mode(gaussian()) == gaussian().mean.numpy()).all()
    assert_close(torch.from_numpy(SquashedGaussian(BOX).mode(gaussian())), gaussian().mean.tanh())
    out = beta()
    best = Beta(BOX).mode(out)
    likeliest = Beta(BOX).log_prob(out, torch.from_numpy(best))
    for step in (-0.01, 0.01):
        assert (Beta(BOX).log_prob(out, torch.from_numpy(best + step).clamp(-1 + 1e-6, 1 - 1e-6)) < likeliest).all()
    assert (NoisyDeterministic(OUNoise(BOX)).mode(DeterministicOut(torch.ones(2, 3) / 3)) == np.float32(1 / 3)).all()


# Streams and states -------------------------------------------------------------------------------------------------


class Fixed(NamedTuple):
    """Whatever a policy here reads of a network."""

    mean: object
    log_std: object
    alpha: object
    beta: object
    action: object
    logits: object


def fixed(n):
    ones = torch.ones(n, 3)
    return Fixed(0.1 * ones, -ones, 2 * ones, 3 * ones, 0.2 * ones, torch.zeros(n, 2, 3))


MAKERS = {
    "gaussian": lambda **k: Gaussian(BOX, **k),
    "squashed": lambda **k: SquashedGaussian(BOX, **k),
    "beta": lambda **k: Beta(BOX, **k),
    "white": lambda **k: NoisyDeterministic(GaussianNoise(BOX, **k)),
    "ou": lambda **k: NoisyDeterministic(OUNoise(BOX, **k)),
    "warm": lambda **k: Warmup(NoisyDeterministic(OUNoise(BOX, **k)), BOX, 120, **k),
    "categorical": lambda **k: Categorical(MULTI, **k),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_a_row_does_depends_only_on_its_name(make):
    together = draw(make(seed=1), fixed(4), 400)
    apart = draw(make(seed=1, rows=[2, 3]), fixed(2), 400)
    if make is MAKERS["warm"]:  # its clock counts the rows served
        together, apart = together[:30], apart[:30]
    assert (together[:, 2:] == apart).all()
    assert (together[:, 0] != together[:, 1]).any()
    assert (draw(make(seed=2), fixed(4), 30) != together[:30]).any()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("calls", [0, 7, 345])
def test_state_resumes_exactly(make, calls):
    policy, out = make(seed=5), fixed(2)
    draw(policy, out, calls)
    state = policy.state_dict()
    ahead = draw(policy, out, 400)
    fresh = make(seed=5)
    fresh.load_state_dict(state)
    assert (draw(fresh, out, 400) == ahead).all()
    policy.load_state_dict(state)  # backwards, too
    assert (draw(policy, out, 400) == ahead).all()


# Noise --------------------------------------------------------------------------------------------------------------


def test_gaussian_noise_has_the_deviation_it_says_and_none_left_over():
    noise = GaussianNoise(BOX, std=0.3, seed=1)
    x = np.array([noise(4) for _ in range(3000)])
    assert x.shape == (3000, 4, 3)
    assert_close(x.std(0), np.full((4, 3), 0.3), rtol=0.06, atol=0)
    assert_close(x.mean(0), np.zeros((4, 3)), rtol=0, atol=0.025)
    assert abs(np.corrcoef(x[1:, 0, 0], x[:-1, 0, 0])[0, 1]) < 0.08
    before = noise.state_dict()
    noise.restart(np.array([True, True, False, False]))
    assert noise.state_dict() == before


def test_ou_noise_settles_to_its_stationary_law():
    """x' = (1 - theta) x + sigma e: variance sigma^2 / (1 - (1 - theta)^2), correlation (1 - theta)^k after k steps."""
    noise = OUNoise(ONE, std=0.2, theta=0.15, seed=0)
    x = np.array([noise(64)[:, 0] for _ in range(2000)])
    assert x[0].std() < 0.27  # from 0, not from the stationary law
    x = x[100:]
    assert x.std() == pytest.approx(0.2 / math.sqrt(1 - 0.85**2), rel=0.03)
    for k in (1, 5):
        assert np.mean(x[k:] * x[:-k]) / x.var() == pytest.approx(0.85**k, abs=0.02)


def test_ou_noise_begins_anew_where_an_episode_ended_and_only_there():
    restarted, other = OUNoise(BOX, seed=4), OUNoise(BOX, seed=4)
    ended = np.array([False, True, False])
    restarted.restart(ended)  # before any noise: nothing to forget
    for _ in range(20):
        assert (restarted(3) == other(3)).all()
    white = with_same_draws(other)
    restarted.restart(ended)
    after, going, fresh = restarted(3), other(3), white(3)
    assert (after[[0, 2]] == going[[0, 2]]).all()
    assert (after[1] == fresh[1]).all()
    assert (going[1] != fresh[1]).any()


def with_same_draws(noise):
    white = GaussianNoise(BOX, noise.std)
    white.load_state_dict(GaussianNoise.state_dict(noise))
    return white


def test_noisy_actions_stay_in_the_unit_box_and_the_mode_has_no_noise():
    policy = NoisyDeterministic(GaussianNoise(BOX, std=1.0))
    out = DeterministicOut(torch.full((2, 3), 0.9))
    actions = draw(policy, out, 500)
    assert actions.dtype == np.float32
    assert actions.min() >= -1
    assert actions.max() == 1
    assert 0.3 < (actions == 1).mean() < 0.6
    assert (draw(NoisyDeterministic(GaussianNoise(BOX, std=0.0)), out, 3) == np.float32(0.9)).all()
    assert (policy.mode(out) == np.float32(0.9)).all()


def test_restart_reaches_the_noise_through_a_warmup():
    told = []
    policy = Warmup(NoisyDeterministic(OUNoise(BOX)), BOX, steps=4)
    policy.policy.noise.restart = told.append
    ended = np.array([True, False])
    policy.restart(ended)
    assert told[0] is ended


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [CHOICES, MULTI, MATRIX])
@pytest.mark.parametrize("policy", [Gaussian, SquashedGaussian, Beta, GaussianNoise, OUNoise])
def test_only_vectors_of_numbers_will_do(policy, action):
    with pytest.raises(ProtoRLError, match=rf"{policy.__name__} chooses vectors of numbers, but .*{action.kind!r}"):
        policy(action)


def free(low, high):
    return ActionSpec("box", (3,), np.dtype("float32"), low=np.float32([-1, low, -2]), high=np.float32([1, high, 2]))


MAX = np.finfo(np.float32).max
BOUNDS = [(-np.inf, np.inf, "-inf, inf"), (2, np.inf, "2, inf"), (-np.inf, 2, "-inf, 2"), (-MAX, MAX, r"-3.*e\+38, 3.*e\+38")]


@pytest.mark.parametrize(("low", "high", "words"), BOUNDS)
@pytest.mark.parametrize("policy", [SquashedGaussian, Beta, GaussianNoise, OUNoise])
def test_what_needs_bounds_refuses_their_absence_by_dimension(policy, low, high, words):
    with pytest.raises(ProtoRLError, match=rf"{policy.__name__}.* dimension 1 is in \[{words}\]: .*RescaleAction.* ppo"):
        policy(free(low, high))
    policy(free(3, 3))  # one value only is a bound


@pytest.mark.parametrize(("low", "high", "words"), BOUNDS)
def test_a_gaussian_goes_on_without_bounds_and_says_so(low, high, words, caplog):
    Gaussian(free(-5, 5))
    assert not caplog.messages
    Gaussian(free(low, high))
    assert len(caplog.messages) == 1
    assert re.search(rf"dimension 1 is in \[{words}\]: the Gaussian's numbers are not scaled", caplog.messages[0])


class Unbounded(gymnasium.Env):
    """A number without bounds, wanted near 3."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), -((float(action[0]) - 3) ** 2), True, False, {}


gymnasium.register("Unbounded-v0", Unbounded)


@pytest.mark.parametrize(("name", "fields"), [("sac", {}), ("td3", {}), ("ddpg", {}), ("ppo", {"distribution": "beta"})])
def test_recipes_that_squash_refuse_an_environment_without_bounds(name, fields, tmp_path):
    with pytest.raises(ProtoRLError, match=r"dimension 0 is in \[-inf, inf\]: .*action_space"):
        small(name, **{"env": "Unbounded-v0", "steps": 100, **fields}).run(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_ppos_gaussian_reaches_beyond_one_where_nothing_bounds_it():
    agent, memory, actors = small("ppo", env="Unbounded-v0", num_envs=8, lr=0.03, batch_size=64).build()
    prl.train(agent, memory, actors, steps=3_000)
    assert agent.act(prl.Seen.start(np.zeros((1, 2), np.float32), actors.env.spec.action), explore=False).action > 2


@pytest.mark.parametrize("make", [MAKERS[name] for name in ("gaussian", "squashed", "beta", "white", "ou", "categorical")])
def test_another_number_of_rows_is_refused(make):
    policy = make()
    policy(fixed(2))
    with pytest.raises(ProtoRLError, match="serves 2 environments but was given 3 rows"):
        policy(fixed(3))


def test_a_negative_deviation_is_refused():
    with pytest.raises(ProtoRLError, match=r"standard deviation -0.1"):
        GaussianNoise(BOX, std=-0.1)
