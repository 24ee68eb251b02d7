"""Faster is the same, or it stays as it was and says so: for every kind of agent, in every mode, through training, resuming,
evaluating and loading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.accelerate.ahead_of_time import compiler
from protorl.checkpoint import decode, encode
from tests.contract.test_resume import assert_equal
from tests.metamorphic.family import (
    FAMILY,
    STAY_PLAIN,
    AnnealedNumber,
    BatchNorm,
    Ensemble,
    Noisy,
    OwnBody,
    OwnInfer,
    SpectralNorm,
    TargetsInPlace,
    TensorChangedInLearn,
    Variant,
)

UPDATES = 40


@pytest.fixture(scope="module")
def batches() -> list[prl.Batch]:
    gen = torch.Generator().manual_seed(0)
    made = []
    for _ in range(UPDATES + 20):
        obs, next_obs = torch.randn(2, 32, 4, generator=gen)
        made.append(
            prl.Batch(
                {
                    "obs": obs, "next_obs": next_obs, "action": torch.randint(0, 2, (32,), generator=gen),
                    "reward": torch.rand(32, generator=gen), "discount": torch.full((32,), 0.99),
                    "weight": 0.5 + torch.rand(32, generator=gen),
                }
            )
        )  # fmt: skip
    return made


def made(kind: type[Variant]) -> Variant:
    torch.manual_seed(3)
    return kind()


def trained(agent: Any, batches: list[prl.Batch]) -> Any:
    for i, batch in enumerate(batches, agent.updates):
        torch.manual_seed(100 + i)
        agent.update(batch)
    return agent


def assert_close(one: Any, two: Any, tolerance: float) -> None:
    """The same parameters."""
    for (name, wanted), found in zip(one.network.state_dict().items(), two.network.state_dict().values()):
        scale = float(wanted.abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(
            found, wanted, rtol=tolerance, atol=tolerance * max(scale, 1e-2), msg=lambda m, n=name: f"{n}: {m}"
        )


def act(agent: Any) -> Any:
    obs = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    return agent.infer(obs, False).q, agent.policy.mode(agent.infer(obs, False))


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_a_graph_is_the_plain_method_or_leaves_it(
    kind: type[Variant], batches: list[prl.Batch], interpreted: None, caplog: pytest.LogCaptureFixture
) -> None:
    """And both go on bit for bit from what they saved."""
    before, after = batches[:UPDATES], batches[UPDATES:]
    with caplog.at_level("INFO", logger="protorl"):
        agents = {mode: trained(accelerate(made(kind), mode), before) for mode in ("eager", "aot")}
    assert_close(agents["eager"], agents["aot"], 1e-4)
    assert agents["aot"].settled["learn"]["plain"] == (kind in STAY_PLAIN), caplog.text
    assert ("learn stays eager: it" in caplog.text) == (kind in STAY_PLAIN)
    (q, best), (fast_q, fast_best) = map(act, agents.values())
    torch.testing.assert_close(torch.as_tensor(fast_q), torch.as_tensor(q), rtol=1e-4, atol=1e-4)
    assert np.array_equal(best, fast_best)
    for mode, agent in agents.items():
        again = made(kind)
        with torch.no_grad():
            for p in again.network.parameters():
                p.zero_()
        again.load_state_dict(decode(encode(agent.state_dict())))
        assert_equal(trained(agent, after).state_dict(), trained(accelerate(again, mode), after).state_dict())
        torch.testing.assert_close(torch.as_tensor(act(agent)[0]), torch.as_tensor(act(again)[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_a_loaded_agent_acts_as_the_one_that_was_saved(
    kind: type[Variant], batches: list[prl.Batch], caplog: pytest.LogCaptureFixture
) -> None:
    agent, loaded = trained(made(kind), batches[:12]), made(kind)
    with caplog.at_level("INFO", logger="protorl"):
        loaded.load_state_dict(decode(encode(agent.state_dict())))
        accelerate(loaded)  # as `load` and `protorl eval` do
        (q, best), (fast_q, fast_best) = act(agent), act(loaded)
    torch.testing.assert_close(torch.as_tensor(fast_q), torch.as_tensor(q), rtol=1e-4, atol=1e-5)
    assert np.array_equal(best, fast_best)
    assert ("acting stays eager" in caplog.text) == (kind is OwnInfer)


@pytest.mark.parametrize("kind", [TargetsInPlace, Ensemble, OwnBody, Noisy, AnnealedNumber], ids=lambda kind: kind.__name__)
def test_bf16_is_that_of_the_plain_method(kind: type[Variant], batches: list[prl.Batch], interpreted: None) -> None:
    plain = trained(accelerate(made(kind), "eager", "bf16"), batches[:12])
    assert_close(plain, trained(accelerate(made(kind), "aot", "bf16"), batches[:12]), 2e-2)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to compile with")
@pytest.mark.parametrize(
    "kind", [TargetsInPlace, Ensemble, TensorChangedInLearn, SpectralNorm, BatchNorm, Noisy], ids=lambda kind: kind.__name__
)
def test_compiled_it_is_the_plain_method_too(
    kind: type[Variant], batches: list[prl.Batch], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    plain, fast = (trained(accelerate(made(kind), mode), batches) for mode in ("eager", "aot"))
    assert not fast.settled["learn"]["plain"]
    assert_close(plain, fast, 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_recorded_it_is_the_plain_method_or_leaves_it(kind: type[Variant], batches: list[prl.Batch]) -> None:
    there = [prl.Batch({name: column.cuda() for name, column in batch.columns.items()}) for batch in batches]
    with torch.device("cuda"):
        plain, fast = (trained(accelerate(made(kind), mode), there) for mode in ("eager", "cudagraphs"))
    assert_close(plain, fast, 1e-3)
    assert fast.settled["learn"]["plain"] or kind not in STAY_PLAIN
