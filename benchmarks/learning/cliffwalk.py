"""Blind Cliffwalk: how many updates prioritized replay saves (Schaul et al. 2016, Prioritized Experience Replay, figures 1, 2).

    python benchmarks/learning/cliffwalk.py                # n = 2..12, 10 seeds: a minute or two
    python benchmarks/learning/cliffwalk.py --n 8 --seeds 3

n states in a row, two actions; the right one alternates and leads on, the wrong one ends the episode. Only the n-th right
action pays 1. The memory holds what all 2^n action sequences reveal, 2^(n+1) - 2 transitions in random order; only the few of
the one good sequence matter. Tabular Q-learning with step size 1/4 and gamma = 1 - 1/n replays one at a time until the mean
squared error against the true Q is below 1e-3. Writes results/cliffwalk.json and results/cliffwalk.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import protorl as prl
from protorl.data import Array, Chunk, State
from protorl.memory.samplers import Window

RESULTS = Path(__file__).parent / "results"
STEP_SIZE, ENOUGH = 0.25, 1e-3

# Medians of 10 seeds of an independent implementation (the paper prints only the figure): n -> (uniform, greedy)
REFERENCE = {
    2: (64.5, 32), 3: (167.5, 63), 4: (356.5, 104), 5: (814.5, 169.5), 6: (1_736.5, 279.5), 7: (3_183, 440.5),
    8: (7_756.5, 728.5), 9: (14_913.5, 1_282), 10: (30_242.5, 2_350), 11: (53_178, 4_478.5), 12: (130_490, 8_629),
}  # fmt: skip


class GreedyTD:
    """Always the example whose error was largest when last seen; unseen ones first (the paper's "greedy TD-error")."""

    wants_feedback = True
    wants_turnover = True

    def bind(self, window: Window, batch_size: int, seed: int) -> None:
        self.window = window
        self.priority = np.zeros(window.lanes * window.ring)

    def turnover(self, left: Array, entered: Array, given: Array | None) -> None:
        self.priority[left] = 0.0
        self.priority[entered] = np.inf

    def draw(self, step: int) -> tuple[Array, Array]:
        return self.window.rows(self.priority.argmax(keepdims=True)), np.ones(1, np.float32)

    def feedback(self, rows: Array, priority: Array) -> None:
        self.priority[self.window.slots(rows)] = priority

    def state_dict(self) -> State:
        return {"priority": self.priority}

    def load_state_dict(self, state: State) -> None:
        self.priority[:] = state["priority"]


# Importance weights stay at 1 (beta = 0): nothing here is random, so replaying unevenly biases nothing.
SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": prl.Uniform,
    "greedy": GreedyTD,
    "proportional": lambda: prl.Prioritized(alpha=1.0, beta=0.0),
}


def steps(n: int, rng: np.random.Generator) -> Iterator[prl.Step]:
    """Every action sequence as far as it gets, the sequences in random order; state s is observed as the number s."""
    sequences = np.array(list(product((0, 1), repeat=n)))
    for sequence in rng.permutation(sequences):
        for state, action in enumerate(sequence):
            right = action == state % 2
            ended = not right or state == n - 1
            yield prl.Step(
                obs=np.full((1, 1), state, np.float32),
                action=np.array([action]),
                reward=np.array([right and ended], np.float32),
                discount=np.array([not ended], np.float32),
                terminated=np.array([ended]),
                truncated=np.array([False]),
                next_obs=np.full((1, 1), state + 1, np.float32),
                first=np.array([state == 0]),
                valid=np.array([True]),
            )
            if ended:
                break


def true_q(n: int) -> Array:
    """[n, 2]: gamma^(what is left to do) for the right action, 0 for the wrong one."""
    q = np.zeros((n, 2))
    for state in range(n):
        q[state, state % 2] = (1 - 1 / n) ** (n - 1 - state)
    return q


