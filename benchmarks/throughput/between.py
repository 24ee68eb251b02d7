"""This checkout beside another one, in pairs of windows: steps per second of CPU time while learning, and their ratio.

    git worktree add ../before COMMIT
    python benchmarks/throughput/between.py ../before dqn --update-every 10
    python benchmarks/throughput/between.py ../before sac --env Pendulum-v1 --windows 8 --seconds 3

Whatever follows the other checkout goes to both sides' `with_protorl.py`. The order within a pair alternates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]


def started(root: Path, words: list[str]) -> subprocess.Popen[str]:
    """A contender of that checkout, ready to be asked."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, str(root / "benchmarks" / "throughput" / "with_protorl.py"), *words]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment, cwd=root, **pipes)


def answer(side: subprocess.Popen[str]) -> dict[str, float]:
    assert side.stdout is not None
    line = side.stdout.readline()
    if not line:
        raise SystemExit(f"{side.args} ended: run it by itself to see why")
    return dict(json.loads(line))


def speed(side: subprocess.Popen[str], seconds: float) -> float:
    """Agent steps per second of CPU time in a window."""
    assert side.stdin is not None
    print(seconds, file=side.stdin, flush=True)
    window = answer(side)
    return window["steps"] / window["cpu_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.5)
    options, words = parser.parse_known_args()
    sides = {"before": started(options.before.resolve(), words), "now": started(HERE, words)}
    for side in sides.values():
        answer(side)
        speed(side, 1.0)
    ratios, speeds = [], {name: [] for name in sides}
    for i in range(options.windows):
        for name in sorted(sides, reverse=i % 2 == 1):
            speeds[name].append(speed(sides[name], options.seconds))
        ratios.append(speeds["now"][-1] / speeds["before"][-1])
    for side in sides.values():
        side.kill()
    before, now = (statistics.median(speeds[name]) for name in ("before", "now"))
    ratio = f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
    print(f"| {' '.join(words)} | {before:,.0f} | {now:,.0f} | {ratio} |")


if __name__ == "__main__":
    main()
