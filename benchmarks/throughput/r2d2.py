"""R2D2 on CartPole at the settings of deep_rl_zoo's, beside what was measured of that on a machine of this kind.

    python benchmarks/throughput/r2d2.py                   # a minute, and half of one to compile; writes results/r2d2.json
    python benchmarks/throughput/r2d2.py --set core=gru    # a trial, which is printed and not kept

deep_rl_zoo (`r2d2/run_classic.py`: layers of 64 and 128, an LSTM of 128, dueling, 32 sequences of 15 steps, 5-step targets, 16
actors) was measured at 1,550 to 1,837 steps and 39 to 53 updates a second with actors and learner side by side on two cores: 35
to 40 steps for each update. Here all is one process and one thread, an update for every 32 steps; windows of steps, medians of
the process's own time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from window import Window

import protorl as prl
from protorl.recipes.fields import parse_settings

RESULTS = Path(__file__).parent / "results" / "r2d2.json"
THEIRS = (1_550, 1_837)
"""Steps per second."""
SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1", "num_envs": 16, "widths": (64, 128), "core": "lstm", "core_size": 128, "head": "dueling",
    "sequence_length": 15, "burn_in": 0, "period": 15, "n_step": 5, "batch_size": 32, "update_every": 32, "updates": 1,
    "gamma": 0.997, "lr": 5e-4, "optimizer_eps": 1e-3, "max_grad_norm": 10.0, "per_alpha": 0.9, "target_every": 100,
    "capacity": 150_000, "warmup_steps": 15_000,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16_000, help="of a window")
    parser.add_argument("--set", nargs="*", default=[], help="field=value of the recipe: a trial, whose figures are not kept")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    trial = parse_settings(prl.recipes.R2D2, asked.set)
    window = Window(prl.recipes.R2D2(**{**SETTINGS, **trial}), "aot", asked.steps)
    rates = [round(1e6 / window()) for _ in range(asked.windows)]
    speed = statistics.median(rates)
    found = {
        "steps_per_second": speed, "each": rates, "updates_per_second": round(speed / SETTINGS["update_every"]),
        "times_deep_rl_zoo": [round(speed / theirs, 1) for theirs in reversed(THEIRS)],
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if not trial:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
