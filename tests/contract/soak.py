"""Trainings killed and resumed at random, for as long as you like: `python -m tests.contract.soak --minutes 60`.

Each round takes one case of `test_resume`, trains it whole in a process of its own, then again with deaths: SIGKILL at a turn
of the loop, inside a write, or from outside at any time; now and then the newest checkpoint is cut short, too. Both must end
bit for bit alike. The tally goes to benchmarks/results/soak.json, with the command and the machine; exit status 1 where any
training differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from protorl.runs.provenance import git_state, hardware, versions
from tests.contract.test_resume import CASES, assert_equal, final_state, make

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "soak.json"
MOST_DEATHS = 12


def live(folder: Path, recipe: list[Any], moment: str, seconds: float | None = None) -> int:
    """A training process that dies at a moment of its own, or from outside after so many seconds; its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RECIPE_JSON": json.dumps(recipe)}
    words = [sys.executable, "-m", "tests.contract.mortal", str(folder), moment]
    process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def damage(folder: Path, rng: np.random.Generator) -> bool:
    """Cut the newest checkpoint short where there is one before it."""
    saved = sorted((folder / "checkpoints").glob("step-*/state.pt"))
    if len(saved) < 2:
        return False
    data = saved[-1].read_bytes()
    saved[-1].write_bytes(data[: rng.integers(len(data))])
    return True


def one_round(folder: Path, case: str, rng: np.random.Generator, tally: Counter[str]) -> None:
    """One case, whole and with deaths. Raises: AssertionError where they differ or a process fails by itself."""
    name, fields = CASES[case]
    made = make(name, **fields)
    recipe = [name, dataclasses.asdict(made)]
    turns = made.steps // made.num_envs
    begin = time.monotonic()
    assert live(folder / "whole", recipe, "never:0") == 0, "the whole training failed"
    took = time.monotonic() - begin
    for _ in range(rng.integers(1, MOST_DEATHS)):
        kind = rng.choice(["tick", "write", "outside"])
        if kind == "outside":
            code = live(folder / "killed", recipe, "never:0", seconds=rng.uniform(0, took))
        else:
            code = live(folder / "killed", recipe, f"{kind}:{rng.integers(1, turns if kind == 'tick' else 40)}")
        if code == 0:
            break
        assert code == -9, f"exit status {code} where only SIGKILL was meant"
        tally[f"killed: {kind}"] += 1
        if rng.random() < 0.2 and damage(folder / "killed", rng):
            tally["checkpoints cut short"] += 1
    assert live(folder / "killed", recipe, "never:0") == 0, "the last resumption failed"
    assert_equal(final_state(folder / "whole"), final_state(folder / "killed"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Trainings killed and resumed at random.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: an hour)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases and the moments")
    parser.add_argument("--case", choices=sorted(CASES), help="only this one")
    arguments = parser.parse_args()
    rng, tally, failures = np.random.default_rng(arguments.seed), Counter[str](), list[str]()
    begin = time.monotonic()
    while time.monotonic() - begin < 60 * arguments.minutes:
        case = arguments.case or str(rng.choice(sorted(CASES)))
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        try:
            one_round(folder, case, rng, tally)
        except AssertionError as error:
            failures.append(f"{case} in {folder}: {str(error).splitlines()[0]}")
            print(failures[-1], flush=True)
        else:
            shutil.rmtree(folder)
        tally["trainings compared"] += 1
        deaths = sum(number for what, number in tally.items() if what.startswith("killed"))
        print(f"{tally['trainings compared']} trainings, {deaths} deaths, {len(failures)} differences", flush=True)
    record = {
        "command": " ".join(["python", "-m", "tests.contract.soak", *sys.argv[1:]]),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "tally": dict(sorted(tally.items())),
        "failures": failures,
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
