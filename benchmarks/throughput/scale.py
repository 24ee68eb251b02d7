"""Many Ray actors on one machine: whether what the learner takes in depends on how many there are.

    python benchmarks/throughput/scale.py                 # some five minutes, 14 GB; needs Ray
    python benchmarks/throughput/scale.py --actors 8 32   # fewer

Each actor has one lane and hands over chunks of 50 steps of CartPole's size, made beforehand, as fast as it is asked. They do
not import torch, with which 256 processes do not fit into 24 GB: they speak with the learner as ProtoRL's own do, by the same
engine. What a row costs the learner, in CPU time, and what arrives in a prioritized memory per second stand beside each other:
the actors share the machine's cores with the learner and with Ray. The answer goes to results/scale.json and results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import canned
import cloudpickle
import numpy as np
import psutil
import torch
from run import RESULTS, machine, show, spread, table

import protorl as prl
from protorl.actors import WorkerActors
from protorl.actors.engine import Filled, Report
from protorl.actors.on_ray import OnRay, Remote
from protorl.actors.slots import Slots

STEPS = 50
EACH_GB, SPARE_GB = 0.06, 2.0
"""What an actor's process takes, and what is left to everybody else."""


class Light:
    """In a Ray actor: a chunk that was made beforehand."""

    def __init__(self, chunk: Any) -> None:
        self.chunk = chunk

    def answer(self, verb: str, weights: Any = None, updates: int = 0) -> tuple[Any, ...]:
        if verb == "begin":
            import ray

            return True, ray.get_runtime_context().get_node_id()
        return (True, self.chunk, updates) if verb == "act" else (True,)


class OnLight(OnRay):
    """The engine of Ray's actors, with these in the place of ProtoRL's."""

    def start(self, which: Sequence[int], number: int) -> None:
        self.connect()
        self.began, self.told = time.monotonic(), False
        slots = Slots(self.columns[0], STEPS, 1)
        slots.write(0, 0, next(canned.episode("cartpole", 1).pieces(STEPS)))
        chunk = self.ray.put(np.frombuffer(slots.memory.block, np.uint8))
        actor = self.ray.remote(num_cpus=1)(Light)
        for i in which:
            handle = actor.remote(chunk)
            self.workers[i] = Remote(handle, handle.answer.remote("begin"))

    def answer(self, i: int) -> Filled | Exception | None:
        remote = self.ray
        self.ray = Reporting(remote)
        try:
            return super().answer(i)
        finally:
            self.ray = remote


class Reporting:
    """Ray, whose answers bring the report of a chunk that nothing is to be told of."""

    def __init__(self, ray: Any) -> None:
        self.exceptions, self.inner = ray.exceptions, ray

    def get(self, ref: Any) -> tuple[Any, ...]:
        well, value, *updates = self.inner.get(ref)
        return (well, value, Report([], *updates, 0.0, 0.0)) if updates else (well, value)


def measure(n: int, windows: int, seconds: float) -> dict[str, Any]:
    """Rows per second, CPU microseconds of a row, and bytes, with so many actors."""
    rows = canned.columns("cartpole", n)
    memory = prl.Replay(rows, 256 * 400, batch_size=32, view=prl.NStep(3, 0.99), sampler=prl.Prioritized(0.6, 0.4))
    made: Any = cloudpickle.dumps
    actors = WorkerActors(canned.Still(), made, rows, "canned steps", workers=n, steps=STEPS, engine=OnLight)  # type: ignore[arg-type]
    learner, before = psutil.Process(), psutil.virtual_memory().available
    heard: set[int] = set()
    began = time.perf_counter()
    while len(heard) < n:
        for chunk in actors.poll(1 << 30):
            memory.add(chunk)
            heard.add(int(chunk.lanes[0]))
    print(f"{n} actors are there after {time.perf_counter() - began:.0f} s", flush=True)
    found: dict[str, list[float]] = {"rows_per_s": [], "us": [], "learner_mb": [], "all_gb": []}
    for _ in range(windows):
        taken, begin, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            for chunk in actors.poll(1 << 30):
                memory.add(chunk)
                taken += chunk.valid.size
        found["rows_per_s"].append(taken / (time.perf_counter() - begin))
        found["us"].append((time.process_time() - cpu) / taken * 1e6)
        found["learner_mb"].append(learner.memory_full_info().uss / 1e6)
        found["all_gb"].append((before - psutil.virtual_memory().available) / 1e9)
    actors.close()
    return {"actors": n, **{name: spread(values) for name, values in found.items()}, "all_gb_windows": found["all_gb"]}


def render(result: dict[str, Any]) -> str:
    """As Markdown."""
    m = result["machine"]
    versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("protorl", "ray", "torch", "numpy"))
    body = [
        [str(r["actors"]), show(r["rows_per_s"]), show(r["us"], 1), show(r["learner_mb"]), show(r["all_gb"], 1)]
        for r in result["rows"]
    ]
    return (
        "Ray actors of one lane each on one machine, chunks of 50 canned steps, into a prioritized memory; actors that do not\n"
        f"import torch. Median [least, largest] of {result['windows']} windows.\n\n"
        f"Measured {result['date']} with `{result['command']}`; {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{m['system']}, Python {m['python']}; {versions}. Load of the machine before the start: {m['load_before']}.\n\n"
        + table(["actors", "rows/s into memory", "CPU µs of the learner per row", "learner's own MB", "all of it, GB"], body)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    rows: list[dict[str, Any]] = []
    before = machine()
    for n in args.actors:
        fits = int((psutil.virtual_memory().available / 1e9 - SPARE_GB) / EACH_GB)
        rows.append(measure(min(n, fits), args.windows, args.seconds))
    result = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/throughput/scale.py", *sys.argv[1:]]),
        "machine": before,
        "windows": args.windows,
        "rows": rows,
    }
    (RESULTS / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "scale.md").write_text(render(result))
    print(render(result))


if __name__ == "__main__":
    main()
