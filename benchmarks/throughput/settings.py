"""The settings that all contenders of the DQN benchmark share."""

from __future__ import annotations

import argparse
from typing import Any

ENV = "CartPole-v1"
HIDDEN = [120, 84]  # ReLU
LR = 2.5e-4  # Adam
GAMMA = 0.99
BATCH = 128
CAPACITY = 10_000
TARGET_STEPS = 500  # environment steps between two copies to the target network
START = 1_000  # environment steps before learning starts
EPSILON = 0.05
FOREVER = 10**9


def update_every() -> int:
    """Environment steps per update, from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--update-every", type=int, required=True)
    return int(parser.parse_args().update_every)


def warm_up(every: int) -> int:
    """Environment steps to let pass before measuring: `START`, then a few hundred updates."""
    return START + 300 * every + 700


def sb3_arguments(every: int) -> dict[str, Any]:
    """The same settings in the words of Stable-Baselines3, which SBX shares."""
    return {
        "learning_rate": LR,
        "buffer_size": CAPACITY,
        "learning_starts": START,
        "batch_size": BATCH,
        "gamma": GAMMA,
        "train_freq": every,
        "gradient_steps": 1,
        "target_update_interval": TARGET_STEPS,
        "exploration_initial_eps": EPSILON,
        "exploration_final_eps": EPSILON,
        "seed": 0,
    }
