"""Cores: one step and an unroll are one function, resets forget, and what is carried, seen and stored is what it says."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.accelerate.acting import graph_of_acting
from protorl.data import Seen, tree_map
from protorl.networks import Answer, Asked, GRUCarry, LSTMCarry, clone, unroll
from protorl.policies import Categorical

SPEC = prl.make_vec_envs("CartPole-v1", 3).spec
CORES = {"lstm": (prl.LSTM, LSTMCarry, torch.nn.LSTM), "gru": (prl.GRU, GRUCarry, torch.nn.GRU)}
T, B = 9, 3
every_core = pytest.mark.parametrize("kind", CORES)


def network(kind: str, size: int = 12) -> prl.Network:
    torch.manual_seed(3)
    inputs = [prl.LastAction(SPEC.action), prl.LastReward()]
    return prl.Network(prl.MLP(SPEC.obs, [16]), prl.DuelingHead(SPEC.action), CORES[kind][0](size, inputs))


def seen(first: float = 0.3) -> Seen:
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(T, B, 5, generator=generator)
    starts = torch.rand(T, B, generator=generator) < first
    return Seen(numbers[..., :4], starts, torch.randint(2, (T, B), generator=generator), numbers[..., 4])


def carried(kind: str, size: int = 12) -> Any:
    generator = torch.Generator().manual_seed(7)
    carry = CORES[kind][1]
    return carry(*[torch.randn(B, size, generator=generator) for _ in carry._fields])


@every_core
def test_a_step_an_unroll_and_numpy_are_one_function(kind: str) -> None:
    net, given, carry = network(kind), seen(), carried(kind)
    form = net.in_numpy()
    out, last = net(given, carry)
    assert out.q.shape == (T, B, 2)
    array = tree_map(torch.Tensor.numpy, carry)
    for t in range(T):
        row = Seen(*[column[t] for column in given[:4]])
        answer = net(row, carry)
        assert type(answer) is Answer
        carry = answer.carry
        torch.testing.assert_close(answer.out.q, out.q[t], atol=1e-6, rtol=1e-5)
        fast = form(Asked(tree_map(torch.Tensor.numpy, row), array))
        array = fast.carry
        np.testing.assert_allclose(fast.out.q, out.q[t].detach().numpy(), atol=1e-5)
    for mine, theirs, arrays in zip(carry, last, array, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
        np.testing.assert_allclose(arrays, theirs.detach().numpy(), atol=1e-5)


@every_core
def test_the_cell_is_torchs(kind: str) -> None:
    core = CORES[kind][0](8)
    core.build(5)
    theirs = CORES[kind][2](5, 8)
    theirs.load_state_dict({f"{name}_l0": tensor for name, tensor in core.cell.state_dict().items()})
    x, carry = torch.randn(T, B, 5), carried(kind, 8)
    start = tuple(part.unsqueeze(0) for part in carry)
    y, last = core.unroll(x, torch.zeros(T, B, dtype=torch.bool), carry)
    wanted, after = theirs(x, start if len(start) > 1 else start[0])
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(last[0], (after[0] if len(start) > 1 else after)[0])


@every_core
@pytest.mark.parametrize("span", [2, 30, None])
def test_what_is_in_a_core_lasts_as_long_as_its_span_says(kind: str, span: int | None) -> None:
    """Without inputs and products, a step keeps the share T / (T + 1) of what was carried."""
    torch.manual_seed(2)
    core = CORES[kind][0](400, span=span)
    core.build(1)
    for weight in (core.cell.weight_ih, core.cell.weight_hh):
        weight.data.zero_()
    nothing, no_start = torch.zeros(1, B, 1), torch.zeros(1, B, dtype=torch.bool)
    carry = carried(kind, 400)
    (_, after), (_, without) = (core.unroll(nothing, no_start, c) for c in (carry, tree_map(torch.zeros_like, carry)))
    kept = ((after[-1] - without[-1]) / carry[-1])[0].detach()
    lasts = kept / (1 - kept)
    if span is None:
        assert lasts.log().mean() == pytest.approx(1.0 if kind == "lstm" else 0.0, abs=0.02)
        return
    assert lasts.min() > 0.999
    assert lasts.max() < span - 1 + 0.01
    assert lasts.mean() == pytest.approx(span / 2, rel=0.05)
    if kind == "lstm":
        i, f, _, _ = (core.cell.bias_ih + core.cell.bias_hh).chunk(4)
        torch.testing.assert_close(i, -f)


@every_core
def test_what_comes_after_a_start_is_a_fresh_unroll_and_what_came_before_gets_no_gradient(kind: str) -> None:
    net, given, carry = network(kind), seen(0.0), carried(kind)
    given.first[3, 1] = True
    given.obs.requires_grad_()
    out, _ = net(given, carry)
    fresh = Seen(*[column[3:] for column in given[:4]])
    alone, _ = net(fresh, tree_map(torch.zeros_like, carry))
    torch.testing.assert_close(out.q[3:, 1], alone.q[:, 1])
    assert not torch.allclose(out.q[3:, 0], alone.q[:, 0])  # whose episode goes on
    (gradient,) = torch.autograd.grad(out.q[3:].sum(), given.obs)
    assert not gradient[:3, 1].any()
    assert gradient[0, 0].any()


def test_what_a_core_sees_of_the_step_before() -> None:
    action = torch.tensor([[1, 2], [0, 1]])
    given = Seen(None, torch.tensor([[False, True], [False, False]]), action, torch.tensor([[0.5, 7.0], [-1.0, 2.0]]))
    three = prl.ActionSpec("discrete", (), np.dtype(np.int64), n=3)
    hot = prl.LastAction(three)
    assert hot.features == 3
    wanted = [[[0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0]]]  # none at a start
    assert hot(given).tolist() == wanted
    assert prl.LastReward()(given).tolist() == [[[0.5], [7.0]], [[-1.0], [2.0]]]
    several = prl.LastAction(prl.ActionSpec("multidiscrete", (2,), np.dtype(np.int64), nvec=(2, 3)))
    both = Seen(None, torch.tensor([False, False, True]), torch.tensor([[1, 2], [0, 0], [1, 1]]), torch.zeros(3))
    assert several(both).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(several.in_numpy()(tree_map(torch.Tensor.numpy, both)), several(both).numpy())
    box = prl.LastAction(prl.ActionSpec("box", (2,), np.dtype(np.float32)))
    numbers = Seen(None, torch.tensor([False, True]), torch.tensor([[0.5, -1.0], [0.25, 0.25]]), torch.zeros(2))
    assert box(numbers).tolist() == [[0.5, -1.0], [0.0, 0.0]]
    np.testing.assert_array_equal(box.in_numpy()(tree_map(torch.Tensor.numpy, numbers)), box(numbers).numpy())


@every_core
def test_an_agent_carries_from_step_to_step_and_stores_what_it_carried_before(kind: str) -> None:
    agent, env = dqn(kind), prl.make_vec_envs("CartPole-v1", 3, seed=1)
    columns = agent.columns(SPEC).extras
    assert {name: (field.shape, field.starts) for name, field in columns.items()} == {
        f"carry_{name}": ((12,), True) for name in CORES[kind][1]._fields
    }
    actors = prl.LocalActors(agent, env)
    twin = clone(agent.network)
    carry: Any = None
    for _ in range(60):
        given, before = env.seen, actors.carry
        (chunk,) = actors.poll()
        start = given.first[:, None]
        for stored, part in zip((chunk.extras[f"carry_{name}"][0] for name in CORES[kind][1]._fields), before, strict=True):
            np.testing.assert_array_equal(stored, np.where(start, 0, part))
        rows = tree_map(torch.as_tensor, Seen(*given[:4]))
        carry = tree_map(torch.as_tensor, before) if carry is None else carry
        _, carry = twin(rows, carry)
        for mine, theirs in zip(actors.carry, carry, strict=True):
            np.testing.assert_allclose(mine, theirs.detach().numpy(), atol=1e-5)
    assert len(actors.episodes()) >= 3


def dqn(kind: str) -> prl.DQN:
    net = network(kind)
    return prl.DQN(net, prl.EpsilonGreedy(SPEC.action, 0.5, rows=range(3)), prl.Adam(net, 1e-3))


@pytest.mark.parametrize("shared", [False, True], ids=["q", "actor-critic"])
@every_core
def test_acting_bound_for_speed_is_the_same(kind: str, shared: bool) -> None:
    def agent() -> Any:
        plain = dqn(kind)
        if shared:
            body = network(kind)
            actor = prl.Network(body.base, prl.CategoricalHead(SPEC.action), CORES[kind][0](12))
            critic = prl.Network(body.base, prl.ValueHead())
            with pytest.raises(prl.ProtoRLError, match="share what remembers"):
                prl.ActorCritic(actor, critic)
            critic = prl.Network(body.base, prl.ValueHead(), actor.core)
            plain.network, plain.policy = prl.ActorCritic(actor, critic), Categorical(SPEC.action, rows=range(3))
        return plain

    plain, fast = agent(), accelerate(agent())
    assert "infer" in vars(fast)
    env = prl.make_vec_envs("CartPole-v1", 3, seed=1)
    env.reset(0)
    one, two = plain.initial_carry(3), fast.initial_carry(3)
    for _ in range(120):
        mine, theirs = plain.recall(env.seen, one, True), fast.recall(env.seen, two, True)
        for a, b in zip(torch.utils._pytree.tree_leaves(mine), torch.utils._pytree.tree_leaves(theirs), strict=True):
            np.testing.assert_allclose(torch.as_tensor(a).numpy(), torch.as_tensor(b).numpy(), atol=1e-5)
        one, two = mine[1], theirs[1]
        env.step(np.array([0, 1, 0]))
    assert "infer" in vars(fast)


@every_core
def test_acting_as_one_graph_is_the_same(kind: str) -> None:
    """As large cores act: traced, with all that is seen and carried as inputs; here without a compiler."""

    def run(made: Any, inputs: list[torch.Tensor], name: str) -> Any:
        return lambda tensors: made.graph(*made.given(tensors))

    agent = dqn(kind)
    answer = graph_of_acting(agent, run, nullcontext)
    env = prl.make_vec_envs("CartPole-v1", 3, seed=1)
    env.reset(0)
    carry = agent.initial_carry(3)
    for _ in range(20):
        asked = agent.core.asked(env.seen, carry)
        assert answer(asked, False) is None  # evaluations stay plain
        out, after = agent.core.told(answer(asked, True), carry)
        wanted, carry = agent.recall(env.seen, carry, True)
        torch.testing.assert_close(out.q, wanted.q)
        assert type(after) is type(carry)
        for mine, theirs in zip(after, carry, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
        env.step(np.array([0, 1, 0]))


def test_networks_with_a_core_from_a_config() -> None:
    net = prl.build_network(SPEC, {"core": {"type": "gru", "size": 5, "inputs": ["reward"]}})
    assert (type(net.core), net.core.size, [type(part) for part in net.core.inputs]) == (prl.GRU, 5, [prl.LastReward])
    assert net.core.cell.input_size == 256 + 1
    wrong: list[tuple[Any, str]] = [
        ("lsmt", "unknown core 'lsmt': did you mean 'lstm'"),
        ({"type": "lstm", "inputs": ["rewards"]}, "unknown input of a core 'rewards': did you mean 'reward'"),
        ({"type": "lstm", "size": 0}, "core_size 0 is too small"),
        ({"type": "lstm", "span": 1}, "core_span 1 is too short"),
        ({"type": "lstm", "width": 3}, "unknown argument of 'lstm' 'width'"),
    ]
    for config, sentence in wrong:
        with pytest.raises(prl.ProtoRLError, match=sentence):
            prl.build_network(SPEC, {"core": config})
    with pytest.raises(prl.ProtoRLError, match="this GRU belongs to a network already, and reads 257 features where this one"):
        prl.Network(prl.MLP(SPEC.obs, [64]), prl.QHead(SPEC.action), net.core)


def test_a_network_without_a_core_unrolls_too() -> None:
    net, given = prl.Network(prl.MLP(SPEC.obs, [16]), prl.QHead(SPEC.action)), seen()
    out, carry = unroll(net, given, ())
    assert carry == ()
    torch.testing.assert_close(out.q, net(given.obs).q)
