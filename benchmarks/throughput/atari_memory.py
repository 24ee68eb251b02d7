"""One million prioritized, frame-stacked Atari steps: what the whole process takes, and how fast examples come out.

    python benchmarks/throughput/atari_memory.py                  # about a minute, 8 GB
    python benchmarks/throughput/atari_memory.py --steps 100000   # small

Random frames, no emulator: 8 environments, episodes of 2,000 steps, 3-step returns, prioritized replay. Samples of 32 and of
512 examples stand beside one plain copy of as many bytes from some place in the same memory, made in turns with them, because
absolute numbers move with the machine. The bytes are those of both stacks of each example (2 x 28,224), as a learner gets them.

    python benchmarks/throughput/atari_memory.py --training       # a quarter of an hour: a real training instead

D3QN on eight games of Pong, prioritized, 3-step, fills the memory, learns, saves, and is resumed: the largest size of both.
The answers go to results/atari_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from run import RESULTS, machine

import protorl as prl
from protorl.data import ActionSpec, Array, ArraySpec, Chunk, Columns, Step

ENVS, EPISODE = 8, 2_000
FRAME = (84, 84)


def fill(memory: prl.Replay, steps: int) -> float:
    """Add vector steps until `steps` rows are there; returns rows per second."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (97, ENVS, *FRAME), np.uint8)
    stack = np.zeros((ENVS, 4, *FRAME), np.uint8)
    stack[:, 3] = frames[-1]
    no, yes, ones = np.zeros(ENVS, bool), np.ones(ENVS, bool), np.ones(ENVS, np.float32)
    action, first = np.zeros(ENVS, np.int64), yes
    began = time.perf_counter()
    for t in range(steps // ENVS):
        following = np.concatenate([stack[:, 1:], frames[t % 97][:, None]], 1)
        over = (t + 251 * np.arange(ENVS)) % EPISODE == EPISODE - 1
        discount = 1 - over.astype(np.float32)
        memory.add(Chunk.of(Step(stack, action, ones, discount, over, no, following, first, yes)))
        first, stack = over, following
        if over.any():
            stack = following.copy()
            stack[over, :3] = 0
    return steps / (time.perf_counter() - began)


def in_turns(calls: dict[str, Callable[[], object]], times: int) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ..."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def peak_gb(words: list[str]) -> float:
    """The largest size of a `protorl` command."""
    process = subprocess.Popen([sys.executable, "-m", "protorl", *words])
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"protorl {' '.join(words)} failed")
    return round(usage.ru_maxrss * 1024 / 1e9, 2)


def training(steps: int) -> dict[str, Any]:
    """The peaks of a training that fills a memory of so many steps, learns and saves, and of its resumption."""
    settings = {
        "per_alpha": 0.6, "n_step": 3, "num_envs": 8, "capacity": steps, "warmup_steps": steps, "steps": steps + 800,
        "eval_every": 0, "accelerate": "aot", "threads": 1, "checkpoint_every": max(steps // 4, 1),
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        first = peak_gb(["train", "d3qn", "--env", "ALE/Pong-v5", "--run-dir", run, *words])
        again = peak_gb(["resume", run, "--steps", str(steps + 1_600)])
    return {"capacity": steps, "updates": 200, "train_peak_rss_gb": first, "resume_peak_rss_gb": again}


def record(name: str, report: dict[str, Any]) -> None:
    """Print, and keep with the machine it was measured on."""
    print(json.dumps(report, indent=2))
    path = RESULTS / "atari_memory.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[name] = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": machine(), **report}
    path.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", action="store_true", help="a real training, and its resumption")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=100)
    args = parser.parse_args()
    if args.training:
        record("training", training(args.steps))
        return
    torch.set_num_threads(1)
    obs = ArraySpec((4, *FRAME), np.dtype(np.uint8), frame_stack=4, stack_padding="zero")
    columns = Columns(obs, ActionSpec("discrete", (), np.dtype(np.int64), n=6), ENVS)
    memory = prl.Replay(columns, args.steps, batch_size=32, view=prl.NStep(3, 0.99, 1.0), sampler=prl.Prioritized(0.6, 0.4))
    rows_per_second = fill(memory, args.steps)
    frames = memory.storage.leaves[0].data[: memory.storage.slots].numpy().reshape(-1)
    places = np.random.default_rng(1)
    report: dict[str, Any] = {
        "steps": args.steps,
        "examples": len(memory),
        "rows_added_per_second": round(rows_per_second),
        "rss_gb": round(psutil.Process().memory_info().rss / 1e9, 2),
    }
    for size in (32, 512):
        memory.batch_size = memory.sampler.batch_size = size  # type: ignore[attr-defined]
        memory.sampler.strata = np.arange(size) / size  # type: ignore[attr-defined]
        moved = 2 * size * obs.size
        target = np.zeros(moved, np.uint8)
        held = [memory.sample() for _ in range(3)]  # compiles, and makes the arrays that are then used again
        del held

        def learn(size: int = size) -> None:
            batch = memory.sample()
            memory.feedback(batch, torch.ones(size))

        def copy(moved: int = moved, target: Array = target) -> None:
            start = int(places.integers(0, frames.size - moved))
            np.copyto(target, frames[start : start + moved])

        calls = {"sample": memory.sample, "sample_and_feedback": learn, "copy": copy}
        for name, seconds in in_turns(calls, args.times).items():
            least, median = min(seconds), statistics.median(seconds)
            report[f"{name}_{size}"] = {
                "median_us": round(median * 1e6),
                "least_us": round(least * 1e6),
                "gb_per_second": round(moved / median / 1e9, 2),
                "gb_per_second_at_best": round(moved / least / 1e9, 2),
            }
        sample, copied = report[f"sample_{size}"], report[f"copy_{size}"]
        report[f"sample_{size}_of_copy_speed"] = round(copied["median_us"] / sample["median_us"], 2)
    report["peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    record("memory", report)


if __name__ == "__main__":
    main()
