"""Optimizers of `torch.optim` behind our interface: their numbers, views that stay views, exact resume."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import protorl as prl
from protorl.checkpoint import decode, encode
from protorl.networks import FlatParameters, TorchOptimizer, build_optimizer, clone
from protorl.networks.torch_optimizer import TORCHS

LR = float(torch.tensor(1e-2))  # as a float32 number is
FIT = sorted(set(TORCHS) - {"muon"})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def loss(net: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return (net(x) - x[:, :2]).square().mean()


@pytest.mark.parametrize("name", FIT)
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_numbers_are_torchs_and_parameters_stay_views(name: str, max_grad_norm: float | None) -> None:
    net = network()
    theirs, target = copy.deepcopy(net), clone(net)
    reference = TORCHS[name](theirs.parameters(), lr=LR)  # type: ignore[call-arg]
    ours = build_optimizer(f"torch.optim.{name}", net, LR, max_grad_norm)
    buffer = FlatParameters(net).buffer
    for step in range(10):
        ours.lr.fill_(LR / (1 + step))  # a schedule
        reference.param_groups[0]["lr"] = float(ours.lr)
        norm = ours.step(loss(net, step))
        reference.zero_grad()
        loss(theirs, step).backward()
        if max_grad_norm is None:
            assert norm is None
        else:
            assert_close(norm, nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm))
        reference.step()
    assert all(p.grad is None for p in net.parameters())
    for p, q in zip(net.parameters(), theirs.parameters(), strict=True):
        assert_close(p, q, atol=1e-6, rtol=1e-5)
        assert p.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
    FlatParameters(target).lerp_(FlatParameters(net), 1.0)
    for p, q in zip(target.parameters(), net.parameters(), strict=True):
        assert_close(p, q)


@pytest.mark.parametrize("name", FIT)
def test_what_is_saved_goes_on_bit_for_bit(name: str) -> None:
    net = network()
    ours: Any = build_optimizer(f"torch.optim.{name}", net, 1e-2)
    for step in range(5):
        ours.step(loss(net, step))
    ours.lr.fill_(3e-3)
    file = io.BytesIO()
    torch.save(encode({"net": net.state_dict(), "optimizer": ours.state_dict()}), file)
    moments = {key: tensor.clone() for key, tensor in ours.moments().items()}
    for step in range(5, 10):
        ours.step(loss(net, step))

    again = network()
    resumed: Any = build_optimizer(f"torch.optim.{name}", again, 1e-2)
    state = decode(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    again.load_state_dict(state["net"])
    resumed.load_state_dict(state["optimizer"])
    assert resumed.lr is resumed.inner.param_groups[0]["lr"]  # a schedule still reaches it
    assert {key: tensor.clone() for key, tensor in resumed.moments().items()}.keys() == moments.keys()
    assert all(torch.equal(resumed.moments()[key], moments[key]) for key in moments)
    for step in range(5, 10):
        resumed.step(loss(again, step))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adam", "rmsprop", "torch-rmsprop"])
def test_ours_go_before_torchs(name: str) -> None:
    assert not isinstance(build_optimizer(name, network(), 1e-2), TorchOptimizer)
    named = "torch.optim." + name.removeprefix("torch-")
    assert isinstance(build_optimizer(named, network(), 1e-2), TorchOptimizer)


def test_what_only_some_optimizers_have_is_offered() -> None:
    sgd: Any = build_optimizer("SGD", network(), 1e-2, None, {"momentum": 0.9}, {"eps": 0.5})
    assert sgd.inner.defaults["momentum"] == 0.9
    nadam: Any = build_optimizer("nadam", network(), 1e-2, None, {}, {"eps": 0.5})
    assert nadam.inner.defaults["eps"] == 0.5
    adam: Any = build_optimizer("adam", network(), 1e-2, None, {"eps": 0.25}, {"eps": 0.5})
    assert adam.eps == 0.25


def test_an_optimizer_that_cannot_have_these_parameters_says_so() -> None:
    with pytest.raises(prl.ProtoRLError, match=r"torch.optim.Muon refuses these parameters: Muon only supports 2D"):
        build_optimizer("muon", network(), 1e-2)
