"""One update of DDPG, TD3 and SAC equals Stable-Baselines3's: same weights, batch and noise; same losses, gradients, new
parameters, targets and temperature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import protorl as prl
from protorl.data import Batch

pytest.importorskip("stable_baselines3", reason="parity needs stable-baselines3")

GAMMA, LR, TAU, SIZE, WIDTHS = 0.97, 3e-3, 0.02, 48, (24, 16)
SHARED: dict[str, Any] = {"env": "Pendulum-v1", "widths": WIDTHS, "lr": LR, "tau": TAU, "gamma": GAMMA, "batch_size": SIZE}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def theirs(cls: Any, **arguments: Any) -> Any:
    """Their model, its memory filled with noise, its targets unlike its networks."""
    from stable_baselines3.common.logger import Logger

    model = cls(
        "MlpPolicy", "Pendulum-v1", learning_rate=LR, gamma=GAMMA, tau=TAU, batch_size=SIZE, buffer_size=200,
        policy_kwargs={"net_arch": list(WIDTHS)}, device="cpu", seed=3, **arguments,
    )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for t in range(200):
        info = {"TimeLimit.truncated": t % 40 == 39}
        done = np.array([t % 7 == 6 or info["TimeLimit.truncated"]])
        obs, successor = rng.normal(size=(2, 1, 3)).astype(np.float32)
        model.replay_buffer.add(obs, successor, rng.uniform(-1, 1, (1, 1)), rng.normal(size=1), done, [info])
    targets = [model.critic_target] + ([model.actor_target] if hasattr(model, "actor_target") else [])
    with torch.no_grad():
        for p in [p for target in targets for p in target.parameters()]:
            p.add_(torch.from_numpy(rng.normal(size=p.shape)).float() * 0.3)
    return model


def stacked(values: list[Tensor], critics: int) -> list[Tensor]:
    """Their critics' values (of parameters or gradients), one critic after the other, in the layout of our ensemble."""
    each = len(values) // critics
    rows = [torch.stack([v.T if v.dim() == 2 else v[None] for v in values[i::each]]) for i in range(each)]
    assert len(rows) == 2 * (len(WIDTHS) + 1)
    return rows


