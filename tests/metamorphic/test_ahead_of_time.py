"""The compiled update against the eager one, its cache, and exact resume with it."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import protorl as prl
import protorl.accelerate.ahead_of_time  # the module: its function has the same name
from protorl.accelerate import accelerate
from protorl.accelerate.acting import FasterActing
from protorl.accelerate.faster import Faster
from protorl.accelerate.graph import Unfit, trace
from protorl.recipes.start import start
from tests.contract.test_resume import assert_equal, final_state, make, train_with_kills
from tests.metamorphic.family import FrozenRandom

ahead_of_time: Any = sys.modules["protorl.accelerate.ahead_of_time"]
pytestmark = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler to compile with")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
def test_compiled_equals_eager_is_cached_and_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make("double-dqn", per_alpha=0.6, eval_every=0, accelerate="aot")
    parts = recipe.build()
    for _ in range(100):
        parts.memory.add(parts.actors.poll()[0])
    compiled = copy.deepcopy(parts.agent)
    accelerate(compiled, "aot")
    for _ in range(30):
        batch = parts.memory.sample()
        one, two = parts.agent.update(batch), compiled.update(batch)
        torch.testing.assert_close(one.priority, two.priority, rtol=1e-4, atol=1e-5)
        assert one.metrics.keys() == two.metrics.keys()
        torch.testing.assert_close(one.metrics["loss"], two.metrics["loss"], rtol=1e-4, atol=1e-6)
    assert compiled.learn.run is not None
    torch.testing.assert_close(parts.agent.online_parameters.buffer, compiled.online_parameters.buffer, rtol=1e-4, atol=1e-5)
    assert torch.equal(compiled.online_parameters.buffer, torch.cat([compiled.optimizer.flat.buffer]))
    assert compiled.optimizer.updates == 30
    smaller = prl.Batch({name: column[:5] for name, column in batch.columns.items()})
    assert compiled.learn(smaller).priority.shape == (5,)

    def refuse(*_: Any) -> None:
        raise AssertionError("compiled again instead of loading the package")

    monkeypatch.setattr("protorl.accelerate.ahead_of_time.compile_package", refuse)
    start(recipe, tmp_path / "whole", progress=False)
    train_with_kills(recipe, tmp_path / "killed", [300, 217], monkeypatch)
    assert_equal(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))


def both(agent: Any, compiled: Any, memory: Any) -> Iterator[tuple[prl.Update, prl.Update]]:
    """Twelve updates of each, from the same batches and with the same random numbers."""
    for i in range(12):
        batch = memory.sample()
        torch.manual_seed(i)
        one = agent.update(batch)
        torch.manual_seed(i)
        yield one, compiled.update(batch)


@pytest.mark.slow
def test_several_methods_and_optimizers_over_parts_of_one_network() -> None:
    recipe = prl.recipes.TD3(
        env="Pendulum-v1", steps=1000, widths=(8,), batch_size=16, capacity=1000, warmup_steps=10, eval_every=0
    )
    parts = recipe.build()
    for _ in range(60):
        parts.memory.add(parts.actors.poll()[0])
    agent, compiled = parts.agent, accelerate(copy.deepcopy(parts.agent), "aot")
    for one, two in both(agent, compiled, parts.memory):
        torch.testing.assert_close(one.priority, two.priority, rtol=1e-4, atol=1e-5)
        assert one.metrics.keys() == two.metrics.keys()
    assert compiled.learn.run is not None
    assert compiled.improve.run is not None
    for name in ("network", "target"):
        ours, theirs = getattr(agent, name).state_dict(), getattr(compiled, name).state_dict()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_recurrent_learner_is_one_graph_whatever_the_length_of_its_sequences() -> None:
    """The LSTM is one node. Batches of another size, of which there are as many steps in time, are not for the graph."""
    numbers = {"num_envs": 4, "rollout_steps": 32, "batch_size": 96, "epochs": 12}
    parts = make("ppo", **numbers, core="lstm", core_size=8, normalise_obs=True, eval_every=0).build()
    while not parts.memory.due():
        for chunk in parts.actors.poll():
            parts.memory.add(chunk)
    agent, compiled = parts.agent, accelerate(copy.deepcopy(parts.agent), "aot")
    sizes = set()
    for _ in range(24):
        batch = parts.memory.sample()
        sizes.add(tuple(batch.weight.shape))
        one, two = agent.learn(batch), compiled.learn(batch)
        torch.testing.assert_close(one.metrics, two.metrics, rtol=1e-3, atol=1e-4)
    assert sizes == {(32, 2)}
    assert compiled.learn.run is not None
    assert compiled.learn.trace.graph.code.count("torch.ops.protorl.lstm.default") == 1
    assert len(compiled.learn.trace.graph.graph.nodes) < 400
    smaller = batch.replace(**{name: column[:, :1] for name, column in batch.columns.items() if not name.startswith("carry")})
    smaller = smaller.replace(carry_h=batch.carry_h[:1], carry_c=batch.carry_c[:1])
    assert compiled.learn(smaller).priority.shape == (32, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [("iqn", {}), ("rainbow", {}), ("r2d2", {"sequence_length": 2, "burn_in": 1, "period": 2, "n_step": 1})],
)  # the second draws its layers' noise in `learn`; the third has a batch of trees
def test_distributions_and_sequences_compile_too(name: str, fields: dict[str, Any]) -> None:
    parts = make(name, per_alpha=0.6, anneal=True, eval_every=0, first_priority="largest", **fields).build()
    for _ in range(60):
        parts.memory.add(parts.actors.poll()[0])
    agent, compiled = parts.agent, accelerate(copy.deepcopy(parts.agent), "aot")
    for one, two in both(agent, compiled, parts.memory):
        torch.testing.assert_close(one.priority, two.priority, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.metrics, two.metrics, rtol=1e-4, atol=1e-5)
    assert compiled.learn.run is not None
    torch.testing.assert_close(agent.online_parameters.buffer, compiled.online_parameters.buffer, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_schedules_and_buffers_are_read_anew() -> None:
    """PPO's learning rate, its clip and its observation scaler change between calls of one compiled update."""
    recipe = prl.recipes.PPO(
        env="Pendulum-v1", steps=640, num_envs=2, rollout_steps=16, batch_size=32, epochs=2, widths=(8,), anneal=True,
        anneal_clip=True, normalise_obs=True, eval_every=0,
    )  # fmt: skip
    eager, compiled = recipe.build(), recipe.build()
    accelerate(compiled.agent, "aot")
    for parts in (eager, compiled):
        prl.train(parts.agent, parts.memory, parts.actors, steps=640)
    assert compiled.agent.learn.run is not None
    torch.testing.assert_close(
        dict(eager.agent.network.named_parameters()), dict(compiled.agent.network.named_parameters()), rtol=1e-2, atol=1e-3
    )


