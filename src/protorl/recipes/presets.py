"""Hyperparameters by environment: what a recipe takes when nothing else is said. Every block names its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The tuned configurations of rl-baselines3-zoo, hyperparams/dqn.yml (two hidden layers of 256, Adam, Huber loss, gradient
# norm 10). That library copies its target between bursts of updates, every so many agent steps: `target_every` here is the
# same moment counted in updates (CartPole: every burst of 128; MountainCar: 600 steps = 300 updates; others: 250 = 250).
# CartPole differs in one value: `n_step` is 3 where the zoo has 1, with which some seeds never reach 475 (see
# benchmarks/learning/results); `--set n_step=1` is the zoo's own.
ZOO_DQN: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 50_000, "lr": 2.3e-3, "batch_size": 64, "capacity": 100_000, "warmup_steps": 1_000, "gamma": 0.99,
        "target_every": 128, "update_every": 256, "updates": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04,
        "n_step": 3, "eval_every": 2_000, "eval_episodes": 20,
    },
    "MountainCar-v0": {
        "steps": 120_000, "lr": 4e-3, "batch_size": 128, "capacity": 10_000, "warmup_steps": 1_000, "gamma": 0.98,
        "target_every": 300, "update_every": 16, "updates": 8, "epsilon_steps": 24_000, "epsilon_end": 0.07,
    },
    "Acrobot-v1": {
        "steps": 100_000, "lr": 6.3e-4, "batch_size": 128, "capacity": 50_000, "warmup_steps": 0, "gamma": 0.99,
        "target_every": 250, "update_every": 4, "updates": 4, "epsilon_steps": 12_000, "epsilon_end": 0.1,
    },
    "LunarLander-v3": {
        "steps": 100_000, "lr": 6.3e-4, "batch_size": 128, "capacity": 50_000, "warmup_steps": 0, "gamma": 0.99,
        "target_every": 250, "update_every": 4, "updates": 4, "epsilon_steps": 12_000, "epsilon_end": 0.1,
    },
}  # fmt: skip

# Mnih et al. 2015, Extended Data Table 1, in agent steps (4 frames) and updates; RMSProp's 0.01 is for summed gradients.
NATURE_DQN: dict[str, Any] = {
    "steps": 50_000_000, "optimizer": "rmsprop", "lr": 2.5e-4, "optimizer_eps": 0.01 / 32**2, "batch_size": 32,
    "capacity": 1_000_000, "warmup_steps": 50_000, "gamma": 0.99, "target_every": 2_500, "update_every": 4, "updates": 1,
    "epsilon_steps": 1_000_000, "epsilon_end": 0.1, "clip_reward": 1.0, "max_grad_norm": None, "eval_every": 250_000,
    "checkpoint_every": 250_000, "protocol": "nature",
}  # fmt: skip

# The authors' code, munchausen_rl/configs/atari.gin; beside DQN's own numbers it changes these.
MUNCHAUSEN_ATARI: dict[str, Any] = {
    **NATURE_DQN, "optimizer": "adam", "lr": 5e-5, "optimizer_eps": 3.125e-4, "target_every": 2_000, "warmup_steps": 20_000,
    "epsilon_steps": 250_000, "epsilon_end": 0.01, "protocol": "machado",
}  # fmt: skip

DQN: dict[str, Mapping[str, Any]] = {**ZOO_DQN, "ALE/*": NATURE_DQN}
MUNCHAUSEN: dict[str, Mapping[str, Any]] = {**ZOO_DQN, "ALE/*": MUNCHAUSEN_ATARI}


def preset(presets: Mapping[str, Mapping[str, Any]], env: Any) -> dict[str, Any]:
    """The preset for an environment: its own id, or a family such as "ALE/*"; empty where there is none."""
    if not isinstance(env, str):
        return {}
    family = "ALE/*" if env.endswith("NoFrameskip-v4") else f"{env.split('/')[0]}/*"
    return dict(presets.get(env, presets.get(family, {})))
