"""Whether anything grows while actors in worker processes train: `python -m tests.contract.soak_workers --minutes 20`.

A learner trains Ape-X DQN with two workers, evaluates and saves, while from time to time one of the workers is killed; each is
started again. Every few seconds it is written down what learner and workers take of memory, how many descriptors the learner
has open, how many processes it has, and what lies in /dev/shm. "own" is what a process shares with nobody (USS).
The series goes to benchmarks/results/soak_workers.json, a table by minutes to soak_workers.md; exit status 1 where the last
fifth exceeds the second one by more than it may, or anything is left in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

import protorl as prl
from protorl.actors import workers
from protorl.recipes.start import start
from protorl.runs.provenance import git_state, hardware, versions
from protorl.runs.signals import Interrupted

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
EVERY = 5.0
"""Seconds between two looks."""
KILL_EVERY = 120.0
"""Seconds between two deaths of a worker."""
LONGEST_END = 600.0
"""Seconds that the learner may take to end on a busy machine: it saves, and may be starting a worker just then."""
ACTED = 4_000
"""Agent steps between them, at least: where the first workers of all cannot start, the training ends, as it should."""
MAY_GROW = {
    "learner_rss": 10.0, "learner_own": 10.0, "workers_rss": 20.0, "workers_own": 20.0, "shared": 0.1, "descriptors": 0.5,
    "processes": 0.5, "shm_files": 0.5,
}  # fmt: skip
"""What the most of two times may differ by."""
WORDS = {
    "steps": "agent steps", "updates": "updates", "deaths": "workers killed", "learner_rss": "learner, MB",
    "learner_own": "its own", "workers_rss": "both workers, MB", "workers_own": "their own", "shared": "handed over in, MB",
    "descriptors": "descriptors", "processes": "processes", "shm_files": "files in /dev/shm",
}  # fmt: skip


def train(folder: str) -> None:
    """The learner's process, until it is asked to stop."""
    workers.MOST_RESTARTS = 1 << 30
    recipe = prl.recipes.ApexDQN(
        workers=2, num_envs=8, capacity=20_000, steps=1 << 40, eval_every=50_000, eval_episodes=4, checkpoint_every=50_000
    )
    with suppress(Interrupted):
        start(recipe, Path(folder), progress=False)


def look(learner: psutil.Process, folder: Path) -> dict[str, float]:
    """What there is now."""
    helpers = learner.children(recursive=True)
    alive = [process for process in helpers if "spawn_main" in " ".join(process.cmdline())]
    memory = [process.memory_full_info() for process in (learner, *alive)]
    maps = learner.memory_maps()
    log = (folder / "metrics.csv").read_text().splitlines()
    row = dict(zip(log[0].split(","), log[-1].split(","))) if len(log) > 1 else {}
    return {
        "steps": float(row.get("step") or 0),
        "updates": float(row.get("updates") or 0),
        "learner_rss": memory[0].rss / 1e6,
        "learner_own": memory[0].uss / 1e6,
        "workers_rss": sum(one.rss for one in memory[1:]) / 1e6,
        "workers_own": sum(one.uss for one in memory[1:]) / 1e6,
        "shared": sum(one.size for one in maps if "memfd:protorl" in one.path) / 1e6,
        "descriptors": learner.num_fds(),
        "processes": len(helpers),
        "workers": len(alive),
        "shm_files": len(os.listdir("/dev/shm")),
    }


def soak(minutes: float, seed: int) -> dict[str, Any]:
    """Watch a training for so long."""
    rng, before = random.Random(seed), sorted(os.listdir("/dev/shm"))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    words = [sys.executable, "-m", "tests.contract.soak_workers", "--train", str(folder / "run")]
    process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    learner, series = psutil.Process(process.pid), list[dict[str, float]]()
    began, deaths, kill_at, before_it = time.monotonic(), 0, KILL_EVERY, 0.0
    try:
        while (now := time.monotonic() - began) < 60 * minutes:
            time.sleep(EVERY)
            if process.poll() is not None:
                raise SystemExit(f"the training ended with exit status {process.returncode}")
            try:
                series.append({"minute": now / 60, "deaths": deaths, **look(learner, folder / "run")})
            except (OSError, psutil.NoSuchProcess):  # it begins, or a worker is just not there
                continue
            print(json.dumps(series[-1]), flush=True)
            victims = [one for one in learner.children() if "spawn_main" in " ".join(one.cmdline())]
            acted = series[-1]["steps"] >= before_it + ACTED
            if now > kill_at and acted and len(victims) == 2:
                rng.choice(victims).kill()
                deaths, kill_at, before_it = deaths + 1, now + KILL_EVERY, series[-1]["steps"]
        helpers = learner.children(recursive=True)
        process.send_signal(signal.SIGINT)
        status = process.wait(LONGEST_END)
        _, left = psutil.wait_procs(helpers, timeout=10)
    finally:
        process.kill()
    shutil.rmtree(folder)
    return {
        "series": series,
        "exit_status": status,
        "processes_left": len(left),
        "shm_left": sorted(set(os.listdir("/dev/shm")) - set(before)),
    }


def growth(series: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Of each: the most in the second fifth of the time, and in the last. The first fifth fills the memory, and loads code."""
    parts = [series[len(series) * i // 5 : len(series) * (i + 1) // 5] for i in (1, 4)]
    return {name: [round(max(row[name] for row in part), 2) for part in parts] for name in MAY_GROW}


def table(series: Sequence[dict[str, float]]) -> str:
    """The last look of every other minute."""
    lines = ["| minute | " + " | ".join(WORDS.values()) + " |", "|---" * (len(WORDS) + 1) + "|"]
    last = {int(row["minute"]) // 2: row for row in series}
    lines += [f"| {row['minute']:.0f} | " + " | ".join(f"{row[name]:,.0f}" for name in WORDS) + " |" for row in last.values()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether anything grows while worker processes act.")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--seed", type=int, default=0, help="of who is killed")
    parser.add_argument("--train", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train)
        return 0
    found = soak(arguments.minutes, arguments.seed)
    grown = growth(found["series"])
    failures = [name for name, (early, late) in grown.items() if late - early > MAY_GROW[name]]
    failures += [name for name in ("exit_status", "processes_left", "shm_left") if found[name]]
    record = {
        "command": " ".join(["python", "-m", "tests.contract.soak_workers", *sys.argv[1:]]),
        "grown": grown,
        "failures": failures,
        **found,
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    (RESULTS / "soak_workers.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        f"Ape-X DQN on CartPole-v1 with two worker processes for {arguments.minutes:g} minutes, a worker killed every "
        f"{KILL_EVERY:g} seconds: `{record['command']}`, {record['finished']}.\n\n{table(found['series'])}\n"
        "The most in the second fifth of the time, and in the last: "
        + ", ".join(f"{WORDS[name]} {early:,.1f} and {late:,.1f}" for name, (early, late) in grown.items())
        + f". Left in the end: {found['processes_left']} processes, {len(found['shm_left'])} files in /dev/shm.\n"
    )
    (RESULTS / "soak_workers.md").write_text(text)
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
