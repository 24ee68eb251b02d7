"""One DQN update equals Stable-Baselines3's: same weights, same batch, same loss, gradient and new parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import protorl as prl

pytest.importorskip("stable_baselines3", reason="parity needs stable-baselines3")

GAMMA, LR, CLIP, BATCH = 0.97, 3e-3, 10.0, 48


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
        obs, successor = rng.normal(size=(2, 1, 4)).astype(np.float32) * 2
        reward = rng.normal(size=1) * SCALE
        model.replay_buffer.add(obs, successor, rng.integers(0, 2, (1, 1)), reward, done, [info])
    with torch.no_grad():  # a target unlike the online network
        for p in model.q_net_target.parameters():
            p.add_(torch.from_numpy(rng.normal(size=p.shape)).float() * 0.3)
    return model


SCALE = 40.0  # rewards large enough that clipping of errors and of the gradient's norm both act


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


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_updates_follow_theirs() -> None:
    model = theirs()
    agent = ours(model)
    batches, losses, norms = recorded(model), [], []
    clip = torch.nn.utils.clip_grad_norm_

    def measured(*args: Any, **kwargs: Any) -> torch.Tensor:
        norms.append(clip(*args, **kwargs))
        return norms[-1]

    model.logger.record = lambda name, value, *_, **__: losses.append(value) if name == "train/loss" else None
    patched = SimpleNamespace(clip_grad_norm_=torch.nn.utils.clip_grad_norm_)
    torch.nn.utils.clip_grad_norm_ = measured
    try:
        for _ in range(5):
            model.train(gradient_steps=1, batch_size=BATCH)
            update = agent.update(batches[-1])
            assert_close(update.metrics["loss"], torch.tensor(losses[-1], dtype=torch.float32), rtol=1e-5, atol=0)
            assert_close(update.metrics["grad_norm"], norms[-1], rtol=1e-4, atol=0)
            for p, q in zip(agent.network.parameters(), model.q_net.parameters(), strict=True):
                assert_close(p, q, rtol=1e-4, atol=2e-6)
    finally:
        torch.nn.utils.clip_grad_norm_ = patched.clip_grad_norm_
    assert max(norms) > CLIP
    assert max(update.priority) > 10  # the linear part of the loss was reached