@pytest.mark.slow
def test_random_numbers_are_drawn_outside_and_resuming_repeats_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make("dqn", noisy=True, eval_every=0, accelerate="aot")
    with caplog.at_level("INFO", logger="protorl"):
        start(recipe, tmp_path / "whole", progress=False)
    assert "stays eager" not in caplog.text
    train_with_kills(recipe, tmp_path / "killed", [300, 217], monkeypatch)
    assert_equal(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))


@pytest.mark.parametrize("trouble", ["a full disk", "no folder"])
def test_a_cache_that_refuses_stays_eager_for_now(
    trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    if trouble == "a full disk":
        monkeypatch.setattr("torch._inductor.aoti_compile_and_package", full)
    else:
        cache.write_text("no folder can be made in here")
    parts = make("dqn").build()
    for _ in range(40):
        parts.memory.add(parts.actors.poll()[0])
    agent = accelerate(parts.agent, "aot")
    with caplog.at_level("INFO", logger="protorl"):
        for _ in range(5):
            assert torch.isfinite(agent.update(parts.memory.sample()).priority).all()
    assert "learn stays eager: the compiled package cannot be kept ([Errno" in caplog.text
    assert not cache.is_dir() or {path.suffix for path in (cache / "protorl").iterdir()} <= {".lock"}


def test_other_randomness_stays_eager_and_tracing_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    parts = make("dqn").build()
    for _ in range(40):
        parts.memory.add(parts.actors.poll()[0])
    agent: Any = parts.agent
    plain = agent.loss_and_priority

    def chance(batch: prl.Batch) -> Any:
        losses, priority = plain(batch)
        return losses * torch.bernoulli(torch.full_like(losses, 0.5)), priority

    agent.loss_and_priority = chance
    accelerate(agent, "aot")
    batch = parts.memory.sample()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with caplog.at_level("INFO", logger="protorl"), pytest.raises(Unfit, match="draws random numbers"):
        agent.learn.traced(batch)
    assert torch.equal(state, torch.get_rng_state())
    with caplog.at_level("INFO", logger="protorl"):
        agent.update(batch)
    assert isinstance(agent.learn, Faster)
    assert agent.settled["learn"]["plain"]
    assert "learn stays eager: it draws random numbers" in caplog.text


def test_without_a_compiler_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    agent = make("dqn").build().agent
    with pytest.raises(prl.ProtoRLError, match=r"needs a C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        accelerate(agent, "aot")


def test_what_does_not_load_stays_eager_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def torn(exported: Any, package_path: str) -> str:
        calls.append(package_path)
        Path(package_path).write_bytes(b"no package")
        return package_path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", torn)
    parts = make("dqn").build()
    for _ in range(40):
        parts.memory.add(parts.actors.poll()[0])
    for _ in range(2):
        agent = accelerate(copy.deepcopy(parts.agent), "aot")
        with caplog.at_level("INFO", logger="protorl"):
            for _ in range(5):
                assert torch.isfinite(agent.update(parts.memory.sample()).priority).all()
        assert "learn stays eager" in caplog.text
        assert "it does not load" in caplog.text
        assert "learn" not in vars(agent)
        caplog.clear()
    assert len(calls) == 1
    assert {path.suffix for path in (tmp_path / "protorl").iterdir()} == {".refused", ".lock"}


@pytest.mark.slow
def test_acting_on_images_compiles_and_follows_the_weights() -> None:
    from tests.metamorphic.test_accelerate import ACTION, IMAGE

    torch.manual_seed(0)
    network = prl.Network(prl.NatureCNN(IMAGE, [16]), prl.DuelingHead(ACTION))
    eager = prl.DoubleDQN(network, prl.EpsilonGreedy(ACTION, 0.3, rows=range(3)), prl.Adam(network, 1e-2))
    fast = accelerate(copy.deepcopy(eager), "aot")
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 44, 44), np.uint8)
    for _ in range(2):
        np.testing.assert_allclose(fast.infer(images, True).q, eager.infer(images, True).q, rtol=1e-4, atol=1e-5)
        for agent in (eager, fast):
            agent.online_parameters.buffer.mul_(1.5)
    assert isinstance(fast.infer, FasterActing)
    assert fast.infer.calls == 2
    assert type(fast.infer(images, True)).__name__ == "QOut"
    np.testing.assert_allclose(fast.infer(images[:2], False).q, eager.infer(images[:2], False).q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_acting_and_learning_of_networks_that_share_a_base(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and run as a graph, but not compiled: what matters is that tracing one leaves the other's parameters in place."""
    monkeypatch.setattr("protorl.accelerate.ahead_of_time.package_of", lambda graph, *_: lambda tensors: graph(*tensors))
    parts = make("ppo", num_envs=2, rollout_steps=4, batch_size=4, share_base=True, activation="elu", eval_every=0).build()
    agent = accelerate(parts.agent, "aot", precision)
    before = [id(p) for p in agent.network.parameters()]
    prl.train(agent, parts.memory, parts.actors, steps=32)
    assert isinstance(agent.infer, FasterActing)
    assert agent.learn.run is not None
    assert [id(p) for p in agent.network.parameters()] == before
    with torch.no_grad():
        out = agent.network(torch.from_numpy(parts.actors.env.obs))
    fast = agent.infer(parts.actors.env.obs, True)
    torch.testing.assert_close(fast.value, out.value, rtol=0.02, atol=0.02)
    torch.testing.assert_close(fast.policy.logits, out.policy.logits, rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_learning_from_images_in_bf16_compiles_to_what_eager_gives() -> None:
    recipe = make(
        "d3qn", env="ALE/Pong-v5", backend="sync", num_envs=1, batch_size=32, capacity=100, optimizer="adam", lr=1e-4,
        optimizer_eps=1e-4, eval_every=0,
    )  # fmt: skip
    parts = recipe.build()
    for _ in range(60):
        parts.memory.add(parts.actors.poll()[0])
    exact, compiled = (copy.deepcopy(parts.agent) for _ in range(2))
    agent = accelerate(parts.agent, "eager", "bf16")
    accelerate(compiled, "aot", "bf16")
    for one, two in both(agent, compiled, parts.memory):
        torch.testing.assert_close(one.priority, two.priority, rtol=0.02, atol=2e-3)
    assert compiled.learn.run is not None
    batch = parts.memory.sample()
    moved = [a.online_parameters.buffer - exact.online_parameters.buffer for a in (agent, compiled)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.98
    assert not torch.equal(
        exact.update(batch).priority, accelerate(copy.deepcopy(exact), "eager", "bf16").update(batch).priority
    )


@pytest.mark.slow
def test_compiled_in_this_process_equals_eager() -> None:
    parts = make("dqn", widths=(8,), eval_every=0).build()
    for _ in range(60):
        parts.memory.add(parts.actors.poll()[0])
    agent, compiled = parts.agent, accelerate(copy.deepcopy(parts.agent), "compiled")
    for _ in range(8):
        batch = parts.memory.sample()
        one, two = agent.update(batch), compiled.update(batch)
        torch.testing.assert_close(one.priority, two.priority, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.metrics, two.metrics, rtol=1e-4, atol=1e-5)
    assert compiled.learn.run is not None
    torch.testing.assert_close(agent.online_parameters.buffer, compiled.online_parameters.buffer, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_torn_package_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    example = (torch.arange(3.0),)
    graph = torch.fx.symbolic_trace(torch.nn.ReLU())
    ahead_of_time.package_of(graph, example, "test")
    (package,) = (tmp_path / "protorl").glob("*.pt2")
    whole = package.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"?"):
        package.write_bytes(damaged)
        assert ahead_of_time.load(package) is None
    (out,) = ahead_of_time.package_of(graph, example, "test")([torch.tensor([-1.0, 0.0, 2.0])])
    assert out.tolist() == [0.0, 0.0, 2.0]
    assert len(package.read_bytes()) >= len(whole) // 2


def test_the_key_of_a_package_is_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = torch.fx.symbolic_trace(torch.nn.ReLU())
    keys = [ahead_of_time.graph_key(graph, (torch.zeros(n),)) for n in (2, 2, 3)]
    assert keys[0] == keys[1] != keys[2]
    monkeypatch.setattr(ahead_of_time, "machine", lambda _: ("another compiler, or processor",))
    assert ahead_of_time.graph_key(graph, (torch.zeros(2),)) not in keys


def test_a_frozen_random_network_makes_one_key_for_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def note(graph: Any, example: Any, name: str) -> Any:
        keys.append(ahead_of_time.graph_key(graph, example))
        return lambda tensors: list(graph(*tensors))

    monkeypatch.setattr(ahead_of_time, "package_of", note)
    for seed in range(2):
        torch.manual_seed(seed)
        agent = accelerate(FrozenRandom(), "aot")
        obs, next_obs = torch.randn(2, 8, 4)
        one = torch.ones(8)
        for _ in range(5):
            agent.update(
                prl.Batch(
                    {"obs": obs, "next_obs": next_obs, "action": one.long(), "reward": one, "discount": one, "weight": one}
                )
            )
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_binding_leaves_the_random_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example of what a graph takes has random numbers, too."""
    monkeypatch.setattr(ahead_of_time, "package_of", lambda graph, example, name: lambda columns: columns)
    agent = FrozenRandom()
    made = trace(lambda x: [x + torch.rand(3)], [torch.ones(3)], agent)
    assert len(made.draws) == 1
    before = torch.get_rng_state()
    ahead_of_time.packaged(made, [torch.ones(3)], "learn")
    assert torch.equal(torch.get_rng_state(), before)
