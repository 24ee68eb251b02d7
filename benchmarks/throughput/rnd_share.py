"""What random network distillation adds to the time of a training, at identical settings.

    python benchmarks/throughput/rnd_share.py              # PPO and RND on CartPole-v1; DQN without and with bonus=rnd

Both trainings live in one process, and in each round each of them takes a window of steps, in turns, so that they share the
machine's moments. Time is the process's own. Prints microseconds per agent step, and the median of the rounds' quotients
with the least and the greatest.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from window import Window, paired

import protorl as prl

ON_POLICY: dict[str, Any] = {
    "env": "CartPole-v1", "num_envs": 8, "rollout_steps": 128, "epochs": 4, "batch_size": 256, "widths": (64, 64),
}  # fmt: skip
OFF_POLICY: dict[str, Any] = {
    "env": "CartPole-v1", "batch_size": 128, "widths": (120, 84), "update_every": 1, "updates": 1, "warmup_steps": 200,
    "n_step": 1,
}  # fmt: skip
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {
    "PPO, RND of 64 features": (
        lambda: prl.recipes.PPO(**ON_POLICY), lambda: prl.recipes.RND(**ON_POLICY, predictor_features=64), 16 * 1_024,
    ),
    "PPO, RND of 512 features": (
        lambda: prl.recipes.PPO(**ON_POLICY), lambda: prl.recipes.RND(**ON_POLICY, predictor_features=512), 8 * 1_024,
    ),
    "DQN, bonus of 64 features": (
        lambda: prl.recipes.DQN(**OFF_POLICY),
        lambda: prl.recipes.DQN(**OFF_POLICY, bonus="rnd", predictor_features=64), 1_000,
    ),
}  # fmt: skip
"""Without, with, and agent steps of a window."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mode", default="aot", help="how updates run, as the field accelerate")
    arguments = parser.parse_args()
    for name, (without, with_it, steps) in PAIRS.items():
        pair = [Window(make(), arguments.mode, steps) for make in (without, with_it)]
        plain, paid, quotients = paired(*pair, arguments.rounds)
        print(
            f"{name}: {plain:.1f} and {paid:.1f} us per step, {statistics.median(quotients):.2f} "
            f"[{quotients[0]:.2f}, {quotients[-1]:.2f}] times",
            flush=True,
        )


if __name__ == "__main__":
    main()
