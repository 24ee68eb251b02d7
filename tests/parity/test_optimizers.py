"""Adam and RMSProp against torch's; DeepMind's RMSProp against its closed form."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from protorl.networks import Adam, RMSProp, TorchRMSProp


def problem():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 3))
    x, y = torch.randn(50, 32, 7), torch.randn(50, 32, 3)
    return network, lambda net, step: (net(x[step]) - y[step]).square().mean()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_follows_torch(fused, max_grad_norm, weight_decay):
    network, loss = problem()
    theirs = copy.deepcopy(network)
    betas = (0.8, 0.99)
    reference = torch.optim.Adam(theirs.parameters(), 0.01, betas, eps=1e-5, weight_decay=weight_decay)
    ours = Adam(network, 0.01, eps=1e-5, betas=betas, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    ours.fused = ours.fused and fused
    for step in range(50):
        norm = ours.step(loss(network, step))
        reference.zero_grad()
        loss(theirs, step).backward()
        if max_grad_norm is not None:
            assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm))
        reference.step()
    for p, q in zip(network.parameters(), theirs.parameters(), strict=True):
        assert_close(p, q, atol=2e-6, rtol=1e-5)


def test_rmsprop_follows_torch():
    network, loss = problem()
    theirs = copy.deepcopy(network)
    reference = torch.optim.RMSprop(theirs.parameters(), 2e-3, alpha=0.95, eps=0.01, centered=True)
    ours = TorchRMSProp(network, 2e-3, eps=0.01)
    for step in range(50):
        ours.step(loss(network, step))
        reference.zero_grad()
        loss(theirs, step).backward()
        reference.step()
    for p, q in zip(network.parameters(), theirs.parameters(), strict=True):
        assert_close(p, q, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("centered", [True, False])
def test_rmsprop_is_its_closed_form(centered):
    network, loss = problem()
    reference = copy.deepcopy(network).double()
    lr, decay, eps = 0.01, 0.95, 1e-4
    ours = RMSProp(network, lr, decay, eps, centered)
    m = [torch.zeros_like(p) for p in reference.parameters()]
    v = [torch.zeros_like(p) for p in reference.parameters()]
    for step in range(20):
        ours.step(loss(network, step))
        single = copy.deepcopy(reference).float()
        gradients = torch.autograd.grad(loss(single, step), list(single.parameters()))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(reference.parameters(), gradients, strict=True)):
                m[i] = decay * m[i] + (1 - decay) * g
                v[i] = decay * v[i] + (1 - decay) * g**2
                p -= lr * g / (v[i] - centered * m[i] ** 2 + eps).sqrt()
    for p, q in zip(network.parameters(), reference.parameters(), strict=True):
        assert_close(p.double(), q, atol=1e-4, rtol=1e-3)


def test_rmsprop_first_step_has_eps_inside_the_root():
    weight = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(0.0)
    RMSProp(weight, lr=1.0, decay=0.5, eps=0.25).step(3 * weight.weight.sum())
    g, m, v = 3.0, 1.5, 4.5
    assert_close(weight.weight.item(), -g / (v - m**2 + 0.25) ** 0.5)


def test_rmsprop_sum_with_eps_is_mean_with_eps_over_batch_squared():
    a, loss = problem()
    b = copy.deepcopy(a)
    summed, averaged = RMSProp(a, 0.01, eps=0.01), RMSProp(b, 0.01, eps=0.01 / 32**2)
    for step in range(5):
        summed.step(32 * loss(a, step))
        averaged.step(loss(b, step))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_rmsprop_survives_a_large_steady_gradient():
    weight = nn.Linear(64, 1, bias=False)
    optimizer = RMSProp(weight, lr=1e-3, eps=1.5e-7)
    slopes = torch.linspace(100, 1000, 64)
    for _ in range(400):
        optimizer.step((weight.weight * slopes).sum())
    assert torch.isfinite(weight.weight).all()
