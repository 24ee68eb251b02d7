"""An accelerated agent answers what the eager one answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.data import ActionSpec, ArraySpec, Batch
from protorl.policies.draws import as_numpy

ACTION = ActionSpec("discrete", (), np.dtype(np.int64), n=5)
VECTOR = ArraySpec((6,), np.dtype(np.float32))
IMAGE = ArraySpec((4, 44, 44), np.dtype(np.uint8))


def agent(parts: Any) -> Any:
    torch.manual_seed(0)
    network = prl.Network(*parts())
    policy = prl.EpsilonGreedy(ACTION, 0.3, rows=range(7))
    return prl.DoubleDQN(network, policy, prl.Adam(network, 1e-2, max_grad_norm=10.0), target_every=3)


def batch(n: int = 7) -> Batch:
    g = torch.Generator().manual_seed(4)
    return Batch(
        {
            "obs": torch.randn(n, 6, generator=g),
            "action": torch.arange(n) % 5,
            "reward": torch.randn(n, generator=g),
            "discount": torch.full((n,), 0.9),
            "next_obs": torch.randn(n, 6, generator=g),
            "weight": torch.ones(n),
        }
    )


FAST: dict[str, Any] = {
    "relu": lambda: (prl.MLP(VECTOR, [32, 16]), prl.QHead(ACTION)),
    "tanh": lambda: (prl.MLP(VECTOR, [32], activation="tanh"), prl.QHead(ACTION)),
    "no hidden layer": lambda: (prl.MLP(VECTOR, []), prl.QHead(ACTION)),
    "hidden layer in the head": lambda: (prl.MLP(VECTOR, [16]), prl.QHead(ACTION, widths=[8])),
    "dueling": lambda: (prl.MLP(VECTOR, [32, 16]), prl.DuelingHead(ACTION)),
    "dueling with streams": lambda: (prl.MLP(VECTOR, [16]), prl.DuelingHead(ACTION, widths=[8], activation="tanh")),
    "quantiles": lambda: (prl.MLP(VECTOR, [16]), prl.QuantileHead(ACTION, 8)),
    "dueling quantiles": lambda: (prl.MLP(VECTOR, [16]), prl.QuantileHead(ACTION, 8, dueling=True, widths=[8])),
    "atoms": lambda: (prl.MLP(VECTOR, [16]), prl.C51Head(ACTION, 11, -3.0, 5.0)),
    "dueling atoms": lambda: (prl.MLP(VECTOR, [16]), prl.C51Head(ACTION, 11, -3.0, 5.0, dueling=True)),
    "dueling on the observation": lambda: (prl.MLP(VECTOR, []), prl.DuelingHead(ACTION, widths=[8])),
}
SLOW: dict[str, Any] = {
    "convolutions": lambda: (prl.NatureCNN(IMAGE, [16]), prl.QHead(ACTION)),
    "noise": lambda: (prl.MLP(VECTOR, [16]), prl.QHead(ACTION, noisy=True)),
    "dueling noise": lambda: (prl.MLP(VECTOR, [16]), prl.DuelingHead(ACTION, noisy=True)),
    "layer norm": lambda: (prl.MLP(VECTOR, [16], layer_norm=True), prl.QHead(ACTION)),
    "another activation": lambda: (prl.MLP(VECTOR, [16], activation="elu"), prl.QHead(ACTION)),
    "noisy distributions": lambda: (prl.MLP(VECTOR, [16]), prl.C51Head(ACTION, 8, noisy=True, dueling=True)),
    "bytes": lambda: (prl.MLP(IMAGE, [4]), prl.QHead(ACTION)),
    "dict of images": lambda: (prl.DictBase({"a": prl.MLP(VECTOR, [4]), "b": prl.NatureCNN(IMAGE, [16])}), prl.QHead(ACTION)),
    "large": lambda: (prl.MLP(VECTOR, [600, 600]), prl.QHead(ACTION)),
}


def obs(n: int = 7, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(n).normal(size=(n, 6)).astype(dtype)


def assert_same(fast: Any, eager: Any, x: Any) -> None:
    for explore in (False, True):
        np.testing.assert_allclose(fast.infer(x, explore).q, eager.infer(x, explore).q, rtol=1e-5, atol=1e-6)
    seen = prl.Seen.start(x, ACTION)
    assert fast.act(seen, explore=False).action.tolist() == eager.act(seen, explore=False).action.tolist()


@pytest.mark.parametrize("kind", FAST)
def test_fast_answers_are_the_eager_ones_and_follow_the_weights(kind: str) -> None:
    eager, fast = agent(FAST[kind]), accelerate(agent(FAST[kind]))
    assert "infer" in vars(fast)
    for n in (1, 7, 64):
        assert_same(fast, eager, obs(n))
    before = fast.infer(obs(), False).q.copy()
    for _ in range(4):  # and one target copy
        eager.update(batch())
        fast.update(batch())
    assert np.abs(fast.infer(obs(), False).q - before).max() > 1e-3
    assert_same(fast, eager, obs())
    seen = prl.Seen.start(obs(), ACTION)
    assert fast.act(seen, explore=True).action.tolist() == eager.act(seen, explore=True).action.tolist()
    other = agent(FAST[kind])
    fast.load_state_dict(other.state_dict())  # written in place, so still seen
    assert_same(fast, other, obs())


def test_many_rows_go_layer_by_layer_and_answer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    one_loop = accelerate(agent(FAST["relu"]))
    monkeypatch.setattr("protorl.networks.numpy_forms.WORTH", 0)
    layers = accelerate(agent(FAST["relu"]))
    assert_same(one_loop, layers, obs())


def test_a_parameter_that_is_no_number_is_seen() -> None:
    fast = accelerate(agent(FAST["relu"]))
    next(fast.network.parameters()).data[0] = float("nan")
    assert np.isnan(fast.infer(obs(), False).q).all()


def test_inputs_are_left_alone_and_outputs_are_new() -> None:
    fast = accelerate(agent(FAST["dueling on the observation"]))
    x = obs()
    kept = x.copy()
    q = fast.infer(x, False).q
    first = q.copy()
    fast.infer(obs() + 1, False)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(q, first)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float16])
def test_any_number_type_is_taken(dtype: Any) -> None:
    eager, fast = agent(FAST["relu"]), accelerate(agent(FAST["relu"]))
    assert_same(fast, eager, (10 * obs()).astype(dtype))


def test_observations_of_any_shape_are_flattened() -> None:
    table = ArraySpec((2, 3), np.dtype(np.float32))
    eager, fast = (agent(lambda: (prl.MLP(table, [8]), prl.QHead(ACTION))) for _ in range(2))
    assert_same(accelerate(fast), eager, obs().reshape(7, 2, 3))


def test_dicts_are_read_by_name() -> None:
    def bases() -> Any:
        return prl.DictBase({"a": prl.MLP(VECTOR, [4]), "b": prl.MLP(VECTOR, [5])}), prl.QHead(ACTION)

    assert_same(accelerate(agent(bases)), agent(bases), {"b": obs(), "a": 1 + obs()})


@pytest.mark.parametrize("kind", SLOW)
def test_everything_else_stays_eager(kind: str) -> None:
    assert "infer" not in vars(accelerate(agent(SLOW[kind])))


def test_eager_changes_nothing() -> None:
    assert "infer" not in vars(accelerate(agent(FAST["relu"]), "eager"))


def test_an_unknown_mode_gets_one_sentence() -> None:
    with pytest.raises(prl.ProtoRLError, match="'turbo'"):
        accelerate(agent(FAST["relu"]), "turbo")


def test_an_accelerated_agent_keeps_its_state() -> None:
    fast = accelerate(agent(FAST["relu"]))
    assert set(fast.state_dict()) == set(agent(FAST["relu"]).state_dict())


BOX = ActionSpec("box", (3,), np.dtype(np.float32))
HEADS: dict[str, Any] = {
    "categorical": lambda: prl.CategoricalHead(ACTION),
    "gaussian": lambda: prl.GaussianHead(BOX, log_std=-0.3),
    "gaussian by state": lambda: prl.GaussianHead(BOX, state_dependent=True, log_std_range=(-0.1, 0.1)),
    "beta": lambda: prl.BetaHead(BOX),
    "deterministic": lambda: prl.DeterministicHead(BOX),
}


class Acting(prl.Agent):
    """As much of an agent as acting needs."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_policies_answer_alike(kind: str, scaled: bool) -> None:
    torch.manual_seed(0)
    base: Any = prl.MLP(VECTOR, [16], activation="tanh")
    scaler = prl.ObsScaler(VECTOR)
    network = prl.Network(prl.ScaledBase(scaler, base) if scaled else base, HEADS[kind]())
    eager, fast = Acting(network), accelerate(Acting(network))
    assert "infer" in vars(fast)
    scaler.count(torch.from_numpy(3 * obs(50) + 1))
    for _ in range(2):
        for one, two in zip(eager.infer(obs(), False), fast.infer(obs(), False)):
            np.testing.assert_allclose(as_numpy(one), two, rtol=1e-5, atol=1e-6)
        scaler.refresh()  # written in place, so seen by both


def test_several_choices_at_once_stay_eager() -> None:
    head = prl.CategoricalHead(ActionSpec("multidiscrete", (2,), np.dtype(np.int64), nvec=(2, 3)))
    assert "infer" not in vars(accelerate(Acting(prl.Network(prl.MLP(VECTOR, [16]), head))))
