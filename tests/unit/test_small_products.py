"""Small convolutions as products over patches, and flat products from the side of the weights: the numbers of torch's own."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import protorl as prl
from protorl.accelerate.faster import Faster
from protorl.accelerate.small import SmallProducts


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    """A forward pass, and the gradients of a sum of squares."""
    out = net(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(net.parameters()))]


def inside(net: nn.Module, x: Tensor) -> list[Tensor]:
    with SmallProducts():
        return gradients(net, x)


@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_small_convolution_is_the_same(stride: int | tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 16, (3, 2), stride, bias=bias), nn.ReLU(), nn.Flatten(), nn.LazyLinear(128)).double()
    x = torch.rand(8, 4, 10, 9).double()
    net(x)  # the lazy layer learns its size
    net, x = net.float(), x.float()
    for plain, ours in zip(gradients(net, x), inside(net, x)):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 32, 64, 65])
def test_few_rows_times_long_rows_of_weights_are_the_same(rows: int) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 3, bias=False))
    x = torch.rand(rows, 1024)
    for plain, ours in zip(gradients(net, x), inside(net, x)):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 128, 129])
def test_narrow_layers_are_the_same_with_columns_side_by_side(rows: int) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 2))
    x = torch.rand(rows, 4)
    for plain, ours in zip(gradients(net, x), inside(net, x)):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)
    with SmallProducts():
        assert (net(x).stride(0) == 1) == (rows <= 128)
        torch.manual_seed(3)
        noise = torch.randn_like(net(x))
    torch.manual_seed(3)
    assert torch.equal(noise, torch.randn_like(net(x)))


def test_it_takes_small_convolutions_only() -> None:
    """MinAtar's convolution is replaced, in both directions; large, padded and grouped ones stay the library's."""

    def operations(net: nn.Module, x: Tensor) -> set[str]:
        def traced(x: Tensor) -> list[Tensor]:
            with SmallProducts():
                return gradients(net, x)

        return {str(node.target) for node in make_fx(traced)(x).graph.nodes if "convolution" in str(node.target)}

    forward, backward = "aten.convolution.default", "aten.convolution_backward.default"
    assert operations(nn.Conv2d(4, 16, 3), torch.rand(2, 4, 10, 10)) == set()
    assert operations(nn.Conv2d(4, 32, 8, 4), torch.rand(2, 4, 84, 84)) == {forward, backward}
    assert operations(nn.Conv2d(4, 16, 3, padding=1), torch.rand(2, 4, 10, 10)) == {forward, backward}
    assert operations(nn.Conv2d(4, 16, 3, groups=2), torch.rand(2, 4, 10, 10)) == {forward, backward}
    two = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    assert operations(two, torch.rand(2, 4, 10, 10)) == {backward}  # the second one's input has a gradient


def test_an_update_on_small_images_is_the_same() -> None:
    """MinAtar's whole update, traced and run as it stands, moves the parameters as the eager one does."""

    def as_it_stands(trace: Any, inputs: list[Tensor], name: str) -> Any:
        assert "convolution" not in trace.graph.code
        return lambda columns: list(trace.graph(*trace.given(columns)))

    parts = prl.recipes.DQN(env="MinAtar/Breakout-v0", warmup_steps=64, capacity=500, seed=3).build()
    while not parts.memory.due():
        parts.memory.add(parts.actors.poll()[0])
    eager, other = parts.agent, copy.deepcopy(parts.agent)
    other.learn = Faster(other, "learn", as_it_stands)
    for _ in range(6):
        batch = parts.memory.sample()
        one, two = eager.update(batch), other.update(batch)
        torch.testing.assert_close(two.priority, one.priority, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two.metrics, one.metrics, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        dict(other.network.named_parameters()), dict(eager.network.named_parameters()), rtol=1e-4, atol=1e-5
    )
