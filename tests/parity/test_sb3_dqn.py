"""One DQN update equals Stable-Baselines3's: same weights, same batch, same loss, gradient and new parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl

pytest.importorskip("stable_baselines3", reason="parity needs stable-baselines3")

GAMMA, LR, CLIP, BATCH = 0.97, 3e-3, 10.0, 48
SCALE = 150.0  # of the largest observations and rewards, so that clipping of errors and of the gradient's norm both act


def theirs() -> Any:
    from stable_baselines3 import DQN
    from stable_baselines3.common.logger import Logger

    model = DQN(
        "MlpPolicy", "CartPole-v1", learning_rate=LR, gamma=GAMMA, batch_size=BATCH, buffer_size=200, learning_starts=0,
        max_grad_norm=CLIP, policy_kwargs={"net_arch": [24, 16], "optimizer_kwargs": {"eps": 1e-5}}, device="cpu", seed=3,
    )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for t in range(200):
        info = {"TimeLimit.truncated": t % 40 == 39}
        done = np.array([t % 7 == 6 or info["TimeLimit.truncated"]])
        scale = SCALE * rng.random() ** 4
        obs, successor = rng.normal(size=(2, 1, 4)).astype(np.float32) * scale
        reward = rng.normal(size=1) * scale
        model.replay_buffer.add(obs, successor, rng.integers(0, 2, (1, 1)), reward, done, [info])
    with torch.no_grad():  # a target unlike the online network
        for p in model.q_net_target.parameters():
            p.add_(torch.from_numpy(rng.normal(size=p.shape)).float() * 0.3)
    return model


def ours(model: Any) -> prl.DQN:
    env = prl.make_vec_envs("CartPole-v1")
    network = prl.Network(prl.MLP(env.spec.obs, [24, 16]), prl.QHead(env.spec.action))
    adam = prl.Adam(network, LR, eps=1e-5, max_grad_norm=CLIP)
    agent = prl.DQN(network, prl.Greedy(env.spec.action), adam, target_every=10_000)
    for mine, other in ((agent.network, model.q_net), (agent.target, model.q_net_target)):
        with torch.no_grad():
            for p, q in zip(mine.parameters(), other.parameters(), strict=True):
                p.copy_(q)
    return agent


def recorded(model: Any) -> list[prl.Batch]:
    """The batches their training draws, as ours: terminations cut the future, time limits do not."""
    batches, draw = [], model.replay_buffer.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        data = draw(*args, **kwargs)
        batches.append(
            prl.Batch(
                {
                    "obs": data.observations,
                    "action": data.actions[:, 0],
                    "reward": data.rewards[:, 0],
                    "discount": GAMMA * (1 - data.dones[:, 0]),
                    "next_obs": data.next_observations,
                    "weight": torch.ones(len(data.rewards)),
                }
            )
        )
        return data

    model.replay_buffer.sample = sample
    return batches


def heard(
    model: Any, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[float], list[torch.Tensor], list[torch.Tensor]]:
    """Lists that fill with each update: their loss, their gradient's norm before clipping, our flat gradient after it."""
    losses: list[float] = []
    norms: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    clip, move = torch.nn.utils.clip_grad_norm_, agent.optimizer.update
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: norms.append(clip(*a, **k)))
    monkeypatch.setattr(model.logger, "record", lambda name, value, **_: losses.append(value) if name == "train/loss" else None)
    monkeypatch.setattr(agent.optimizer, "update", lambda gradient: (gradients.append(gradient.clone()), move(gradient)))
    return losses, norms, gradients


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_updates_follow_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs()
    agent: Any = ours(model)
    batches = recorded(model)
    losses, norms, gradients = heard(model, agent, monkeypatch)
    for _ in range(6):
        model.train(gradient_steps=1, batch_size=BATCH)
        update = agent.update(batches[-1])
        assert_close(update.metrics["loss"], torch.tensor(losses[-1], dtype=torch.float32), rtol=1e-5, atol=0)
        assert_close(update.metrics["grad_norm"], norms[-1], rtol=1e-4, atol=0)
        for p, q in zip(agent.network.parameters(), model.q_net.parameters(), strict=True):
            place = p.storage_offset()
            assert_close(gradients[-1][place : place + p.numel()].view(p.shape), q.grad, rtol=1e-3, atol=1e-5)
            assert_close(p, q, rtol=1e-4, atol=2e-6)
    assert min(norms) < CLIP < max(norms)
    assert update.priority.min() < 1 < update.priority.max()  # both parts of the Huber loss were reached
