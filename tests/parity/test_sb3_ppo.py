"""PPO on a rollout equals Stable-Baselines3's: same steps and weights, same advantages; same minibatches, same everything."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.testing import assert_close

import protorl as prl
from protorl.data import Chunk

pytest.importorskip("stable_baselines3", reason="parity needs stable-baselines3")

T, N, BATCH, EPOCHS, GAMMA, LAMBDA, CLIP, NORM = 32, 2, 16, 3, 0.97, 0.9, 0.05, 4.0
ACTIONS = {"discrete": spaces.Discrete(4), "box": spaces.Box(-1.0, 1.0, (3,))}


class Scripted(gymnasium.Env[Any, Any]):
    """Random observations and rewards whatever one does; episodes end by chance, or at their sixth step by the clock."""

    def __init__(self, kind: str, row: int) -> None:
        self.observation_space, self.action_space = spaces.Box(-10.0, 10.0, (5,)), ACTIONS[kind]
        self.rng = np.random.default_rng(row)
        self.seen: list[tuple[Any, ...]] = []  # obs, reward, terminated, truncated, next_obs

    def observe(self) -> Any:
        return self.rng.normal(size=5).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t, self.obs = 0, self.observe()
        return self.obs, {}

    def step(self, action: Any) -> Any:
        self.t += 1
        terminated = bool(self.rng.random() < 0.1)
        before, self.obs = self.obs, self.observe()
        self.seen.append((before, 3 * self.rng.normal(), terminated, self.t == 6 and not terminated, self.obs))
        return self.obs, *self.seen[-1][1:4], {}


def theirs(kind: str, **arguments: Any) -> tuple[Any, list[Scripted]]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs = [Scripted(kind, row) for row in range(N)]
    model = PPO(
        "MlpPolicy", DummyVecEnv([lambda env=env: env for env in envs]), learning_rate=3e-3, n_steps=T,
        batch_size=BATCH, n_epochs=EPOCHS, gamma=GAMMA, gae_lambda=LAMBDA, clip_range=CLIP, ent_coef=0.02, vf_coef=0.4,
        max_grad_norm=NORM, policy_kwargs={"net_arch": [12, 8]}, device="cpu", seed=3, **arguments,
    )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))
    with torch.no_grad():  # away from a policy that is the same everywhere
        for p in model.policy.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    _, callback = model._setup_learn(T * N)
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, T)
    return model, envs


def ours(model: Any, kind: str, env: Any, **fields: Any) -> tuple[prl.recipes.Parts, dict[str, torch.nn.Parameter]]:
    recipe = prl.recipes.PPO(
        env="scripted", rollout_steps=T, num_envs=N, batch_size=BATCH, epochs=EPOCHS, gamma=GAMMA, gae_lambda=LAMBDA, clip=CLIP,
        entropy_coef=0.02, value_coef=0.4, max_grad_norm=NORM, lr=3e-3, widths=(12, 8), **fields,
    )  # fmt: skip
    parts = recipe.assemble(env)
    policy, network = model.policy, parts.agent.network
    pairs = [
        (network.actor.base, policy.mlp_extractor.policy_net),
        (network.critic.base, policy.mlp_extractor.value_net),
        (network.actor.head.layer if kind == "discrete" else network.actor.head.mean, policy.action_net),
        (network.critic.head, policy.value_net),
    ]
    if kind == "box":
        pairs.append((torch.nn.ParameterList([network.actor.head.log_std]), torch.nn.ParameterList([policy.log_std])))
    same = [pair for one, other in pairs for pair in zip(one.parameters(), other.parameters(), strict=True)]
    assert len(same) == len(list(network.parameters())) == len(list(policy.parameters()))
    with torch.no_grad():
        for p, q in same:
            p.copy_(q)
    return parts, same


def remember(parts: Any, model: Any, envs: list[Scripted]) -> None:
    """The steps that their environments saw, with the actions and log-probabilities that their buffer kept."""
    buffer = model.rollout_buffer
    first = np.ones(N, bool)
    for t in range(T):
        obs, reward, terminated, truncated, successor = (np.array(row) for row in zip(*[env.seen[t] for env in envs]))
        action = buffer.actions[t].astype(parts.actors.env.spec.action.dtype)
        with torch.no_grad():
            value = parts.agent.network.value(torch.from_numpy(obs)).numpy()
        extras = {"log_prob": buffer.log_probs[t], "value": value}
        step = prl.Step(
            obs, action.reshape(N, *parts.actors.env.spec.action.shape), reward.astype(np.float32),
            1 - terminated.astype(np.float32), terminated, truncated, successor, first, np.ones(N, bool), extras,
        )  # fmt: skip
        first = step.ended
        parts.memory.add(Chunk.of(step))


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("normalise", [True, False])
def test_a_rollouts_updates_follow_theirs(kind: str, normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, envs = theirs(kind, normalize_advantage=normalise)
    env = prl.make_vec_envs(lambda: Scripted(kind, 0), N)
    parts, same = ours(model, kind, env, normalise_advantage=normalise)
    remember(parts, model, envs)
    agent, memory = parts.agent, parts.memory
    assert any(row[3] for row in envs[0].seen)
    assert any(row[2] for row in envs[0].seen)

    # Ours, minibatch by minibatch; where in their buffer each example is.
    places, updates, moved, gradients = [], [], [], []
    move = agent.optimizer.update
    monkeypatch.setattr(agent.optimizer, "update", lambda gradient: (gradients.append(gradient.clone()), move(gradient)))
    buffer = model.rollout_buffer
    for _ in range(memory.due()):
        batch = memory.sample()
        row = batch.index.numpy()
        places.append(row % N * T + row // N)
        t, lane = row // N, row % N
        for name, column in (("advantage", buffer.advantages), ("ret", buffer.returns), ("value", buffer.values)):
            assert_close(batch.columns[name], torch.from_numpy(column[t, lane]), rtol=1e-4, atol=1e-5)
        updates.append(agent.update(batch))
        moved.append([p.detach().clone() for p, _ in same])
    assert len(updates) == EPOCHS * T * N // BATCH

    # Theirs, on the same minibatches.
    next(buffer.get(BATCH))  # lays their buffer out flat, row by row

    def get(batch_size: int) -> Any:
        yield from (buffer._get_samples(places.pop(0)) for _ in range(T * N // BATCH))

    recorded: dict[str, float] = {}
    norms: list[torch.Tensor] = []
    their_gradients, their_moves = [], []
    clip, step = torch.nn.utils.clip_grad_norm_, model.policy.optimizer.step

    def their_step(*args: Any, **kwargs: Any) -> None:
        their_gradients.append([q.grad.clone() for _, q in same])
        step(*args, **kwargs)
        their_moves.append([q.detach().clone() for _, q in same])

    monkeypatch.setattr(buffer, "get", get)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: norms.append(clip(*a, **k)))
    monkeypatch.setattr(model.policy.optimizer, "step", their_step)
    monkeypatch.setattr(model.logger, "record", lambda name, value, **_: recorded.update({name.removeprefix("train/"): value}))
    model.train()

    assert len(norms) == len(updates)
    for i, (update, norm) in enumerate(zip(updates, norms, strict=True)):
        assert_close(update.metrics["grad_norm"], norm, rtol=1e-3, atol=1e-5)
        for (p, _), theirs_gradient, mine, other in zip(same, their_gradients[i], moved[i], their_moves[i], strict=True):
            place = p.storage_offset()
            gradient = gradients[i][place : place + p.numel()].view(p.shape)
            assert_close(gradient, theirs_gradient, rtol=1e-3, atol=1e-5)
            assert_close(mine, other, rtol=1e-3, atol=1e-5)
    assert max(norms) > NORM

    def mean(name: str) -> float:
        return float(torch.stack([update.metrics[name] for update in updates]).mean())

    assert float(updates[-1].metrics["loss"]) == pytest.approx(recorded["loss"], rel=1e-3, abs=1e-4)
    assert mean("policy_loss") == pytest.approx(recorded["policy_gradient_loss"], rel=1e-3, abs=1e-4)
    assert mean("value_loss") == pytest.approx(recorded["value_loss"], rel=1e-3)
    assert mean("entropy") == pytest.approx(-recorded["entropy_loss"], rel=1e-4)
    assert mean("clip_fraction") == pytest.approx(recorded["clip_fraction"], abs=1e-6)
    assert mean("clip_fraction") > 0
    assert float(updates[0].metrics["explained_variance"]) == pytest.approx(recorded["explained_variance"], abs=1e-3)
