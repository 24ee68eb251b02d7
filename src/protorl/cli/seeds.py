"""Several seeds, each in a process of its own, side by side."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from protorl.cli.arguments import Train
from protorl.data import ProtoRLError
from protorl.digits import figure
from protorl.machine import CORES, cores

if TYPE_CHECKING:
    from protorl.recipes import Recipe


def train_seeds(arguments: Train, recipe: Recipe) -> int:
    """Every seed in a process of its own, so many at a time."""
    from protorl.recipes.config import short_env
    from protorl.recipes.start import make_run_folder
    from protorl.runs.folder import refuse_used, unused_folder

    folder = arguments.run_dir
    if folder is None:
        folder = unused_folder(f"{type(recipe).name}_{short_env(recipe)}")
    refuse_used(folder)
    rehearse(recipe)
    runs = [folder / f"seed-{seed}" for seed in range(arguments.seed, arguments.seed + arguments.seeds)]
    for seed, run_dir in enumerate(runs, arguments.seed):  # all of them now, so that `resume` finds those that never began
        make_run_folder(dataclasses.replace(recipe, seed=seed), run_dir)
    return side_by_side(folder, runs, [], arguments.jobs)


def side_by_side(folder: Path, runs: list[Path], options: list[str], at_once: int | None) -> int:
    """`protorl resume` for each run, in a process of one thread and out of reach of the terminal's Ctrl-C, which is handed on;
    reports as they end."""
    at_once = min(cores() if at_once is None else at_once, len(runs))
    print(f"{len(runs)} runs in {folder}, {at_once} at a time; their output is in *.log there", flush=True)
    share = str(max(1, cores() // at_once))
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), CORES: share}
    waiting = list(runs)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    failed: list[Path] = []
    stopped = 0
    with forwarded_signals(running) as received:
        while waiting or running:
            while waiting and len(running) < at_once and not received:
                run_dir = waiting.pop(0)
                words = [sys.executable, "-m", "protorl", "resume", str(run_dir), *options]
                with open(run_dir.with_suffix(".log"), "ab") as log:
                    running[run_dir] = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
            time.sleep(0.2)
            for run_dir, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[run_dir]
                if code == 0:
                    print(f"{run_dir.name}: {last_score(run_dir)}", flush=True)
                elif code > 128 and received:
                    stopped += 1
                else:
                    failed.append(run_dir)
                    print(f"{run_dir.name} failed: {last_line(run_dir.with_suffix('.log'))}", file=sys.stderr, flush=True)
            if received and not running:
                break
    if received:
        left = f", {len(waiting)} had not begun" if waiting else ""
        print(f"stopped {stopped} runs{left}: continue with `protorl resume {folder}`", file=sys.stderr)
        return 128 + received[0]
    if failed:
        raise ProtoRLError(
            f"{len(failed)} of {len(runs)} runs failed ({', '.join(run.name for run in failed)}): see their .log files"
        )
    from protorl.cli.plot import plot

    print(f"learning curve: {plot([folder], folder / 'curve.png')}")
    print(f"next: protorl eval {folder} --episodes 100")
    return 0


def rehearse(recipe: Recipe) -> None:
    """Raises: ProtoRLError for what would end every one of the runs at its beginning."""
    from protorl.recipes.foresight import foresee
    from protorl.recipes.measure import quiet

    with quiet(), closing(recipe.make_env()) as env:
        agent, memory, _ = dataclasses.replace(recipe.here(), device="cpu").assemble(env)
        foresee(recipe, agent, memory, env.spec)


@contextmanager
def forwarded_signals(running: dict[Path, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and a terminal's end go to the runs, which save themselves; the numbers received are in the list."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in list(running.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def last_score(run_dir: Path) -> str:
    from protorl.runs.metrics import read_metrics

    metrics = read_metrics(run_dir / "metrics.csv")
    for name, spread in (("eval_return", "eval_std"), ("return", None)):
        values = metrics.get(name, np.zeros(0))
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            std = None if spread is None or spread not in metrics else float(metrics[spread][known[-1]])
            return f"last {name} {figure(float(values[known[-1]]), std)}"
    return "done"


def seed_folders(folder: Path) -> list[Path]:
    """The runs of a folder of seeds; the folder itself if it is one run."""
    if (folder / "config.json").exists():
        return [folder]
    seeds = [path.parent for path in folder.glob("seed-*/config.json") if path.parent.name[5:].isdecimal()]
    runs = sorted(seeds, key=lambda run: int(run.name[5:]))
    if not runs:
        raise ProtoRLError(f"{folder} is no run folder: it has neither config.json nor seed-*/config.json")
    return runs
