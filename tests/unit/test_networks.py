"""Bases, heads, the factory, flat parameters and their optimizers."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from protorl.data import ActionSpec, ArraySpec, EnvSpec, ProtoRLError
from protorl.networks import (
    MLP,
    Adam,
    C51Head,
    DictBase,
    DuelingHead,
    FlatParameters,
    ImpalaResNet,
    NatureCNN,
    Network,
    NoisyLinear,
    QHead,
    QuantileHead,
    RMSProp,
    build_network,
    clone,
)
from protorl.rng import torch_stream

VECTOR = ArraySpec((4,), np.dtype("float32"))
PIXELS = ArraySpec((4, 84, 84), np.dtype("uint8"))
ACTION = ActionSpec("discrete", (), np.dtype("int64"), n=3)
BOX = ActionSpec("box", (2,), np.dtype("float32"))


def env_spec(obs=VECTOR, action=ACTION):
    return EnvSpec("Test-v0", obs, action, num_envs=1)


@pytest.fixture(autouse=True)
def seeded():
    with torch_stream(0, "test"):
        yield


# Bases


def test_mlp_is_its_layers():
    base = MLP(VECTOR, [5, 6], activation="tanh")
    x = torch.randn(7, 4)
    first, _, second, _ = base.layers
    assert_close(base(x), torch.tanh(second(torch.tanh(first(x)))))
    assert base.features == 6


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 5)])
@pytest.mark.parametrize("lead", [(), (6,), (2, 6)])
def test_mlp_takes_any_shape_dtype_and_leading_batch(shape, lead):
    for dtype in ("float64", "int32", "bool", "float32"):
        base = MLP(ArraySpec(shape, np.dtype(dtype)), [8])
        obs = torch.from_numpy(np.ones((*lead, *shape), dtype))
        out = base(obs)
        assert out.shape == (*lead, 8)
        assert out.dtype == torch.float32
    assert MLP(ArraySpec(shape, np.dtype("float32")), []).features == math.prod(shape)


def test_mlp_layer_norm_normalises_before_the_activation():
    base = MLP(VECTOR, [64], layer_norm=True)
    normal = base.layers[:2](torch.randn(5, 4) * 100)
    assert_close(normal.mean(-1), torch.zeros(5), atol=1e-5, rtol=0)
    assert isinstance(base.layers[2], nn.ReLU)


def test_orthogonal_init_has_gain_sqrt_two_and_no_bias():
    base = MLP(VECTOR, [64, 64], init="orthogonal")
    weight = base.layers[2].weight
    assert_close(weight @ weight.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    assert not base.layers[2].bias.any()
    assert NatureCNN(PIXELS, init="orthogonal").convolutions[0].bias.abs().max() == 0


@pytest.mark.parametrize(
    ("init", "variance"),
    [("xavier", lambda inputs, outputs: 2 / (inputs + outputs)), ("dopamine", lambda inputs, outputs: 3**-0.5 / inputs)],
)
def test_uniform_init_stays_within_its_bound_and_has_no_bias(init, variance):
    base = NatureCNN(PIXELS, init=init)
    dense = next(layer for layer in base.layers if isinstance(layer, nn.Linear))
    convolution = base.convolutions[2]  # 32 -> 64 channels, 4 x 4
    for weight, size in ((dense.weight, variance(3136, 512)), (convolution.weight, variance(32 * 16, 64 * 16))):
        bound = (3 * size) ** 0.5
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.var().item() == pytest.approx(size, rel=0.02)
    assert not any(layer.bias.any() for layer in base.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def test_only_bytes_that_reach_255_are_scaled_and_once():
    base = NatureCNN(PIXELS)
    white = torch.full((1, 4, 84, 84), 255, dtype=torch.uint8)
    by_hand = base.layers(base.convolutions(torch.ones(1, 4, 84, 84)))
    assert torch.equal(base(white), by_hand)
    flags = ArraySpec((4,), np.dtype("uint8"), np.zeros(4, np.uint8), np.ones(4, np.uint8))
    assert MLP(flags, []).inputs(torch.ones(4, dtype=torch.uint8)).tolist() == [1.0] * 4
    assert MLP(ArraySpec((1,), np.dtype("uint8")), []).inputs(torch.tensor([255], dtype=torch.uint8)).item() == 1.0
    assert MLP(ArraySpec((1,), np.dtype("float32")), []).inputs(torch.tensor([255.0])).item() == 255.0


def test_nature_cnn_has_the_papers_size():
    network = Network(NatureCNN(PIXELS), QHead(ACTION))
    convolutions = 4 * 32 * 64 + 32 + 32 * 64 * 16 + 64 + 64 * 64 * 9 + 64
    dense = 3136 * 512 + 512 + 512 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense
    assert NatureCNN(PIXELS, widths=()).features == 3136


@pytest.mark.parametrize("make", [NatureCNN, ImpalaResNet])
@pytest.mark.parametrize("size", [(36, 47), (84, 84)])
def test_image_bases_take_any_leading_batch(make, size):
    spec = ArraySpec((3, *size), np.dtype("uint8"))
    base = make(spec)
    obs = torch.randint(0, 256, (2, 2, 3, *size), dtype=torch.uint8)
    out = base(obs)
    assert out.shape == (2, 2, base.features)
    assert_close(base(obs[1, 0]), out[1, 0], atol=1e-5, rtol=1e-4)


def test_impala_shapes_and_small_images():
    base = ImpalaResNet(ArraySpec((3, 64, 64), np.dtype("uint8")))
    assert base.layers[-2].in_features == 32 * 8 * 8
    assert sum(isinstance(layer, nn.Conv2d) for layer in base.modules()) == 15  # figure 3: fifteen convolutions
    assert ImpalaResNet(ArraySpec((3, 5, 7), np.dtype("uint8")))(torch.zeros(1, 3, 5, 7)).shape == (1, 256)


def test_dict_base_concatenates():
    spec = {"vector": VECTOR, "flag": ArraySpec((), np.dtype("int64")), "unseen": VECTOR}
    base = DictBase({"vector": MLP(VECTOR, [5]), "flag": MLP(spec["flag"], [])})
    obs = {"vector": torch.randn(2, 4), "flag": torch.tensor([3, 4]), "unseen": torch.randn(2, 4)}
    out = base(obs)
    assert base.features == 6
    assert_close(out[:, :5], base.bases[0](obs["vector"]))
    assert out[:, 5].tolist() == [3.0, 4.0]


# Heads


def test_dueling_head_is_equation_nine():
    head = DuelingHead(ACTION, widths=[8])
    head.build(5)
    x = torch.randn(6, 5)
    v, adv = head.value(x), head.advantage(x)
    assert_close(head(x).q, v + (adv - adv.mean(1, keepdim=True)))
    assert_close(head(x).q.mean(-1, keepdim=True), v)
    with torch.no_grad():
        before = head(x).q
        head.advantage[-1].bias += 3.0
    assert_close(head(x).q, before)
    assert_close(head(x[:1]).q, head(x).q[:1])


def test_dueling_head_scales_the_gradient_of_the_base_and_nothing_else():
    plain, scaled = DuelingHead(ACTION, widths=[8]), DuelingHead(ACTION, widths=[8], base_gradient=0.25)
    for head in (plain, scaled):
        head.build(5)
    scaled.load_state_dict(plain.state_dict())
    x = torch.randn(6, 5, requires_grad=True)
    assert torch.equal(scaled(x).q, plain(x).q)
    grads = [torch.autograd.grad(head(x).q.square().sum(), [x, *head.parameters()]) for head in (plain, scaled)]
    assert_close(grads[1][0], 0.25 * grads[0][0])
    assert_close(grads[1][1:], grads[0][1:])


@pytest.mark.parametrize("dueling", [False, True])
def test_c51_head(dueling):
    network = Network(MLP(VECTOR, [8]), C51Head(ACTION, atoms=5, v_min=-2, v_max=2, dueling=dueling))
    out = network(torch.randn(7, 6, 4))
    assert out.log_p.shape == (7, 6, 3, 5)
    assert out.atoms.tolist() == [-2, -1, 0, 1, 2]
    assert_close(out.log_p.exp().sum(-1), torch.ones(7, 6, 3))
    assert_close(out.q, torch.einsum("tbak,k->tba", out.log_p.exp(), out.atoms))


@pytest.mark.parametrize("dueling", [False, True])
def test_quantile_head(dueling):
    network = Network(MLP(VECTOR, [8]), QuantileHead(ACTION, quantiles=5, dueling=dueling))
    out = network(torch.randn(6, 4))
    assert out.quantiles.shape == (6, 3, 5)
    assert_close(out.q, out.quantiles.mean(-1))


def test_distributional_dueling_centres_over_actions():
    head = QuantileHead(ACTION, quantiles=5, dueling=True)
    head.build(4)
    x = torch.randn(6, 4)
    assert_close(head(x).quantiles.mean(1), head.value(x))


@pytest.mark.parametrize("make", [QHead, DuelingHead, C51Head, QuantileHead])
def test_heads_want_discrete_actions(make):
    with pytest.raises(ProtoRLError, match="'box'"):
        make(BOX)


def test_a_head_belongs_to_one_network():
    base, head = MLP(VECTOR, [8]), QHead(ACTION)
    Network(base, head)
    with pytest.raises(ProtoRLError, match="make a new one"):
        Network(base, head)


def test_initial_weights_follow_the_torch_seed():
    def make(seed):
        torch.manual_seed(seed)
        return FlatParameters(Network(MLP(VECTOR, [8]), DuelingHead(ACTION, noisy=True))).buffer

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


# Noise


def test_noisy_layer_is_equation_ten_for_each_row():
    layer = NoisyLinear(4, 3)
    x = torch.randn(2, 4)
    torch.manual_seed(5)
    y = layer(x)
    torch.manual_seed(5)
    raw_in, raw_out = torch.randn(2, 4), torch.randn(2, 3)
    for row in range(2):
        f_in = raw_in[row].sign() * raw_in[row].abs().sqrt()
        f_out = raw_out[row].sign() * raw_out[row].abs().sqrt()
        weight = layer.weight + layer.weight_sigma * torch.outer(f_out, f_in)
        bias = layer.bias + layer.bias_sigma * f_out
        assert_close(y[row], weight @ x[row] + bias)


def test_noisy_layer_draws_anew_when_training_and_not_in_eval():
    layer = NoisyLinear(4, 3)
    x = torch.randn(1, 4).expand(2, 4)
    assert not torch.equal(layer(x), layer(x))
    assert not torch.equal(*layer(x))  # each row draws for itself
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_noisy_layer_starts_as_the_paper_says_and_learns_its_noise():
    layer = NoisyLinear(100, 50)
    assert layer.weight.abs().max() <= 0.1
    assert layer.bias.abs().max() <= 0.1
    assert_close(layer.weight_sigma.detach(), torch.full((50, 100), 0.05))
    assert_close(layer.bias_sigma.detach(), torch.full((50,), 0.05))
    gradients = torch.autograd.grad(layer(torch.randn(2, 100)).sum(), list(layer.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_noisy_head_is_noisy_throughout():
    for make in (QHead, DuelingHead, C51Head, QuantileHead):
        head = make(ACTION, widths=[8], noisy=True)
        head.build(4)
        assert not any(isinstance(layer, nn.Linear) for layer in head.modules())


# Factory


def test_factory_defaults_follow_the_observation():
    assert isinstance(build_network(env_spec()).base, MLP)
    assert isinstance(build_network(env_spec(PIXELS)).base, NatureCNN)
    both = build_network(env_spec({"image": PIXELS, "vector": VECTOR}))
    assert isinstance(both.base, DictBase)
    obs = {"image": torch.zeros(2, 4, 84, 84, dtype=torch.uint8), "vector": torch.zeros(2, 4)}
    assert both(obs).q.shape == (2, 3)


def test_factory_reads_its_config():
    config = {"base": {"type": "mlp", "widths": [7, 9], "activation": "tanh"}, "head": "dueling"}
    network = build_network(env_spec(), config)
    assert [layer.out_features for layer in network.base.layers if isinstance(layer, nn.Linear)] == [7, 9]
    assert isinstance(network.base.layers[1], nn.Tanh)
    assert isinstance(network.head, DuelingHead)
    config = {"base": "nature", "head": {"type": "c51", "atoms": 11, "widths": [5], "noisy": True, "dueling": True}}
    assert build_network(env_spec(PIXELS), config).head.atoms.shape == (11,)
    config = {"base": {"type": "dict", "bases": {"b": {"widths": [5]}}}}
    assert build_network(env_spec({"a": VECTOR, "b": VECTOR}), config).base.features == 256 + 5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bose": "mlp"}, "'bose'.*'base'"),
        ({"base": "mpl"}, "'mpl'.*'mlp'.*nature"),
        ({"head": "duelling"}, "'duelling'.*'dueling'.*quantile"),
        ({"base": {"type": "mlp", "width": [3]}}, "'width'.*'widths'.*activation"),
        ({"head": {"type": "c51", "atom": 3}}, "'atom'.*'atoms'"),
        ({"base": {"activation": "rleu"}}, "'rleu'.*'relu'.*tanh"),
        ({"base": {"init": "ortho"}}, "'ortho'.*orthogonal.*xavier"),
        ({"base": {"widths": [8, 0]}}, "width 0"),
        ({"base": "nature"}, r"\(4,\).*MLP"),
        ({"base": "dict"}, "array"),
        ({"base": 3}, "3"),
        ({"head": {"type": "c51", "v_min": 1, "v_max": 1}}, r"\[1, 1\]"),
        ({"head": {"type": "quantile", "quantiles": 0}}, "at least 1"),
    ],
)
def test_factory_errors_name_the_value_and_the_way_out(config, words):
    with pytest.raises(ProtoRLError, match=words):
        build_network(env_spec(), config)


def test_factory_errors_about_the_observation():
    with pytest.raises(ProtoRLError, match=r"36x36.*10x10"):
        build_network(env_spec(ArraySpec((4, 10, 10), np.dtype("uint8"))))
    with pytest.raises(ProtoRLError, match="84x35"):
        NatureCNN(ArraySpec((4, 84, 35), np.dtype("uint8")))
    with pytest.raises(ProtoRLError, match=r"dict of a, b.*DictBase"):
        build_network(env_spec({"a": VECTOR, "b": VECTOR}), {"base": "mlp"})
    with pytest.raises(ProtoRLError, match=r"'vectr'.*'vector'"):
        build_network(env_spec({"vector": VECTOR}), {"base": {"type": "dict", "bases": {"vectr": "mlp"}}})


# Flat parameters


def small():
    return Network(MLP(VECTOR, [5]), QHead(ACTION))


def test_flat_parameters_keep_values_and_are_views():
    network, x = small(), torch.randn(2, 4)
    before = network(x).q
    flat = FlatParameters(network)
    assert torch.equal(network(x).q, before)
    assert all(p.data_ptr() % 4 == 0 and (p.data_ptr() - flat.buffer.data_ptr()) % 64 == 0 for p in network.parameters())
    flat.buffer.zero_()
    assert not network(x).q.any()
    assert all(p.requires_grad and p.is_leaf for p in network.parameters())


def test_flattening_again_finds_the_same_buffer():
    network = small()
    flat, again = FlatParameters(network), FlatParameters(network)
    assert again.buffer.data_ptr() == flat.buffer.data_ptr()
    assert again.buffer.shape == flat.buffer.shape
    part = FlatParameters(network.head)  # a part of a flat module is flat too
    part.buffer.fill_(3.0)
    assert flat.buffer[-part.buffer.numel() :].eq(3.0).all()


def test_copy_and_lerp():
    a, b = FlatParameters(small()), FlatParameters(small())
    start, goal = a.buffer.clone(), b.buffer.clone()
    a.lerp_(b, 0.005)
    assert_close(a.buffer, 0.995 * start + 0.005 * goal)
    a.copy_(b)
    assert torch.equal(a.buffer, goal)
    assert torch.equal(b.buffer, goal)


def test_loading_a_state_dict_writes_the_buffer():
    network, other = small(), small()
    flat = FlatParameters(network)
    network.load_state_dict(other.state_dict())
    assert torch.equal(flat.buffer, FlatParameters(other).buffer)


def test_clone_is_apart_and_without_gradients():
    network = small()
    flat = FlatParameters(network)
    target = clone(network)
    follower = FlatParameters(target)
    assert not any(p.requires_grad for p in target.parameters())
    assert torch.equal(follower.buffer, flat.buffer)
    flat.buffer.add_(1.0)
    assert not torch.equal(follower.buffer, flat.buffer)
    follower.copy_(flat)
    x = torch.randn(2, 4)
    assert torch.equal(target(x).q, network(x).q)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copied_network_and_optimizer_stay_together(duplicate):
    network = small()
    optimizer = Adam(network, 0.1)
    copied, copied_optimizer = duplicate((network, optimizer))
    x = torch.randn(2, 4)
    before = network(x).q.detach().clone()
    copied_optimizer.step(copied(x).q.sum())
    assert torch.equal(network(x).q, before)
    optimizer.step(network(x).q.sum())
    assert_close(copied(x).q, network(x).q)
    assert not torch.equal(network(x).q, before)


def test_flat_parameters_refuse_what_cannot_share_a_buffer():
    with pytest.raises(ProtoRLError, match="none"):
        FlatParameters(nn.ReLU())
    with pytest.raises(ProtoRLError, match="float64"):
        FlatParameters(small().double())


# Optimizers

OPTIMIZERS = [lambda net: Adam(net, 0.01, max_grad_norm=1.0), lambda net: RMSProp(net, 0.01)]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_state_is_exact_and_separate(make):
    network = small()
    optimizer = make(network)
    x = torch.randn(8, 4)

    def run(steps):
        for _ in range(steps):
            optimizer.step(network(x).q.square().mean())
        return optimizer.flat.buffer.clone()

    run(3)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "network": network.state_dict()}, file)
    optimizer.lr.fill_(0.02)
    live = optimizer.state_dict()
    live_network = {key: value.clone() for key, value in network.state_dict().items()}
    ahead = run(3)
    optimizer.load_state_dict(live)  # what was saved did not move with the optimizer
    network.load_state_dict(live_network)
    assert torch.equal(run(3), ahead)
    file.seek(0)
    saved = torch.load(file)
    optimizer.load_state_dict(saved["optimizer"])
    network.load_state_dict(saved["network"])
    assert optimizer.lr.item() == pytest.approx(0.01)
    assert not torch.equal(run(3), ahead)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_only_the_own_parameters_get_gradients_and_unused_ones_stay(make):
    network, other = small(), small()
    optimizer = make(network)
    head = network.head.layers[0].weight.detach().clone()
    features = network.base(torch.randn(8, 4))
    optimizer.step((features * other.base(torch.randn(8, 4))).sum())
    assert all(p.grad is None for p in [*network.parameters(), *other.parameters()])
    assert torch.equal(network.head.layers[0].weight, head)


def test_the_norm_is_reported_and_bounded():
    network = small()
    x = torch.randn(8, 4)
    loss = 1e3 * network(x).q.square().mean()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)])
    seen = []
    optimizer = Adam(network, 0.1, max_grad_norm=0.5)
    optimizer.update = lambda gradient: seen.append(gradient)
    assert_close(optimizer.step(loss), expected.norm())
    assert_close(seen[0].norm(), torch.tensor(0.5), atol=1e-5, rtol=0)
    measured = Adam(network, 0.1, max_grad_norm=math.inf)
    measured.update = lambda gradient: seen.append(gradient)
    loss = 1e3 * network(x).q.square().mean()
    assert_close(measured.step(loss), expected.norm())
    assert_close(seen[1].norm(), expected.norm())
    assert Adam(network, 0.1).step(network(x).q.mean()) is None


def test_lr_may_be_a_tensor_that_a_schedule_writes():
    network = small()
    lr = torch.tensor(0.1)
    optimizer = Adam(network, lr)
    assert optimizer.lr is lr
    lr.zero_()
    before = optimizer.flat.buffer.clone()
    optimizer.step(network(torch.randn(8, 4)).q.sum())
    assert torch.equal(optimizer.flat.buffer, before)


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, torch.tensor(0.1, dtype=torch.float64), torch.tensor([0.1])])
def test_a_learning_rate_that_cannot_work_is_refused(lr):
    with pytest.raises(ProtoRLError, match="lr"):
        Adam(small(), lr)
    with pytest.raises(ProtoRLError, match="max_grad_norm"):
        RMSProp(small(), 0.1, max_grad_norm=0.0)
