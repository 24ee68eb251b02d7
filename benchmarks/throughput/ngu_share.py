"""What Never Give Up adds to the time of R2D2 at identical settings, and what its search of neighbours takes.

    python benchmarks/throughput/ngu_share.py              # writes results/ngu_share.json

Both trainings live in one process, and in each round each of them takes a window of steps, in turns, so that they share the
machine's moments. Time is the process's own. The search: 8 lanes with 30 000 embeddings of 32 numbers each, 10 neighbours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from window import Window, paired

import protorl as prl
from protorl.networks import Episode, PseudoCounts

RESULTS = Path(__file__).parent / "results" / "ngu_share.json"
SHARED: dict[str, Any] = {
    "num_envs": 8, "core_size": 64, "batch_size": 32, "capacity": 20_000, "warmup_steps": 1_000, "update_every": 64,
    "sequence_length": 20, "burn_in": 0, "period": 20, "n_step": 1, "first_priority": "largest", "accelerate": "eager",
}  # fmt: skip
PAIRS: dict[str, dict[str, Any]] = {
    "CartPole-v1, 64-64": {"env": "CartPole-v1", "widths": (64, 64)},
    "disco maze of 11": {"env": "protorl/DiscoMaze-v0", "env_kwargs": {"size": 11}},
}


def search(rounds: int) -> dict[str, float]:
    """Milliseconds of one search in all lanes."""
    rng, counts = np.random.default_rng(0), PseudoCounts()
    episode = Episode(rng.standard_normal((8, 30_000, 32), np.float32), np.full(8, 30_000))
    x, rows = rng.standard_normal((8, 32), np.float32), np.ones(8, np.bool_)
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        counts.reward(counts.distances(episode, x, rows), np.ones(8))
        times.append(1e3 * (time.perf_counter() - begin))
    return {"least": round(min(times), 3), "median": round(statistics.median(times), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"search of 8 lanes, milliseconds": search(100)}
    print(found, flush=True)
    for name, fields in PAIRS.items():
        pair = [Window(cls(**SHARED, **fields), SHARED["accelerate"], 512) for cls in (prl.recipes.R2D2, prl.recipes.NGU)]
        plain, paid, quotients = paired(*pair, arguments.rounds)
        found[name] = {
            "r2d2, us per step": round(plain, 1), "ngu, us per step": round(paid, 1),
            "times": [round(q, 2) for q in (quotients[0], statistics.median(quotients), quotients[-1])],
        }  # fmt: skip
        print(name, found[name], flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
