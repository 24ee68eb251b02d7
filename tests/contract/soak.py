"""What breaks a training, over and over: `python -m tests.contract.soak --minutes 60`.

First every damaged file, every wrong command line, and every failure of an environment, here and in worker processes: the
tests of each, slow ones too. Then trainings killed and resumed at random, for as long as you like. Each round takes one case
of `test_resume`, trains it whole in a process of its own, then again with deaths: SIGKILL at a turn of the loop, inside a
write, or from outside at any time; now and then the newest checkpoint is cut short, too. Both must end bit for bit alike, with
the same evaluations. The tally goes to benchmarks/results/soak.json, with the command and the machine, and to the table of
docs/reproducibility.md; exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import csv
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
from xml.etree import ElementTree

import numpy as np

from protorl.runs.provenance import git_state, hardware, versions
from tests.contract.test_resume import CASES, assert_equal, final_state, make

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "soak.json"
PAGE = ROOT / "docs" / "reproducibility.md"
BEGIN, END = "<!-- soak -->", "<!-- end of soak -->"
KINDS = {
    "damaged files": ["tests/contract/test_damage.py"],
    "wrong command lines": ["tests/smoke/test_cli.py", "-k", "mistake or wrong or mistyped"],
    "failing environments": ["tests/contract/test_faults_of_envs.py"],
    "failing actors": ["tests/contract/test_workers.py"],
}
"""Tests of each kind."""
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
    whole, killed = evaluations(folder / "whole"), evaluations(folder / "killed")
    assert whole == killed, f"evaluations {whole} became {killed}"
    tally["evaluations compared"] += len(whole)


def evaluations(folder: Path) -> list[tuple[str, str, str]]:
    """Step, mean return and deviation of every evaluation of a run, as they were written down."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["step"], row["eval_return"], row["eval_std"]) for row in rows if row.get("eval_return")]


def tests(kind: str) -> dict[str, int]:
    """How many tests of a kind there are, and how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *KINDS[kind]]
        subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        suite = ElementTree.parse(report).getroot()[0]
    return {"tests": int(suite.get("tests", 0)), "failed": int(suite.get("failures", 0)) + int(suite.get("errors", 0))}


def table(record: dict[str, Any]) -> str:
    """The record in the words of the page."""
    tally = record["tally"]
    deaths = sum(number for what, number in tally.items() if what.startswith("killed"))
    rows = [f"| {kind} | {found['tests']} | {found['failed']} |" for kind, found in record["tests"].items()]
    killed = (
        f"| trainings killed {deaths} times and resumed ({record['configurations']} configurations, "
        f"{tally.get('evaluations compared', 0)} evaluations compared) | {tally.get('trainings compared', 0)} | "
        f"{len(record['failures'])} |"
    )
    return "\n".join(["| what | tried | not as it must be |", "|---|---|---|", *rows, killed, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description="Trainings killed and resumed at random.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: an hour)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases and the moments")
    parser.add_argument("--case", choices=sorted(CASES), help="only this one")
    arguments = parser.parse_args()
    rng, tally, failures = np.random.default_rng(arguments.seed), Counter[str](), list[str]()
    found = {} if arguments.case else {kind: tests(kind) for kind in KINDS}
    seen: set[str] = set()
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
        seen.add(case)
        deaths = sum(number for what, number in tally.items() if what.startswith("killed"))
        print(f"{tally['trainings compared']} trainings, {deaths} deaths, {len(failures)} differences", flush=True)
    record = {
        "command": " ".join(["python", "-m", "tests.contract.soak", *sys.argv[1:]]),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "tests": found,
        "tally": dict(sorted(tally.items())),
        "configurations": len(seen),
        "failures": failures,
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    if found:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n" + table(record) + END + rest.partition(END)[2])
    return 1 if failures or any(one["failed"] for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
