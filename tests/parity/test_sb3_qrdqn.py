"""One QR-DQN update equals SB3-contrib's: same weights, same batch, same loss, gradient and new parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl
from tests.parity import test_sb3_dqn as dqn

pytest.importorskip("sb3_contrib", reason="parity needs sb3-contrib")

QUANTILES, ACTIONS, CLIP = 7, 2, 17.0


def theirs() -> Any:
    from sb3_contrib import QRDQN
    from stable_baselines3.common.logger import Logger

    model = QRDQN(
        "MlpPolicy", "CartPole-v1", learning_rate=dqn.LR, gamma=dqn.GAMMA, batch_size=dqn.BATCH, buffer_size=200,
        learning_starts=0, max_grad_norm=CLIP, policy_kwargs={"net_arch": [24, 16], "n_quantiles": QUANTILES}, device="cpu",
        seed=3,
    )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for t in range(200):
        info = {"TimeLimit.truncated": t % 40 == 39}
        done = np.array([t % 7 == 6 or info["TimeLimit.truncated"]])
        scale = dqn.SCALE * rng.random() ** 4
        obs, successor = rng.normal(size=(2, 1, 4)).astype(np.float32) * scale
        model.replay_buffer.add(obs, successor, rng.integers(0, ACTIONS, (1, 1)), rng.normal(size=1) * scale, done, [info])
    with torch.no_grad():  # a target unlike the online network
        for p in model.quantile_net_target.parameters():
            p.add_(torch.from_numpy(rng.normal(size=p.shape)).float() * 0.3)
    return model


def as_ours(name: str, p: torch.Tensor, last: int) -> torch.Tensor:
    """Their last layer has the quantiles first, then the actions; ours the other way round."""
    if not name.startswith(f"quantile_net.{last}."):
        return p
    return p.unflatten(0, (QUANTILES, ACTIONS)).transpose(0, 1).flatten(0, 1)


def pairs(mine: Any, other: Any) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Our parameters beside theirs, with their gradients, in our order."""
    last = len(other.quantile_net) - 1
    return [
        (p, as_ours(name, q.detach(), last), None if q.grad is None else as_ours(name, q.grad, last))
        for p, (name, q) in zip(mine.parameters(), other.named_parameters(), strict=True)
    ]


def ours(model: Any) -> prl.QRDQN:
    env = prl.make_vec_envs("CartPole-v1")
    head = prl.QuantileHead(env.spec.action, quantiles=QUANTILES)
    network = prl.Network(prl.MLP(env.spec.obs, [24, 16]), head)
    adam = prl.Adam(network, dqn.LR, eps=0.01 / dqn.BATCH, max_grad_norm=CLIP)
    agent = prl.QRDQN(network, prl.Greedy(env.spec.action), adam, target_every=10_000)
    for mine, other in ((agent.network, model.quantile_net), (agent.target, model.quantile_net_target)):
        with torch.no_grad():
            for p, q, _ in pairs(mine, other):
                p.copy_(q)
    return agent


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_updates_follow_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs()
    agent: Any = ours(model)
    batches = dqn.recorded(model)
    losses, norms, gradients = dqn.heard(model, agent, monkeypatch)
    for _ in range(6):
        model.train(gradient_steps=1, batch_size=dqn.BATCH)
        update = agent.update(batches[-1])
        assert_close(update.metrics["loss"], torch.tensor(losses[-1], dtype=torch.float32), rtol=1e-5, atol=0)
        assert_close(update.metrics["grad_norm"], norms[-1], rtol=1e-4, atol=0)
        for p, q, gradient in pairs(agent.network, model.quantile_net):
            place = p.storage_offset()
            assert_close(gradients[-1][place : place + p.numel()].view(p.shape), gradient, rtol=1e-3, atol=1e-5)
            assert_close(p.detach(), q, rtol=1e-4, atol=2e-6)
    assert min(norms) < CLIP < max(norms)
