"""Heads of policies and values, ensembles of critics, actors with critics, scalers: shapes, starts, equations, states."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from protorl.checkpoint import decode, encode
from protorl.data import ActionSpec, ArraySpec, ProtoRLError
from protorl.moments import RunningMeanStd
from protorl.networks import (
    MLP,
    ActorCritic,
    BetaHead,
    CategoricalHead,
    DeterministicHead,
    FlatParameters,
    GaussianHead,
    Network,
    ObsScaler,
    QEnsemble,
    ReturnScaler,
    ScaledBase,
    ValueHead,
    clone,
)
from protorl.policies import Categorical

OBS = ArraySpec((6,), np.dtype("float32"))
CHOICES = ActionSpec("discrete", (), np.dtype("int64"), n=4)
MULTI = ActionSpec("multidiscrete", (3,), np.dtype("int64"), nvec=(2, 4, 3))
BOX = ActionSpec("box", (3,), np.dtype("float32"))
MATRIX = ActionSpec("box", (2, 3), np.dtype("float32"))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def network(head, base=None):
    return Network(MLP(OBS, [16], "tanh") if base is None else base, head)


def some(*lead):
    return torch.randn(*lead, 6)


# Heads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(5,), (7, 5), ()])
@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: ValueHead(), [()]),
        (lambda: CategoricalHead(CHOICES), [(4,)]),
        (lambda: CategoricalHead(MULTI), [(3, 4)]),
        (lambda: GaussianHead(BOX, state_dependent=True), [(3,), (3,)]),
        (lambda: BetaHead(BOX), [(3,), (3,)]),
        (lambda: DeterministicHead(BOX), [(3,)]),
    ],
)
def test_heads_take_any_leading_batch(make, shapes, lead):
    net, obs = network(make()), some(*lead)
    out = net(obs)
    assert [tuple(value.shape) for value in out] == [(*lead, *shape) for shape in shapes]
    if lead == (7, 5):
        for row, value in zip(net(obs[2]), out, strict=True):
            assert_close(row, value[2])


def test_a_log_std_that_does_not_depend_on_the_state_is_one_parameter():
    net = network(GaussianHead(BOX, log_std=-0.5))
    out = net(some(7, 5))
    assert out.mean.shape == (7, 5, 3)
    assert out.log_std is net.head.log_std
    assert out.log_std.tolist() == [-0.5] * 3
    assert isinstance(out.log_std, nn.Parameter)


def test_a_log_std_that_depends_on_the_state_is_clamped_before_the_exponential():
    net = network(GaussianHead(BOX, state_dependent=True, log_std_range=(-5.0, 2.0)))
    assert net(some(100)).log_std.std() > 0.05
    with torch.no_grad():
        net.head.spread.weight.mul_(1e3)
    obs = some(200)
    out = net(obs)
    assert_close(out.log_std, net.head.spread(net.base(obs)).clamp(-5, 2))
    assert (out.log_std.min().item(), out.log_std.max().item()) == (-5.0, 2.0)
    assert torch.isfinite(out.log_std.exp()).all()


@pytest.mark.parametrize(
    "make",
    [CategoricalHead, GaussianHead, BetaHead, DeterministicHead],
    ids=["categorical", "gaussian", "beta", "deterministic"],
)
def test_traps_a_gain_of_a_hundredth_makes_a_first_policy_that_is_nearly_the_same_everywhere(make):
    action = CHOICES if make is CategoricalHead else BOX
    obs = some(1000)
    small, large = (network(make(action, gain=gain))(obs)[0].std(0).max().item() for gain in (0.01, 1.0))
    assert small < 0.05 < large
    layer = network(make(action, gain=0.5)).head
    layer = layer.mean if make is GaussianHead else layer.layer
    rows = layer.weight.detach()
    assert_close(rows @ rows.T, 0.25 * torch.eye(len(rows)), atol=1e-5, rtol=0)
    assert (layer.bias == 0).all()


def test_heads_without_a_gain_start_as_torch_does():
    bound = 1 / math.sqrt(16)
    layer = network(ValueHead()).head.layer
    assert bound * 0.6 < layer.weight.abs().max() <= bound
    assert layer.bias.abs().max() > 0


def test_a_bound_holds_for_weights_and_bias():
    layer = network(DeterministicHead(BOX, bound=3e-3)).head.layer
    for values in (layer.weight, layer.bias):
        assert 0 < values.abs().max() <= 3e-3
    out = network(DeterministicHead(BOX, gain=100.0))(some(50)).action
    assert out.abs().max() <= 1
    assert out.abs().max() > 0.99


def test_beta_parameters_exceed_one():
    net = network(BetaHead(BOX, gain=5.0))
    obs = some(500)
    out = net(obs)
    z = net.head.layer(net.base(obs))
    assert_close(torch.cat(tuple(out), -1), 1 + nn.functional.softplus(z))
    assert min(out.alpha.min(), out.beta.min()) > 1
    assert not torch.equal(out.alpha, out.beta)


def test_multidiscrete_logits_are_a_table_padded_with_what_cannot_be_chosen():
    net = network(CategoricalHead(MULTI))
    obs = some(2, 5).requires_grad_()
    logits = net(obs).logits
    flat = net.head.layer(net.base(obs))
    assert flat.shape == (2, 5, 9)
    inf = torch.full((2, 5, 1), -torch.inf)
    expected = [torch.cat([flat[..., :2], inf, inf], -1), flat[..., 2:6], torch.cat([flat[..., 6:], inf], -1)]
    assert torch.equal(logits, torch.stack(expected, -2))
    policy = Categorical(MULTI)
    out = net(obs)
    score = policy.log_prob(out, torch.tensor([1, 3, 2]).expand(2, 5, 3)).sum() + policy.entropy(out).sum()
    for gradient in torch.autograd.grad(score, [obs, *net.parameters()]):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
    assert set(net.state_dict()) == {
        f"{part}.{name}" for part in ("base.layers.0", "head.layer") for name in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CategoricalHead(BOX), "CategoricalHead is for discrete or multidiscrete actions, .*'box'"),
        (lambda: GaussianHead(CHOICES), "GaussianHead is for box actions, .*'discrete'"),
        (lambda: BetaHead(MULTI), "BetaHead is for box actions, .*'multidiscrete'"),
        (lambda: DeterministicHead(MATRIX), r"DeterministicHead needs actions in one vector, .*\(2, 3\)"),
        (lambda: QEnsemble(MLP(OBS, []), CHOICES), "QEnsemble judges box actions, .*'discrete': use QHead"),
        (lambda: QEnsemble(MLP(OBS, []), BOX, k=0), "an ensemble of 0 critics"),
        (lambda: QEnsemble(MLP(OBS, []), BOX, outputs=0), "an ensemble of 0 outputs"),
        (lambda: QEnsemble(MLP(OBS, []), BOX, activation="rellu"), "unknown activation 'rellu': did you mean 'relu'"),
    ],
)
def test_mistakes_get_one_sentence(make, words):
    with pytest.raises(ProtoRLError, match=words):
        make()


# Ensembles ----------------------------------------------------------------------------------------------------------


def separate(critic, member):
    """One member as a stack of ordinary layers that share its weights."""
    layers = [
        nn.Linear(layer.weight.shape[1], layer.weight.shape[2]) if hasattr(layer, "weight") else copy.deepcopy(layer)
        for layer in critic.layers
    ]
    with torch.no_grad():
        for one, many in zip(layers, critic.layers, strict=True):
            if isinstance(one, nn.Linear):
                one.weight.copy_(many.weight[member].T)
                one.bias.copy_(many.bias[member, 0])
    return nn.Sequential(*layers)


@pytest.mark.parametrize("action", [BOX, MATRIX], ids=["vector", "matrix"])
@pytest.mark.parametrize(("k", "base", "activation"), [(1, [], "relu"), (2, [], "relu"), (5, [8], "tanh")])
def test_an_ensemble_is_its_members_one_by_one(k, base, activation, action):
    """Values and gradients; with widths in the base the action enters at the second layer."""
    critic = QEnsemble(MLP(OBS, base, activation), action, (12, 10), activation, k)
    obs, act = some(9), torch.rand(9, *action.shape) * 2 - 1
    act.requires_grad_()
    q = critic(obs, act)
    assert q.shape == (k, 9)
    coefficient = torch.randn(k, 9)
    parameters = [p for layer in critic.layers for p in layer.parameters()]
    *ours, ours_action = torch.autograd.grad((coefficient * q).sum(), [*parameters, act])
    total = torch.zeros_like(act)
    for member in range(k):
        alone = separate(critic, member)
        value = alone(torch.cat([critic.base(obs), act.flatten(1)], -1)).squeeze(-1)
        assert_close(q[member], value)
        *theirs, by_action = torch.autograd.grad((coefficient[member] * value).sum(), [*alone.parameters(), act])
        total += by_action
        for one, many in zip(theirs, ours, strict=True):
            assert_close(many[member].squeeze(0) if one.dim() == 1 else many[member].T, one)
    assert_close(ours_action, total)
    assert critic.layers[0].weight.shape == (k, (base[0] if base else 6) + 3 * (2 if action is MATRIX else 1), 12)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_first_member_can_judge_alone(layer_norm):
    critic = QEnsemble(MLP(OBS, []), BOX, (8, 8), k=3, layer_norm=layer_norm)
    obs, act = some(9), torch.rand(9, *BOX.shape)
    assert_close(critic(obs, act, members=1), critic(obs, act)[:1])


def test_members_start_apart_and_as_layers_of_their_own_would():
    critic = QEnsemble(MLP(OBS, []), BOX, (64, 64), k=3)
    q = critic(some(20), torch.zeros(20, 3))
    assert all((q[i] - q[j]).abs().min() > 0 for i in range(3) for j in range(i))
    for layer in (critic.layers[0], critic.layers[2], critic.layers[4]):
        for one, other in ((0, 1), (1, 2), (0, 2)):
            assert not torch.equal(layer.weight[one], layer.weight[other])
            assert not torch.equal(layer.bias[one], layer.bias[other])
        bound = 1 / math.sqrt(layer.weight.shape[1])
        assert 0.95 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() <= bound
    last = QEnsemble(MLP(OBS, []), BOX, (64,), k=2, bound=3e-3).layers[-1]
    assert max(last.weight.abs().max(), last.bias.abs().max()) <= 3e-3


def test_the_least_of_the_members_is_taken_example_by_example():
    critic = QEnsemble(MLP(OBS, []), BOX, (16,), k=2)
    q = critic(some(50), torch.rand(50, 3))
    least = q.amin(0)
    assert least.shape == (50,)
    assert 0 < (least == q[0]).sum() < 50


# Actor and critic ---------------------------------------------------------------------------------------------------


class Counting(MLP):
    """Counts how often it is asked."""

    calls = 0

    def forward(self, obs):
        self.calls += 1
        return super().forward(obs)


def test_critics_of_several_numbers_each():
    critic = QEnsemble(MLP(OBS, []), BOX, (16,), k=3, outputs=5)
    obs, action = some(4), torch.rand(4, 3)
    q = critic(obs, action)
    assert q.shape == (3, 4, 5)
    assert_close(critic(obs, action, members=2), q[:2])
    assert QEnsemble(MLP(OBS, []), BOX, (16,), k=3)(obs, action).shape == (3, 4)


def test_a_shared_trunk_sees_each_observation_once():
    base = Counting(OBS, [16])
    both = ActorCritic(Network(base, GaussianHead(BOX)), Network(base, ValueHead()))
    obs = some(4, 5)
    out = both(obs)
    assert base.calls == 1
    assert_close((out.policy.mean, out.value), (both.actor(obs).mean, both.critic(obs).value))
    assert len(list(both.parameters())) == 2 + 2 + 1 + 2
    FlatParameters(both)  # each parameter once
    copied = clone(both)
    assert copied.actor.base is copied.critic.base is not base
    (trunk,) = torch.autograd.grad(out.value.sum(), [base.layers[0].weight], retain_graph=True)
    (also,) = torch.autograd.grad(out.policy.mean.sum(), [base.layers[0].weight])
    assert min(trunk.abs().sum(), also.abs().sum()) > 0


def test_separate_trunks_stay_separate():
    actor, critic = (Counting(OBS, [16]) for _ in range(2))
    both = ActorCritic(Network(actor, CategoricalHead(CHOICES)), Network(critic, ValueHead()))
    obs = some(5)
    out = both(obs)
    assert (actor.calls, critic.calls) == (1, 1)
    assert_close((out.policy.logits, out.value), (both.actor(obs).logits, both.critic(obs).value))
    (unfelt,) = torch.autograd.grad(out.value.sum(), [actor.layers[0].weight], allow_unused=True)
    assert unfelt is None


# Scalers ------------------------------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e4, 0.1, (n, 2)) for n in (1, 7, 0, 300)]
    seen = RunningMeanStd((2,))
    assert (seen.mean.tolist(), seen.var.tolist()) == ([0, 0], [1, 1])
    for part in parts:
        seen.update(part)
    everything = np.concatenate(parts)
    np.testing.assert_allclose(seen.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(seen.var, everything.var(0), rtol=1e-6)  # a naive sum of squares loses all digits here
    again = RunningMeanStd((2,))
    again.load_state_dict(seen.state_dict())
    for one in (seen, again):
        one.update(parts[1])
    assert (seen.mean == again.mean).all()
    assert (seen.var == again.var).all()


@pytest.mark.parametrize("shape", [(6,), (), (2, 3)])
def test_observations_are_scaled_by_what_was_counted_from_the_next_refresh_on(shape):
    scaler = ObsScaler(ArraySpec(shape, np.dtype("float32")), clip=2.0)
    obs = 5 + 3 * torch.randn(40, 5, *shape)
    assert torch.equal(scaler(obs), obs.clamp(-2, 2))
    scaler.refresh()
    assert torch.equal(scaler(obs), obs.clamp(-2, 2))
    scaler.count(obs[:10])
    scaler.count(obs[10:])
    assert torch.equal(scaler(obs), obs.clamp(-2, 2))  # the policy that learns is the one that acted
    scaler.refresh()
    flat = obs.reshape(-1, *shape).double().numpy()
    expected = ((obs.numpy() - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-8)).clip(-2, 2)
    assert_close(scaler(obs), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)
    before = scaler(obs)
    scaler.refresh()
    assert torch.equal(scaler(obs), before)
    assert before.dtype == torch.float32
    scaler.count(obs)
    scaler.refresh()
    assert_close(scaler(obs), before)  # the same again: mean and deviation stay
    assert not list(scaler.parameters())


def test_a_scaled_base_hands_on_and_keeps_its_statistics_in_the_networks_state():
    scaler = ObsScaler(OBS)
    actor, critic = (ScaledBase(scaler, MLP(OBS, [8])) for _ in range(2))
    both = ActorCritic(Network(actor, CategoricalHead(CHOICES)), Network(critic, ValueHead()))
    obs = 4 + some(30)
    scaler.count(obs)
    scaler.refresh()
    scaler.count(obs * 2)  # counted, not yet in use
    assert actor.features == 8
    assert_close(actor(obs), actor.base(scaler(obs)))
    fresh = copy.deepcopy(both)
    fresh_scaler = fresh.actor.base.scaler
    fresh_scaler.load_state_dict(ObsScaler(OBS).state_dict())
    fresh_scaler.used = scaler.seen.count  # a later life than the one loaded
    assert not torch.equal(fresh(obs).value, both(obs).value)
    fresh.load_state_dict(decode(encode(both.state_dict())))
    for _ in range(2):
        assert torch.equal(fresh(obs).value, both(obs).value)
        assert torch.equal(fresh(obs).policy.logits, both(obs).policy.logits)
        scaler.refresh()
        fresh_scaler.refresh()
    assert fresh.critic.base.scaler is fresh_scaler


@pytest.mark.parametrize("obs", [{"a": OBS}, ArraySpec((4, 8, 8), np.dtype("uint8"))])
def test_only_floats_can_be_scaled(obs):
    with pytest.raises(ProtoRLError, match="set normalise_obs=false"):
        ObsScaler(obs)


def slow_returns(reward, going):
    """Discounted returns up to each step, one environment after the other."""
    found = []
    for n in range(reward.shape[1]):
        g = 0.0
        for t in range(reward.shape[0]):
            g += float(reward[t, n])
            found.append(g)
            g *= float(going[t, n])
    return np.array(found)


def test_rewards_are_divided_by_the_spread_of_the_discounted_return():
    """Across rollouts, environments and episodes: the return begins anew at terminations and truncations only."""
    steps, envs = 60, 3
    reward = torch.randn(steps, envs) + 1
    kind = torch.multinomial(torch.tensor([0.8, 0.1, 0.1]), steps * envs, replacement=True).reshape(steps, envs)
    ended, discount = kind > 0, 0.9 * (kind != 1).float()
    scaler, begin = ReturnScaler(clip=3.0), 0
    for end in (1, 20, 60):
        scaled = scaler(reward[begin:end], discount[begin:end], ended[begin:end])
        seen = slow_returns(reward[:end], (discount * ~ended)[:end])
        expected = (reward[begin:end] / math.sqrt(seen.var() + 1e-8)).clamp(-3, 3)
        assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
        begin = end
    assert scaled.abs().max() <= 3


def test_a_constant_reward_settles():
    """The return goes to 1 / (1 - gamma) = 100 in one long episode, and its spread vanishes beside its mean."""
    scaler, last = ReturnScaler(), []
    for _ in range(80):
        one = torch.ones(128, 2)
        last.append(scaler(one, 0.99 * one, torch.zeros(128, 2, dtype=torch.bool)))
    assert last[-1].std() == 0
    assert 0.05 < last[-1].mean() < 0.2
    assert abs(last[-1].mean() / last[-2].mean() - 1) < 0.01
    # In episodes of 50 the return saws up and down, and the divisor stays.
    scaler, ended = ReturnScaler(), (torch.arange(1, 101) % 50 == 0)[:, None]
    scales = [scaler(torch.ones(100, 1), torch.full((100, 1), 0.99), ended)[0, 0].item() for _ in range(5)]
    saw = (1 - 0.99 ** np.arange(1, 51)) / 0.01
    np.testing.assert_allclose(scales, 1 / saw.std(), rtol=1e-5)


def test_padding_of_a_rollout_is_not_counted():
    reward = torch.randn(12, 1)
    discount, ended = torch.full((12, 1), 0.9), torch.zeros(12, 1, dtype=torch.bool)
    whole, parts = ReturnScaler(), ReturnScaler()
    whole(reward, discount, ended)
    parts(reward[:5], discount[:5], ended[:5])
    junk, off = torch.full((3, 1), 77.0), torch.zeros(3, 1)
    weight = torch.cat([off, torch.ones(7, 1)])
    rest = [torch.cat([pad, x[5:]]) for pad, x in ((junk, reward), (off, discount), (off > 1, ended))]
    parts(*rest, weight)
    np.testing.assert_allclose(parts.seen.var, whole.seen.var, rtol=1e-12)
    np.testing.assert_allclose(parts.returns, whole.returns, rtol=1e-12)
    assert parts.seen.count == 12


def test_return_scaler_resumes_exactly():
    def rollout(seed):
        rng = torch.Generator().manual_seed(seed)
        return torch.rand(9, 2, generator=rng), torch.full((9, 2), 0.9), torch.rand(9, 2, generator=rng) < 0.2

    original, fresh = ReturnScaler(), ReturnScaler()
    for stop in (0, 3):
        for seed in range(stop):
            original(*rollout(seed))
        fresh.load_state_dict(decode(encode(original.state_dict())))
        assert torch.equal(fresh(*rollout(9)), original(*rollout(9)))
