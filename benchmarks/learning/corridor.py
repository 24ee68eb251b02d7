"""The corridor: what a dueling head brings where many actions do the same (Wang et al. 2016, section 4.1 and figure 3).

    python benchmarks/learning/corridor.py                  # 5, 10 and 20 actions, 5 seeds: some ten minutes
    python benchmarks/learning/corridor.py --actions 20 --seeds 1

Three corridors of 10, 50 and 10 states lead from the bottom left to the top right. Up, down, left, right, and a number of
actions that do nothing. The behaviour is the optimal policy with a random action in 1 of 1,000 steps; its action values are
learned from what it does (expected SARSA, no target network) and compared with the true ones: sum_{s,a} (Q(s,a) - Q^pi(s,a))^2.
Networks of three layers: one stream 50-50, or 50 and then two streams of 25.

Ours, for the paper does not say: states are seen one-hot; gamma 0.99; the end pays 1, a state below the start 0.1, and both end
the episode; an update per step on 32 of all steps so far; Adam 1e-3. Writes results/corridor.json and results/corridor.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import protorl as prl
from protorl.data import Act, Array, Batch, Carry
from protorl.networks import QOut

RESULTS = Path(__file__).parent / "results"
EPSILON, GAMMA = 0.001, 0.99
ACTIONS, POINTS = (5, 10, 20), (100, 300, 1_000, 3_000, 10_000)
CELLS = [(0, y) for y in range(10)] + [(x, 9) for x in range(1, 51)] + [(50, y) for y in range(10, 20)]
START, LAST = 1, len(CELLS) - 1
PAYS = {0: 0.1, LAST: 1.0}
"""States that end the episode, and what they pay."""


def moves(actions: int) -> Array:
    """Where each action leads: [S, A]."""
    number = {cell: state for state, cell in enumerate(CELLS)}
    ways = [(0, 1), (0, -1), (-1, 0), (1, 0), *[(0, 0)] * (actions - 4)]
    return np.array([[number.get((x + dx, y + dy), number[x, y]) for dx, dy in ways] for x, y in CELLS])


class Corridor(gymnasium.Env[Any, Any]):
    """The state is observed one-hot."""

    def __init__(self, actions: int) -> None:
        self.moves = moves(actions)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (len(CELLS),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(actions)

    def seen(self) -> Array:
        return np.eye(len(CELLS), dtype=np.float32)[self.state]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = START
        return self.seen(), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.state = int(self.moves[self.state, action])
        return self.seen(), PAYS.get(self.state, 0.0), self.state in PAYS, False, {}


def optimal_and_true(actions: int) -> tuple[Array, Array]:
    """Q*, by value iteration, and Q^pi of the behaviour, by its linear equations: [S, A] each, 0 where an episode is over."""
    after, states = moves(actions), np.arange(len(CELLS))
    reward = np.array([PAYS.get(state, 0.0) for state in states])[after]
    going = np.array([state not in PAYS for state in states])
    best = np.zeros(after.shape)
    for _ in range(2 * len(CELLS)):
        best = (reward + GAMMA * (best.max(1) * going)[after]) * going[:, None]
    policy = np.full(after.shape, EPSILON / actions)
    policy[states, best.argmax(1)] += 1 - EPSILON
    step = np.zeros((len(CELLS), len(CELLS)))
    for action in range(actions):
        np.add.at(step, (states, after[:, action]), policy[:, action])
    value = np.linalg.solve(np.eye(len(CELLS)) - GAMMA * step * going[:, None] * going, (policy * reward).sum(1) * going)
    return best, (reward + GAMMA * value[after]) * going[:, None]


class Evaluator(prl.DQN):
    """Learns the values of a given behaviour: `optimal` [S, A], followed but for a random action now and then."""

    def __init__(self, *args: Any, optimal: Array, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimal = optimal
        policy = np.full(optimal.shape, EPSILON / optimal.shape[1], np.float32)
        policy[np.arange(len(optimal)), optimal.argmax(1)] += 1 - EPSILON
        self.behaviour = torch.from_numpy(policy)

    def act(self, seen: prl.Seen, carry: Carry = (), *, explore: bool) -> Act:
        known: Any = self.optimal[np.asarray(seen.obs).argmax(-1)]
        return Act(self.policy(QOut(known)), carry)

    @torch.no_grad()
    def bootstrap(self, batch: Batch) -> torch.Tensor:
        """E_{a' ~ pi} Q(s', a'; theta)."""
        return (batch.next_obs @ self.behaviour * self.network(batch.next_obs).q).sum(-1)


def squared_errors(actions: int, dueling: bool, seed: int, points: tuple[int, ...] = POINTS) -> list[float]:
    """The squared error after so many updates."""
    torch.manual_seed(seed)
    optimal, true = optimal_and_true(actions)
    env = prl.make_vec_envs(lambda: Corridor(actions), 1, seed=seed)
    widths, head = ([50], prl.DuelingHead(env.spec.action, [25])) if dueling else ([50, 50], prl.QHead(env.spec.action))
    network = prl.Network(prl.MLP(env.spec.obs, widths), head)
    agent = Evaluator(
        network,
        prl.EpsilonGreedy(env.spec.action, EPSILON, seed=seed),
        prl.Adam(network, 1e-3),
        kappa=float("inf"),
        target_every=10**9,
        optimal=optimal,
    )
    batch = 32
    memory = prl.Replay(
        agent.columns(env.spec),
        points[-1] + batch,
        batch_size=batch,
        view=prl.OneStep(GAMMA),
        rate=prl.Rate(batch, 1),
        seed=seed,
    )
    actors, errors = prl.LocalActors(agent, env), []
    for point in points:
        while agent.updates < point:
            prl.train(agent, memory, actors, steps=min(batch, point - agent.updates))
        with torch.no_grad():
            q = network(torch.eye(len(CELLS))).q.numpy()
        errors.append(float((q - true)[START:LAST].__pow__(2).sum()))
    env.close()
    return errors


def report(rows: list[dict[str, Any]], seeds: int) -> str:
    """Medians after each number of updates, and how many times larger the single stream's error is in the end."""
    lines = [
        "# The corridor: one stream or two",
        "",
        f"Squared error against the true values of the behaviour, medians of {seeds} seeds, after so many updates.",
        "Set-up: Wang et al. 2016, section 4.1; what the paper leaves open is at the top of the script. The paper has curves",
        "only: with 5 actions both are alike, with 10 and 20 the dueling network is ahead.",
        "",
        "| actions | network | " + " | ".join(f"{point:,}" for point in POINTS) + " | single / dueling in the end, each seed |",
        "|--:|---|" + "--:|" * len(POINTS) + "---|",
    ]
    for row in rows:
        single, dueling = (np.array(row[name]) for name in ("single", "dueling"))
        ratios = ", ".join(f"{ratio:.1f}" for ratio in single[:, -1] / dueling[:, -1])
        for name, errors, last in (("single", single, ""), ("dueling", dueling, ratios)):
            cells = " | ".join(f"{error:.1f}" for error in np.median(errors, 0))
            lines.append(f"| {row['actions']} | {name} | {cells} | {last} |")
    return "\n".join([*lines, "", "`python benchmarks/learning/corridor.py`", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, nargs="+", default=list(ACTIONS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for actions in arguments.actions:
        row: dict[str, Any] = {"actions": actions}
        for name in ("single", "dueling"):
            row[name] = [squared_errors(actions, name == "dueling", seed) for seed in range(arguments.seeds)]
            print(actions, name, np.median(row[name], 0).round(1).tolist(), flush=True)
        rows.append(row)
    text = report(rows, arguments.seeds)
    print(text)
    if arguments.actions == list(ACTIONS):  # a part of the experiment does not replace the whole
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "corridor.json").write_text(json.dumps({"seeds": arguments.seeds, "rows": rows}, indent=1))
        (RESULTS / "corridor.md").write_text(text)


if __name__ == "__main__":
    main()
