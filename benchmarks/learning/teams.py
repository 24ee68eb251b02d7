"""What learns of a whole team beside independent learners, on the particle environments of mpe2, at equal steps of the team.

    python benchmarks/learning/teams.py spread --seeds 3             # simple_spread_v3, N = 3
    python benchmarks/learning/teams.py speaker --seeds 3            # simple_speaker_listener_v4
    python benchmarks/learning/teams.py tag --seeds 3                # simple_tag_v3: three predators, one prey, all learning
    python benchmarks/learning/teams.py spread --learners mappo ippo --steps 100000

Each learner is a recipe with its presets. At the end 200 episodes are played without exploring. Returns are sums over the
agents of a team. In simple_spread besides, as Lowe et al. 2017 report them: `distance`, the sum over the landmarks of the
distance to the agent that is nearest to each, and `collisions`, pairs of agents that touch, both means over the steps. Theirs
is another variant of the task (docs/several-agents.md): compare within this table only. In simple_tag, where every agent has a
reward of its own, the measure is `catches`: pairs of a predator and the prey that touch, mean over the steps; where both sides
play what they learned, and where one of them plays at random.

Writes results/teams-TASK.json, a row for each seed; results/teams-TASK.md is the table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import protorl as prl
from protorl.accelerate import accelerate
from protorl.data import Array
from protorl.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"
ENVS = {"spread": "mpe2/simple_spread_v3", "speaker": "mpe2/simple_speaker_listener_v4", "tag": "mpe2/simple_tag_v3"}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("mappo", {}),
    "mappo": ("mappo", {}),
    "ippo": ("ppo", {
        "num_envs": 16, "rollout_steps": 100, "epochs": 10, "lr": 7e-4, "max_grad_norm": 10.0, "entropy_coef": 0.01,
        "activation": "relu", "normalise_reward": True,
    }),
    "maddpg": ("maddpg", {}),
    "ddpg, local critics": ("maddpg", {"central": False}),
    "matd3": ("matd3", {}),
    "vdn": ("vdn", {}),
    "qmix": ("qmix", {}),
}  # fmt: skip
"""Learners by name: a recipe, and its settings besides the presets. IPPO has MAPPO's numbers; its batch is all of a rollout,
too, and its rewards are scaled where MAPPO's values are."""


SIDES = ("predators", "prey")
MEASURES = ("return", "distance", "collisions", "catches", *(f"catches, {side} at random" for side in SIDES))


def learned(name: str, env: str, steps: int, seed: int) -> tuple[Any, Any]:
    """A recipe, and its agent after so many steps of the team (none, of who plays at random)."""
    recipe_name, settings = LEARNERS[name]
    one = prl.make_vec_envs(env, 1)
    agents = one.spec.num_envs
    one.close()
    each = 1 if RECIPES[recipe_name].as_teams else agents
    if recipe_name == "ppo":
        settings = {**settings, "batch_size": settings["num_envs"] * settings["rollout_steps"] * agents}
    recipe: Any = RECIPES[recipe_name](env=env, seed=seed, steps=steps * each, **settings)
    torch.manual_seed(seed)
    agent, memory, actors = recipe.build()
    accelerate(agent, "auto", updates=0)
    if name != "random":
        prl.train(agent, memory, actors, steps=steps * each)
    actors.close()
    return recipe, agent


def touching(agents: list[Any], others: list[Any]) -> Array:
    """Which of these agents touch which of those [A, B]."""
    apart = np.array([a.state.p_pos for a in agents])[:, None] - np.array([b.state.p_pos for b in others])
    sizes = np.array([a.size for a in agents])[:, None] + np.array([b.size for b in others])
    return np.linalg.norm(apart, axis=-1) < sizes


def spread(world: Any) -> dict[str, float]:
    at, marks = (np.array([one.state.p_pos for one in some]) for some in (world.agents, world.landmarks))
    distance = np.linalg.norm(at[:, None] - marks, axis=-1).min(0).sum()
    return {"distance": distance, "collisions": np.triu(touching(world.agents, world.agents), 1).sum()}


def tag(world: Any) -> dict[str, float]:
    sides = [[one for one in world.agents if one.adversary == predator] for predator in (True, False)]
    return {"catches": touching(*sides).sum()}


