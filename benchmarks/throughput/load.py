"""The load of Ape-X's learner beside its network: what share of one core it takes.

    python benchmarks/throughput/load.py                  # two minutes, 8 GB
    python benchmarks/throughput/load.py --steps 100000   # a small memory

Horgan et al. 2018, arXiv 1803.00933: actors play 12,500 steps a second (50,000 frames), each with its priority; the learner
draws 19 batches of 512 a second from a memory of a million steps and more, and writes their priorities back. That is done here
for so many seconds' worth: stacks of 84x84, 3-step returns, alpha 0.6. Nobody plays, the steps were made beforehand, and nobody
learns. What is counted is the CPU time of the thread that would learn, once the memory is full and each row overwrites one:

- "360 actors": as in the paper, of 360 lanes each one hands over 50 steps at a time;
- "2 workers": chunks come from two processes, 4 lanes and 50 steps each.

The answer goes to results/load.json and results/load.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
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
from protorl.data import Chunk

STEPS_PER_SECOND, BATCHES_PER_SECOND, BATCH, SENT = 12_500, 19, 512, 50
ACTORS = 360
PARTS = ("hand over", "add", "sample", "write priorities")


def sent_by_actors() -> Iterator[Callable[[], list[Chunk]]]:
    """Each of 360 lanes in turn hands over the next 50 steps of an episode."""
    whole = canned.episode("atari", 1, 10 * SENT)
    pieces = [whole.part(slice(begin, begin + SENT)) for begin in range(0, 10 * SENT, SENT)]
    lanes = [np.array([lane]) for lane in range(ACTORS)]
    turns = itertools.cycle([(piece, lane) for piece in pieces for lane in lanes])

    def poll() -> list[Chunk]:
        piece, lane = next(turns)
        return [Chunk(*piece, lane)]

    yield poll


def sent_by_workers() -> Iterator[Callable[[], list[Chunk]]]:
    """Two processes hand over 50 steps of four lanes each."""
    cloudpickle.register_pickle_by_value(canned)
    actors = WorkerActors(
        canned.Still(),
        functools.partial(canned.build, "atari"),
        canned.columns("atari", 8),
        "canned steps",
        workers=2,
        steps=SENT,  # type: ignore[arg-type]
    )
    yield lambda: actors.poll(1)
    actors.close()


def shares(poll: Callable[[], list[Chunk]], lanes: int, steps: int, seconds: int) -> tuple[list[dict[str, float]], float]:
    """CPU seconds of each part in each simulated second, and the process's size in GB."""
    memory = prl.Replay(
        canned.columns("atari", lanes), steps, batch_size=BATCH, view=prl.NStep(3, 0.99, 1.0), sampler=prl.Prioritized(0.6, 0.4)
    )
    draw = np.random.default_rng(0)
    clock = time.thread_time
    rows, full = 0, False

    def second() -> dict[str, float]:
        nonlocal rows
        spent, batches, begun = dict.fromkeys(PARTS, 0.0), 0, rows
        while rows - begun < STEPS_PER_SECOND:
            t0 = clock()
            chunks = poll()
            t1 = clock()
            for chunk in chunks:
                memory.add(chunk)
                rows += chunk.valid.size
            t2 = clock()
            spent["hand over"] += t1 - t0
            spent["add"] += t2 - t1
            while full and batches < BATCHES_PER_SECOND * (rows - begun) // STEPS_PER_SECOND:
                priority = torch.from_numpy(draw.random(BATCH, np.float32))
                t0 = clock()
                batch = memory.sample()
                t1 = clock()
                memory.feedback(batch, priority)
                t2 = clock()
                spent["sample"] += t1 - t0
                spent["write priorities"] += t2 - t1
                batches += 1
        return {name: value * STEPS_PER_SECOND / (rows - begun) for name, value in spent.items()}

    while rows < steps + ACTORS * SENT:
        second()
    full = True
    second()
    return [second() for _ in range(seconds)], psutil.Process().memory_info().rss / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the memory")
    parser.add_argument("--seconds", type=int, default=30, help="seconds' worth of work to measure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/throughput/load.py", *sys.argv[1:]]),
        "machine": machine(),
        "steps": args.steps,
        "share_of_a_core": {},
    }
    for name, source, lanes in (("360 actors", sent_by_actors, ACTORS), ("2 workers", sent_by_workers, 8)):
        opened = source()
        seconds, size = shares(next(opened), lanes, args.steps, args.seconds)
        next(opened, None)
        whole = {"in all": spread([sum(one.values()) for one in seconds])}
        result["share_of_a_core"][name] = whole | {part: spread([one[part] for one in seconds]) for part in PARTS}
        result["share_of_a_core"][name]["rss_gb"] = round(size, 2)
        print(name, json.dumps(result["share_of_a_core"][name], indent=1), flush=True)
    (RESULTS / "load.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "load.md").write_text(render(result))


def render(result: dict[str, Any]) -> str:
    """As Markdown."""
    m, found = result["machine"], result["share_of_a_core"]
    versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("protorl", "torch", "numpy", "numba"))
    rows = []
    for name, parts in found.items():
        shares = [f"{show([100 * value for value in parts[part]], 1)} %" for part in ("in all", *PARTS)]
        rows.append([name, *shares, f"{parts['rss_gb']:.1f}"])
    return (
        "The load of Ape-X's learner beside its network: per second 12,500 steps of 84x84 pushed and 19 batches of 512 drawn,\n"
        f"memory of {result['steps']:,} steps. Shares of one core, median [least, largest] over seconds' worth of work.\n\n"
        f"Measured {result['date']} with `{result['command']}`; {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{m['system']}, Python {m['python']}; {versions}. Load of the machine before the start: {m['load_before']}.\n\n"
        + table(["who hands over", "in all", *PARTS, "GB"], rows)
    )


if __name__ == "__main__":
    main()