def updates_needed(n: int, sampler: str, seed: int, limit: int = 10_000_000) -> int:
    """Updates until the mean squared error is below 1e-3."""
    rng = np.random.default_rng([n, seed])
    spec = prl.ArraySpec((1,), np.dtype(np.float32))
    columns = prl.Columns(spec, prl.ActionSpec("discrete", (), np.dtype(np.int64), n=2), num_envs=1)
    memory = prl.Replay(
        columns, 2 ** (n + 1) - 2, batch_size=1, view=prl.OneStep(1 - 1 / n), sampler=SAMPLERS[sampler](), seed=seed
    )
    for step in steps(n, rng):
        memory.add(Chunk.of(step))
    assert len(memory) == 2 ** (n + 1) - 2
    # One read of everything instead of one per update: row i of the memory is entry i of these lists.
    rows = memory.window.all()
    examples = memory.view.examples(memory.storage, memory.window, rows, np.ones(len(rows), np.float32))
    states, successors = (examples[name][:, 0].int().tolist() for name in ("obs", "next_obs"))
    actions, rewards, discounts = (examples[name].tolist() for name in ("action", "reward", "discount"))

    truth = true_q(n).tolist()
    q = [*rng.normal(0.0, 0.1, (n, 2)).tolist(), [0.0, 0.0]]
    squares = sum((q[s][a] - truth[s][a]) ** 2 for s in range(n) for a in (0, 1))
    priority = np.empty(1)
    for update in range(limit):
        if squares < ENOUGH * 2 * n:
            return update
        rows, _ = memory.sampler.draw(0)
        row = int(rows[0])
        s, a = states[row], actions[row]
        td = rewards[row] + discounts[row] * max(q[successors[row]]) - q[s][a]
        squares -= (q[s][a] - truth[s][a]) ** 2
        q[s][a] += STEP_SIZE * td
        squares += (q[s][a] - truth[s][a]) ** 2
        priority[0] = abs(td)
        memory.sampler.feedback(rows, priority)
    raise RuntimeError(f"n = {n}, {sampler}, seed {seed}: not solved in {limit:,} updates")


def report(rows: list[dict[str, Any]], seeds: int) -> str:
    """The table beside its references."""
    lines = [
        "# Blind Cliffwalk",
        "",
        f"Median updates of tabular Q-learning over {seeds} seeds until MSE < 1e-3, for uniform replay, greedy replay of the",
        "largest last-seen |TD error|, and stochastic proportional replay (`Prioritized(alpha=1, beta=0)`).",
        "Set-up: Schaul et al. 2016, appendix B.1. Reference: medians of 10 seeds of an independent implementation of it.",
        "",
        "| n | transitions | uniform | greedy | proportional | uniform / greedy | uniform / proportional "
        "| reference uniform / greedy |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        n, medians = row["n"], row["median"]
        uniform, greedy = REFERENCE.get(n, (float("nan"), float("nan")))
        lines.append(
            f"| {n} | {row['transitions']:,} | {medians['uniform']:,g} | {medians['greedy']:,g} | {medians['proportional']:,g} "
            f"| {medians['uniform'] / medians['greedy']:.1f} | {medians['uniform'] / medians['proportional']:.1f} "
            f"| {uniform:,g} / {greedy:,g} = {uniform / greedy:.1f} |"
        )
    return "\n".join([*lines, "", "`python benchmarks/learning/cliffwalk.py`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=list(REFERENCE), help="lengths of the walk")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for n in arguments.n:
        counts = {name: [updates_needed(n, name, seed) for seed in range(arguments.seeds)] for name in SAMPLERS}
        medians = {name: float(np.median(values)) for name, values in counts.items()}
        rows.append({"n": n, "transitions": 2 ** (n + 1) - 2, "median": medians, "updates": counts})
        print(f"n = {n}: {medians}", flush=True)
    text = report(rows, arguments.seeds)
    print(text)
    if set(arguments.n) == set(REFERENCE):  # a part of the experiment does not replace the whole
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "cliffwalk.json").write_text(json.dumps({"seeds": arguments.seeds, "rows": rows}, indent=1))
        (RESULTS / "cliffwalk.md").write_text(text)


if __name__ == "__main__":
    main()