MEASURED = {ENVS["spread"]: spread, ENVS["tag"]: tag}


def played(recipe: Any, agent: Any, episodes: int, at_random: Callable[[str], bool]) -> dict[str, float]:
    """Returns of whole episodes, and what is measured in the world; `at_random`: which agents of the team, by name, play so."""
    n = 20
    env = recipe.make_env(n, name="judged")
    worlds = [gate.env.unwrapped.world for gate in env._tables.gates]
    measured = MEASURED.get(recipe.env)
    returns: list[float] = []
    members: dict[str, list[float]] = {}
    sums: dict[str, float] = {}
    steps, lanes, draw = 0, env.spec.num_envs, np.random.default_rng(0)
    carry = agent.initial_carry(lanes)
    uniform_rows = np.tile([at_random(name) for name in env.spec.team.agents], (n, 1))
    if not recipe.as_teams:
        uniform_rows = uniform_rows.reshape(lanes)
    while len(returns) < episodes:
        available = env.seen.obs.get("action_mask") if isinstance(env.seen.obs, dict) else None
        uniform = env.spec.action.uniform(draw.random((lanes, env.spec.action.numbers)), available)
        acted = agent.act(env.seen, carry, explore=False)
        carry = acted.carry
        env.step(np.where(uniform_rows, uniform, acted.action))
        steps += 1
        for world in worlds if measured else ():
            for name, number in measured(world).items():
                sums[name] = sums.get(name, 0.0) + number / len(worlds)
        for episode in env.episodes():
            returns.append(episode.ret)
            for member, ret in episode.members.items():
                members.setdefault(member, []).append(ret)
    env.close()
    means = {name: float(total / steps) for name, total in sums.items()}
    return {"return": float(np.mean(returns)), **means, **{f"return_{m}": float(np.mean(rets)) for m, rets in members.items()}}


def row(name: str, env: str, steps: int, seed: int, episodes: int) -> dict[str, Any]:
    begin = time.process_time()
    recipe, agent = learned(name, env, steps, seed)
    seconds = time.process_time() - begin
    told = played(recipe, agent, episodes, lambda _: name == "random")
    if env == ENVS["tag"] and name != "random":
        predators = played(recipe, agent, episodes, lambda one: one.startswith("adversary"))
        prey = played(recipe, agent, episodes, lambda one: not one.startswith("adversary"))
        told |= {f"catches, {side} at random": found["catches"] for side, found in zip(SIDES, (predators, prey))}
    return {"learner": name, "seed": seed, "steps": steps, "cpu_seconds": round(seconds, 1), **told}


def report(task: str, rows: list[dict[str, Any]]) -> str:
    """A table: means over the seeds, and the range."""
    measures = [key for key in MEASURES if any(key in one for one in rows)]
    lines = [f"`{ENVS[task]}`: python benchmarks/learning/teams.py {task}", ""]
    lines += ["| learner | team steps | seeds | " + " | ".join(measures) + " |", "|---" * (3 + len(measures)) + "|"]
    for name, steps in sorted({(one["learner"], one["steps"]) for one in rows}, key=lambda key: list(LEARNERS).index(key[0])):
        mine = [one for one in rows if (one["learner"], one["steps"]) == (name, steps)]
        told = []
        for key in measures:
            values = [one[key] for one in mine if key in one]
            told.append(f"{np.mean(values):.3g} ({min(values):.3g} to {max(values):.3g})" if values else "")
        lines.append(f"| {name} | {steps:,} | {len(mine)} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=ENVS)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"teams-{asked.task}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for seed in range(asked.seeds):
        for name in asked.learners:
            steps = 0 if name == "random" else asked.steps
            if any((one["learner"], one["seed"], one["steps"]) == (name, seed, steps) for one in rows):
                continue
            rows.append(row(name, ENVS[asked.task], steps, seed, asked.episodes))
            print(json.dumps(rows[-1]), flush=True)
            path.write_text(json.dumps(rows, indent=1) + "\n")
            path.with_suffix(".md").write_text(report(asked.task, rows))


if __name__ == "__main__":
    main()
