"""The memory of R2D2: what the whole process takes, and how fast batches of sequences come out.

    python benchmarks/throughput/sequences.py                  # about a minute, 2 GB
    python benchmarks/throughput/sequences.py --steps 20000    # small

Random frames, no emulator: 8 environments, episodes of 1,000 steps, prioritized sequences of 40 + 80 + 5 rows, and the carry
of an LSTM of 512. A batch of 64 stands beside one plain copy of as many bytes from some place in the same memory, made in turns
with it, because absolute numbers move with the machine. The bytes are those of the stacks, 28,224 of each row, as a learner
gets them. `frames` is a batch for a learner on another device, to which only single frames travel, a quarter of the bytes. The
plan of the paper's memory of 4 million steps is arithmetic: nothing of it is allocated.

The answers go to results/sequences.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from datetime import datetime, timezone
from typing import Any

import numpy as np
import psutil
import torch
from atari_memory import ENVS, FRAME, in_turns
from run import RESULTS, machine

import protorl as prl
from protorl.data import ActionSpec, ArraySpec, Chunk, Columns, Field, Step

EPISODE, CORE, BATCH = 1_000, 512, 64


def fill(memory: prl.Replay, steps: int) -> float:
    """Add vector steps until `steps` rows are there; returns rows per second."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (97, ENVS, *FRAME), np.uint8)
    carry = rng.normal(size=(97, ENVS, CORE)).astype(np.float32)
    stack = np.zeros((ENVS, 4, *FRAME), np.uint8)
    stack[:, 3] = frames[-1]
    no, yes, ones = np.zeros(ENVS, bool), np.ones(ENVS, bool), np.ones(ENVS, np.float32)
    action, first = np.zeros(ENVS, np.int64), yes
    began = time.perf_counter()
    for t in range(steps // ENVS):
        following = np.concatenate([stack[:, 1:], frames[t % 97][:, None]], 1)
        over = (t + 121 * np.arange(ENVS)) % EPISODE == EPISODE - 1
        extras = {"carry_h": carry[t % 97], "carry_c": carry[(t + 1) % 97]}
        discount = 1 - over.astype(np.float32)
        memory.add(Chunk.of(Step(stack, action, ones, discount, over, no, following, first, yes, extras)))
        first, stack = over, following
        if over.any():
            stack = following.copy()
            stack[over, :3] = 0
    return steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    obs = ArraySpec((4, *FRAME), np.dtype(np.uint8), frame_stack=4, stack_padding="zero")
    carry = Field((CORE,), np.dtype(np.float32), starts=True)
    extras = {"carry_h": carry, "carry_c": carry}
    columns = Columns(obs, ActionSpec("discrete", (), np.dtype(np.int64), n=18), ENVS, extras)
    view, sampler = prl.Sequence(length=80, burn_in=40, period=40, n_step=5), prl.Prioritized(0.9, 0.6)
    memory = prl.Replay(columns, args.steps, batch_size=BATCH, view=view, sampler=sampler)
    report: dict[str, Any] = {
        "plan": str(prl.plan_memory(columns, args.steps, starts=view.starts, priorities=sampler.bytes)),
        "plan_of_the_paper": str(prl.plan_memory(columns, 4_000_000, starts=view.starts, priorities=sampler.bytes)),
        "rows_added_per_second": round(fill(memory, args.steps)),
        "sequences": len(memory),
        "rss_gb": round(psutil.Process().memory_info().rss / 1e9, 2),
    }
    rows = view.burn_in + view.length + view.n_step
    frames = memory.storage.leaves[0].data[: memory.storage.slots].numpy().reshape(-1)
    places = np.random.default_rng(1)
    moved = rows * BATCH * obs.size
    target = np.zeros(moved, np.uint8)
    held = [memory.sample() for _ in range(2)]  # compiles, and makes the arrays that are then used again
    assert held[0].seen.obs.shape == (rows, BATCH, 4, *FRAME)
    del held
    index, weight = sampler.draw(0)

    def learn() -> None:
        memory.feedback(memory.sample(), torch.ones(BATCH))

    def copy() -> None:
        start = int(places.integers(0, frames.size - moved))
        np.copyto(target, frames[start : start + moved])

    def single() -> None:
        memory.storage.stacks = False
        view.examples(memory.storage, memory.window, index, weight)
        memory.storage.stacks = True

    measured = in_turns({"sample": memory.sample, "sample_and_feedback": learn, "copy": copy}, args.times)
    measured |= in_turns({"frames": single}, args.times)
    for name, seconds in measured.items():
        least, median = min(seconds), statistics.median(seconds)
        size = moved // rows // 4 * (rows + 3) if name == "frames" else moved
        report[name] = {
            "median_ms": round(median * 1e3, 1),
            "least_ms": round(least * 1e3, 1),
            "gb_per_second": round(size / median / 1e9, 2),
            "gb_per_second_at_best": round(size / least / 1e9, 2),
        }
    report["sample_of_copy_speed"] = round(report["copy"]["median_ms"] / report["sample"]["median_ms"], 2)
    report["peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)
    print(json.dumps(report, indent=2))
    kept = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "machine": machine(), "steps": args.steps, **report}
    (RESULTS / "sequences.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
