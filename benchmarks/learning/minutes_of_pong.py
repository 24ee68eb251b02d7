"""Minutes of Pong: Ape-X DQN, with a worker on each core but the learner's, beside DQN. For a machine with a GPU.

    python benchmarks/learning/minutes_of_pong.py                                # eight minutes each
    python benchmarks/learning/minutes_of_pong.py --minutes 4 --recipes apex-dqn

Each is started from the command line, and stopped as a person would stop it: by Ctrl-C. What counts is how far it came: steps
and updates per second of the time that it had, starting and compiling included; the mean return of the last ten episodes of
its training, exploration included, and of ten episodes of its last weights. The answer is results/minutes-of-pong.md (and
.json); the curves are in curves/.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from run import HERE, RESULTS

ENV, STEPS, EPISODES = "ALE/Pong-v5", 10_000_000, 10
"""What is played; steps that a learning rate or an epsilon may count on; episodes that make a return."""


def protorl(*words: str) -> list[str]:
    return [sys.executable, "-m", "protorl", *words]


def play(recipe: str, minutes: float, settings: list[str], folder: Path) -> dict[str, Any]:
    """Train for so long, then evaluate."""
    words = ["train", recipe, "--env", ENV, "--steps", str(STEPS), "--run-dir", str(folder)]
    words += [word for setting in ["eval_every=0", "log_every=500", *settings] for word in ("--set", setting)]
    training = subprocess.Popen(protorl(*words), stdout=subprocess.DEVNULL)
    try:
        training.wait(60 * minutes)
        raise SystemExit(f"{recipe} ended by itself, with {training.returncode}")
    except subprocess.TimeoutExpired:
        training.send_signal(signal.SIGINT)
    training.wait()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    seconds, last = 60 * minutes, rows[-1]
    subprocess.run(protorl("eval", str(folder), "--episodes", str(EPISODES), "--checkpoint", "last"), check=True)
    curves = HERE / "curves" / "minutes-of-pong" / recipe
    curves.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "metrics.csv", curves / "metrics.csv")
    return {
        "recipe": recipe,
        "minutes": minutes,
        "settings": settings,
        "steps": float(last["step"]),
        "steps_per_second": float(last["step"]) / seconds,
        "updates_per_second": float(last["updates"]) / seconds,
        "learner_waits": float(last.get("learner_waits") or 0.0),
        "training_return": last_episodes(rows),
        "eval_return": json.loads((folder / "eval.json").read_text())["mean"],
    }


def last_episodes(rows: list[dict[str, str]]) -> float | None:
    """Mean return of the last episodes of a training, if there were any."""
    total = count = 0.0
    for row in reversed(rows):
        if row.get("return") and count < EPISODES:
            total += float(row["return"]) * float(row["episodes"])
            count += float(row["episodes"])
    return total / count if count else None


def report(result: dict[str, Any]) -> str:
    """The table."""
    head = ["recipe", "minutes", "steps", "steps/s", "updates/s", "learner waits", "return in training", "return, greedy"]
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        trained = "no episode" if row["training_return"] is None else f"{row['training_return']:.1f}"
        lines.append([
            row["recipe"], f"{row['minutes']:g}", f"{row['steps']:,.0f}", f"{row['steps_per_second']:,.0f}",
            f"{row['updates_per_second']:,.1f}", f"{row['learner_waits']:.0%}", trained, f"{row['eval_return']:.1f}",
        ])  # fmt: skip
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{ENV}, measured with `{result['command']}`; {result['device']}, {result['cores']} cores.\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["apex-dqn", "dqn"])
    parser.add_argument("--minutes", type=float, default=8.0, help="of each")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="FIELD=VALUE", help="of each recipe")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [play(recipe, args.minutes, args.settings, Path(folder) / recipe) for recipe in args.recipes]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    command = " ".join(["python", "benchmarks/learning/minutes_of_pong.py", *sys.argv[1:]])
    result = {"command": command, "device": device, "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "minutes-of-pong.json").write_text(json.dumps(result, indent=1))
    (RESULTS / "minutes-of-pong.md").write_text(report(result))
    print(report(result))


if __name__ == "__main__":
    main()
