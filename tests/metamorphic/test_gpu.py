"""The GPU path against the CPU: the same examples, the same updates, recorded updates, and no wait for the device."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import protorl as prl
from protorl.accelerate import accelerate
from tests.contract.test_resume import make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]
NAMES = ["dqn", "double-dqn", "rainbow", "qr-dqn", "iqn", "ddpg", "td3", "sac"]


def filled(name: str, **settings: Any) -> Any:
    parts = make(name, device="cuda", eval_every=0, **settings).build()
    for _ in range(80):
        parts.memory.add(parts.actors.poll()[0])
    return parts


def updated(agent: Any, batch: prl.Batch, seed: int) -> Any:
    torch.manual_seed(seed)
    return agent.update(batch)


@pytest.mark.parametrize("mode", ["cudagraphs", "compiled"])
@pytest.mark.parametrize("name", NAMES)
def test_recorded_updates_equal_eager_ones(name: str, mode: str) -> None:
    if mode == "compiled":
        pytest.importorskip("triton", reason="torch.compile on a GPU needs Triton")
    parts = filled(name)
    eager, fast = parts.agent, accelerate(copy.deepcopy(parts.agent), mode)
    for i in range(12):
        batch = parts.memory.sample()
        one, two = updated(eager, batch, i), updated(fast, batch, i)
        torch.testing.assert_close(one.priority, two.priority, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.metrics, two.metrics, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        dict(eager.network.named_parameters()), dict(fast.network.named_parameters()), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("mode", ["eager", "cudagraphs"])
@pytest.mark.parametrize("name", NAMES)
def test_an_update_never_waits_for_the_device(name: str, mode: str) -> None:
    parts = filled(name)
    agent = accelerate(parts.agent, mode)
    batch = parts.memory.sample()
    for _ in range(12):
        agent.update(batch)
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            agent.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_ppo_minibatches_are_recorded_too() -> None:
    def trained(mode: str) -> Any:
        recipe = prl.recipes.PPO(
            env="CartPole-v1", steps=512, num_envs=4, rollout_steps=32, batch_size=32, epochs=2, eval_every=0, device="cuda"
        )
        parts = recipe.build()
        accelerate(parts.agent, mode)
        prl.train(parts.agent, parts.memory, parts.actors, steps=512)
        return parts.agent

    one, two = trained("eager"), trained("cudagraphs")
    assert two.learn.run is not None
    torch.testing.assert_close(dict(one.network.named_parameters()), dict(two.network.named_parameters()), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["dqn", "ppo"])
def test_recorded_acting_equals_eager_acting_and_follows_the_weights(name: str) -> None:
    parts = make(name, device="cuda", num_envs=2, eval_every=0).build()
    eager, fast = parts.agent, accelerate(copy.deepcopy(parts.agent), "cudagraphs")
    obs = parts.actors.env.obs
    for _ in range(3):
        one, two = (torch.utils._pytree.tree_leaves(agent.infer(obs, True)) for agent in (eager, fast))
        torch.testing.assert_close([torch.from_numpy(x) for x in two], [x.cpu() for x in one], rtol=1e-4, atol=1e-5)
        for agent in (eager, fast):
            agent.optimizer.flat.buffer.mul_(1.1)
    assert fast.infer.calls == 3


def test_aot_is_for_the_cpu() -> None:
    with pytest.raises(prl.ProtoRLError, match='is for the CPU, but the networks are on cuda: use "cudagraphs"'):
        accelerate(filled("dqn").agent, "aot")
