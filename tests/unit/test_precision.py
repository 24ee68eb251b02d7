"""Products in bfloat16: what is rounded, what is not, and how far results move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import protorl as prl
import protorl.accelerate
from protorl.accelerate import MODES, TIMED, accelerate, choose
from protorl.accelerate.precision import BFloat16Products
from protorl.networks import FlatParameters
from tests.contract.test_resume import make


def rounded(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).float()


@pytest.mark.parametrize("transposed", [False, True])
def test_large_products_have_rounded_factors_and_float32_results(transposed: bool) -> None:
    a, b = torch.randn(128, 96), torch.randn(256, 96).T if transposed else torch.randn(96, 256)
    with BFloat16Products():
        c = a @ b
    assert c.dtype == torch.float32
    exact = rounded(a) @ rounded(b)
    torch.testing.assert_close(c, exact, rtol=2**-8, atol=2**-7)
    assert not torch.equal(c, a @ b)


def test_biases_are_added_in_float32() -> None:
    a, w, bias = torch.zeros(128, 128), torch.zeros(128, 128), torch.full((128,), 1.0 + 2**-20)
    with BFloat16Products():
        y = nn.functional.linear(a, w, bias)
    assert torch.equal(y, bias.expand(128, 128))


def test_small_products_and_narrow_layers_are_untouched() -> None:
    for shape in ((8, 8, 8), (4096, 512, 1), (64, 64, 64)):
        a, b = torch.randn(shape[0], shape[1]), torch.randn(shape[1], shape[2])
        with BFloat16Products():
            assert torch.equal(a @ b, (a.double() @ b.double()).float()) or torch.allclose(a @ b, a.mm(b), rtol=0, atol=0)


def test_gradients_come_back_in_float32_and_point_the_same_way() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))
    x = torch.randn(256, 64)

    def gradient() -> Tensor:
        found = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
        assert all(g.dtype == torch.float32 for g in found)
        return torch.cat([g.flatten() for g in found])

    exact = gradient()
    with BFloat16Products():
        near = gradient()
    assert not torch.equal(exact, near)
    assert torch.nn.functional.cosine_similarity(exact, near, dim=0) > 0.9995
    assert 0.98 < near.norm() / exact.norm() < 1.02


def test_convolutions_are_rounded_too() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 32, 8, 4), torch.rand(8, 4, 84, 84)
    with BFloat16Products():
        y = conv(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, conv(x), rtol=0.02, atol=0.02)
    assert not torch.equal(y, conv(x))


def test_a_weight_that_changes_is_rounded_anew() -> None:
    w, x = torch.randn(128, 128), torch.randn(128, 128)
    with BFloat16Products():
        before = x @ w
        w.mul_(2.0)
        after = x @ w
    assert torch.equal(after, 2 * before)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_parameter_of_a_flat_buffer_is_rounded_anew(transposed: bool) -> None:
    layer, x = nn.Linear(128, 128, bias=False), torch.randn(128, 128)
    flat = FlatParameters(layer)
    weight = layer.weight.T if transposed else layer.weight
    with BFloat16Products(), torch.no_grad():
        before = x @ weight
        flat.buffer.mul_(2.0)
        after = x @ weight
    assert torch.equal(after, 2 * before)


def test_an_update_in_bf16_is_near_the_exact_one() -> None:
    def one(precision: str, lr: float = 3e-4) -> Any:
        parts = make("sac", lr=lr, widths=(256, 256), batch_size=256, capacity=1000, warmup_steps=10, eval_every=0).build()
        for _ in range(300):
            parts.memory.add(parts.actors.poll()[0])
        agent = accelerate(parts.agent, "eager", precision)
        torch.manual_seed(0)
        return agent, agent.update(parts.memory.sample())

    (_, a), (near, b) = one("float32", 0.1), one("bf16", 0.1)  # a critic that moves: the actor climbs the new one
    torch.testing.assert_close(b.metrics["actor_loss"], a.metrics["actor_loss"], rtol=0.05, atol=0.05)
    (_, a), (near, b) = one("float32"), one("bf16")
    assert not torch.equal(a.priority, b.priority)
    torch.testing.assert_close(b.priority, a.priority, rtol=0.02, atol=0.02)
    torch.testing.assert_close(b.metrics["loss"], a.metrics["loss"], rtol=0.02, atol=1e-3)
    for p in near.network.parameters():
        assert p.dtype == torch.float32


def test_auto_is_decided_from_the_time_that_updates_take(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make("dqn").build().agent
    assert choose(agent, 0.53, 20_000)[0] == "aot"  # few, but long
    assert choose(agent, 2e-4, 110_000)[0] == "numpy"  # many, but short
    assert choose(agent, 1e-3, 100_000) == ("aot", "100,000 updates of 1 ms: it saves some 50 s and costs 40")
    monkeypatch.setattr("protorl.accelerate.compiler", lambda: False)
    mode, why = choose(agent, 0.53, 20_000)
    assert mode == "numpy"
    assert "no C++ compiler" in why


def test_auto_records_on_a_gpu_what_is_long_enough() -> None:
    agent = SimpleNamespace(device=torch.device("cuda"))
    assert [choose(agent, 5e-3, updates)[0] for updates in (9_000, 11_000)] == ["numpy", "cudagraphs"]
    assert choose(SimpleNamespace(device=torch.device("mps")), 1.0, 10**6) == ("numpy", "nothing faster is known for mps")


@pytest.mark.parametrize("seconds", [1e-4, 10.0])
def test_auto_times_the_first_updates_and_keeps_what_it_decided(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is ours; what is decided goes into the state, so that a resumed run goes on as it was."""
    clock = iter(np.arange(100) * seconds)
    monkeypatch.setattr("protorl.accelerate.time.perf_counter", lambda: float(next(clock)))
    bound: list[str] = []
    monkeypatch.setitem(protorl.accelerate.BACKENDS, "aot", lambda trace, inputs, name: bound.append(name) or trace)
    monkeypatch.setattr("protorl.accelerate.compiler", lambda: "g++")
    parts = make("dqn").build()
    while not parts.memory.due():
        parts.memory.add(parts.actors.poll()[0])
    agent = accelerate(parts.agent, "auto", updates=1_000)
    for _ in range(TIMED):
        assert "learn" not in vars(agent)
        agent.update(parts.memory.sample())
    assert agent.settled["mode"] == ("aot" if seconds > 1 else "numpy")
    assert "update" not in vars(agent)
    again = make("dqn").build().agent
    again.load_state_dict(agent.state_dict())
    accelerate(again, "auto", updates=900)
    assert ("learn" in vars(again)) == ("learn" in vars(agent)) == (seconds > 1)


def test_updates_expected_are_updates_made() -> None:
    for start, every, updates, steps in ((100, 4, 1, 1000), (0, 256, 128, 1000), (10, 7, 3, 9), (10, 1, 2, 500)):
        rate = prl.Rate(start, every, updates)
        expected = rate.expected(steps)
        made = 0
        for _ in range(steps):
            rate.count(1)
            made += rate.take()
        assert expected == made


def test_modes_that_cannot_be_say_so() -> None:
    agent = make("dqn").build().agent
    with pytest.raises(prl.ProtoRLError, match="needs a GPU, but the networks are on cpu"):
        accelerate(agent, "cudagraphs")
    with pytest.raises(prl.ProtoRLError, match="precision 'fp8' is unknown: use one of float32, bf16"):
        accelerate(agent, "eager", "fp8")
    assert set(MODES) == {"auto", "eager", "compiled", "aot", "cudagraphs"}