class Pair:
    """Their model and our agent with its weights; `step(noise)` updates both from one batch."""

    def __init__(self, model: Any, agent: Any, critics: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model, self.agent, self.critics = model, agent, critics
        with torch.no_grad():
            for mine, their in self.networks():
                for p, q in zip(mine.parameters(), their, strict=True):
                    p.copy_(q)
        self.logged: dict[str, float] = {}
        monkeypatch.setattr(agent, "drawn", lambda batch: batch)  # the noise is given
        monkeypatch.setattr(model.logger, "record", lambda name, value, **_: self.logged.update({name: value}))
        self.batches: list[Batch] = []
        monkeypatch.setattr(model.replay_buffer, "sample", self.sample(model.replay_buffer.sample))
        self.theirs: dict[str, list[Tensor]] = {}
        self.ours: dict[str, list[Tensor]] = {}
        for part in ("actor", "critic"):
            optimizer = getattr(model, part).optimizer
            monkeypatch.setattr(optimizer, "step", self.watch_theirs(part, optimizer.step, getattr(model, part)))
            mine = getattr(agent, f"{part}_optimizer")
            monkeypatch.setattr(mine, "update", self.watch_ours(part, mine))

    def networks(self) -> list[tuple[Any, list[Tensor]]]:
        """Our modules, and their parameters in our layout."""
        model, agent = self.model, self.agent
        target_critic = agent.target.critic if hasattr(model, "actor_target") else agent.target
        pairs = [
            (agent.network.actor, list(model.actor.parameters())),
            (agent.network.critic, stacked(list(model.critic.parameters()), self.critics)),
            (target_critic, stacked(list(model.critic_target.parameters()), self.critics)),
        ]
        if hasattr(model, "actor_target"):
            pairs.append((agent.target.actor, list(model.actor_target.parameters())))
        return pairs

    def sample(self, draw: Any) -> Any:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            data = draw(*args, **kwargs)
            self.batches.append(
                Batch(
                    {
                        "obs": data.observations,
                        "action": data.actions,
                        "reward": data.rewards[:, 0],
                        "discount": GAMMA * (1 - data.dones[:, 0]),
                        "next_obs": data.next_observations,
                        "weight": torch.ones(len(data.rewards)),
                    }
                )
            )
            return data

        return recorded

    def watch_theirs(self, part: str, step: Any, module: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.theirs[part] = [p.grad.clone() for p in module.parameters()]
            return step(*args, **kwargs)

        return watched

    def watch_ours(self, part: str, optimizer: Any) -> Any:
        move = optimizer.update

        def watched(gradient: Tensor) -> None:
            begin = optimizer.flat.buffer.storage_offset()
            pieces = [(p.storage_offset() - begin, p) for p in optimizer.flat.parameters]
            self.ours[part] = [gradient[at : at + p.numel()].view(p.shape).clone() for at, p in pieces]
            move(gradient)

        return watched

    def step(self, **noise: Tensor) -> prl.Update:
        self.theirs, self.ours, self.logged = {}, {}, {}
        self.model.train(gradient_steps=1, batch_size=SIZE)
        batch = self.batches[-1].replace(**noise)
        update: prl.Update = self.agent.update(batch)
        return update

    def check(self, update: prl.Update) -> None:
        assert_close(float(update.metrics["loss"]), float(self.logged["train/critic_loss"]), rtol=1e-5, atol=0)
        assert ("actor_loss" in update.metrics) == ("train/actor_loss" in self.logged) == ("actor" in self.ours)
        if "actor_loss" in update.metrics:
            assert_close(float(update.metrics["actor_loss"]), float(self.logged["train/actor_loss"]), rtol=1e-4, atol=1e-6)
            assert_close(self.ours["actor"], self.theirs["actor"], rtol=1e-3, atol=1e-6)
            assert max(float(g.abs().max()) for g in self.ours["actor"]) > 1e-3
        assert_close(self.ours["critic"], stacked(self.theirs["critic"], self.critics), rtol=1e-3, atol=1e-6)
        for mine, their in self.networks():
            for p, q in zip(mine.parameters(), their, strict=True):
                assert_close(p.detach(), q.detach(), rtol=1e-4, atol=3e-6)


def inject(monkeypatch: pytest.MonkeyPatch, *noises: Tensor) -> None:
    """The standard normal numbers that they draw next: TD3 by `normal_`, SAC by a distribution's `rsample`."""
    queue = list(noises)
    monkeypatch.setattr(Tensor, "normal_", lambda self, mean, std: self.copy_(mean + std * queue.pop(0)))
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda self, *_: self.loc + self.scale * queue.pop(0))


def test_ddpg(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_baselines3 import DDPG

    model = theirs(DDPG)
    recipe = prl.recipes.DDPG(**SHARED, actor_lr=None, weight_decay=0.0, action_layer=1, final_bound=None)
    pair = Pair(model, recipe.build().agent, 1, monkeypatch)
    for _ in range(4):
        pair.check(pair.step())


def test_td3_with_and_without_the_delayed_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_baselines3 import TD3

    model = theirs(TD3, policy_delay=2, target_policy_noise=0.3, target_noise_clip=0.4)
    recipe = prl.recipes.TD3(**SHARED, delay=2, target_noise=0.3, noise_clip=0.4)
    pair = Pair(model, recipe.build().agent, 2, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    acted = []
    for _ in range(4):
        noise = torch.randn(SIZE, 1, generator=generator)
        inject(monkeypatch, noise)
        update = pair.step(noise=noise)
        pair.check(update)
        acted.append("actor_loss" in update.metrics)
        assert (0.3 * noise).abs().max() > 0.4  # the clip is reached
    assert acted == [False, True, False, True]


def test_sac_with_automatic_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_baselines3 import SAC

    model = theirs(SAC, ent_coef="auto_0.5", target_entropy=-0.7)
    monkeypatch.setattr(model.actor.action_dist, "epsilon", 1e-12)  # theirs inside the logarithm; ours is exact without
    recipe = prl.recipes.SAC(**SHARED, alpha=0.5, alpha_lr=LR, target_entropy=-0.7)
    pair = Pair(model, recipe.build().agent, 2, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        noise, next_noise = torch.randn(2, SIZE, 1, generator=generator)
        inject(monkeypatch, noise, next_noise)
        update = pair.step(noise=noise, next_noise=next_noise)
        pair.check(update)
        assert_close(float(update.metrics["alpha"]), float(pair.logged["train/ent_coef"]), rtol=1e-5, atol=0)
        assert_close(pair.agent.temperature.log_alpha.detach(), model.log_ent_coef.detach(), rtol=1e-5, atol=1e-7)
    assert float(update.metrics["alpha"]) != 0.5
