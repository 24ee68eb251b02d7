"""How long a command takes to begin: medians of runs in turns with `import torch`, the part that is not ours.

    python benchmarks/startup.py                 # 5 turns: a minute or two
    python benchmarks/startup.py --turns 1

Every command is a process of its own, started once before the first turn (so that files are in the system's cache). A turn
runs all of them one after the other; `beyond torch` is a command's time less that of `import torch` in the same turn.
Writes results/startup.json and results/startup.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FLOOR = "import torch"
COMMANDS: dict[str, list[str]] = {
    FLOOR: ["-c", "import torch"],
    "import protorl": ["-c", "import protorl"],
    "import protorl; protorl.DQN, protorl.recipes": ["-c", "import protorl; protorl.DQN, protorl.recipes"],
    "protorl --help": ["-m", "protorl", "--help"],
    "protorl train --help": ["-m", "protorl", "train", "--help"],
    "protorl train dqn --help": ["-m", "protorl", "train", "dqn", "--help"],
    "protorl eval --help": ["-m", "protorl", "eval", "--help"],
    "protorl list": ["-m", "protorl", "list"],
}


def seconds(words: list[str]) -> float:
    """How long a Python process with these arguments lives."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def measure(turns: int) -> dict[str, list[float]]:
    """Seconds of each command in each turn."""
    for words in COMMANDS.values():
        seconds(words)
    rows: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(turns):
        for name, words in COMMANDS.items():
            rows[name].append(round(seconds(words), 3))
    return rows


def render(result: dict[str, Any]) -> str:
    """The table, as Markdown."""
    lines = [
        "# Start-up",
        "",
        f"Seconds, median [least, largest] of {result['turns']} turns; negative: done before torch would have been imported.",
        f"Measured {result['date']} with `{result['command']}`; {result['machine']}, load before {result['load_before']}; "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}.",
        "",
        "| command | seconds | beyond torch |",
        "|---|---|---|",
    ]
    for name, took in result["seconds"].items():
        beyond = [one - floor for one, floor in zip(took, result["seconds"][FLOOR])]
        cells = [f"{statistics.median(v):.2f} [{min(v):.2f}, {max(v):.2f}]" for v in (took, beyond)]
        lines.append(f"| `{name}` | {cells[0]} | {'' if name == FLOOR else cells[1]} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="runs of each command (5)")
    turns = parser.parse_args().turns
    result = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/startup.py", *sys.argv[1:]]),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("protorl", "torch", "numpy", "numba", "gymnasium", "tyro", "rich")},
        "turns": turns,
        "seconds": measure(turns),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "startup.json").write_text(json.dumps(result, indent=1) + "\n")
    text = render(result)
    (RESULTS / "startup.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
