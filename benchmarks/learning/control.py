"""Controls: a public implementation, trained with the very preset of ours and judged by the same rule.

    python benchmarks/learning/control.py dqn-mountaincar --first 0 --seeds 10

A published figure comes from other versions of a simulator and often from fewer seeds; a control is measured here, in the same
versions. It needs the packages of benchmarks/requirements.txt. Every started seed gets a row in
results/control-sb3-EXPERIMENT.json, also one that failed. A seed that has its row already is not run again.

As in run.py: one thread; ten episodes without exploration every 5000 steps, the best of these evaluations (the later one, if
equal) says which weights are the best; those and the final ones are evaluated anew over 100 episodes.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")
EVAL_EVERY = 5_000  # agent steps
EVAL_ENVS = 10


@dataclass(frozen=True)
class Control:
    """An algorithm of Stable-Baselines3 (or its contributions) on an environment: the same settings as our experiment of that
    name."""

    algorithm: str
    env: str
    steps: int
    published: str
    settings: dict[str, Any]
    policy_kwargs: dict[str, Any] = field(default_factory=lambda: {"net_arch": [256, 256]})
    num_envs: int = 1
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    library: str = "stable_baselines3"


def falling(value: float) -> Any:
    """From the value to 0 over the training."""
    return lambda left: value * left


def memory(length: int) -> Control:
    """Recurrent PPO on MemoryLength, with the preset's numbers; its LSTM begins with torch's gates, which nothing changes."""
    return Control(
        "RecurrentPPO", "protorl/MemoryLength-v0", 3_000 * (length + 1), "1 (perfect)",
        {"n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": falling(1e-3), "ent_coef": 0.01},
        {"net_arch": [64], "lstm_hidden_size": 64, "shared_lstm": True, "enable_critic_lstm": False},
        16, {"length": length}, "MlpLstmPolicy", "sb3_contrib",
    )  # fmt: skip


CONTROLS = {
    "dqn-mountaincar": Control("DQN", "MountainCar-v0", 120_000, "−107 ± 4", {
        "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1_000, "gamma": 0.98,
        "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8,
        "exploration_fraction": 0.2, "exploration_final_eps": 0.07,
    }),
    "dqn-cartpole-zoo": Control("DQN", "CartPole-v1", 50_000, "500 ± 0", {
        "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000, "gamma": 0.99,
        "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128,
        "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
    }),
    "dqn-lunarlander": Control("DQN", "LunarLander-v3", 100_000, "195 ± 28", {
        "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0, "gamma": 0.99,
        "target_update_interval": 250, "train_freq": 4, "gradient_steps": -1,
        "exploration_fraction": 0.12, "exploration_final_eps": 0.1,
    }),
    **{f"ppo-lstm-memory-{length}": memory(length) for length in (5, 10, 20, 40)},
}  # fmt: skip


def train(control: Control, seed: int) -> dict[str, Any]:
    """Train one seed, then evaluate its best and its last weights over 100 episodes."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    from protorl.envs.tasks import register

    register()
    torch.set_num_threads(1)
    library: Any = importlib.import_module(control.library)
    judges = make_vec_env(control.env, EVAL_ENVS, env_kwargs=control.env_kwargs)

    def judge(model: Any, episodes: int, eval_seed: int) -> dict[str, float]:
        judges.seed(eval_seed)
        result: Any = evaluate_policy(model, judges, episodes, deterministic=True)
        return {"mean": float(result[0]), "std": float(result[1])}

    class Examiner(BaseCallback):  # type: ignore[misc]
        """Keeps the weights with the best evaluation."""

        best = -float("inf")
        due = EVAL_EVERY

        def _on_step(self) -> bool:
            # One step late: the library calls this before the updates that belong to the step.
            if self.num_timesteps > self.due:
                self.examine()
                self.due += EVAL_EVERY
            return True

        def _on_training_end(self) -> None:
            self.examine()

        def examine(self) -> None:
            mean = judge(self.model, EVAL_ENVS, 1_000_000 + seed)["mean"]
            if mean >= self.best:
                self.best = mean
                self.weights = copy.deepcopy(self.model.policy.state_dict())

    model = getattr(library, control.algorithm)(
        control.policy,
        make_vec_env(control.env, control.num_envs, seed=seed, env_kwargs=control.env_kwargs),
        **control.settings,
        policy_kwargs=control.policy_kwargs,
        seed=seed,
        device="cpu",
    )
    examiner = Examiner()
    begin = time.monotonic()
    model.learn(control.steps, callback=examiner)
    row: dict[str, Any] = {"seconds": round(time.monotonic() - begin)}
    last = judge(model, 100, 2_000_000)
    model.policy.load_state_dict(examiner.weights)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return row | {
        "best": judge(model, 100, 2_000_000),
        "last": last,
        "steps": model.num_timesteps,
        "versions": {"python": platform.python_version(), **versions},
    }


def run_control(name: str, first: int, seeds: int) -> None:
    path = RESULTS / f"control-sb3-{name}.json"

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
        return found

    for seed in range(first, first + seeds):
        if any(row["seed"] == seed for row in rows()):
            continue
        try:
            row = {"seed": seed} | train(CONTROLS[name], seed)
        except Exception as error:
            row = {"seed": seed, "failed": f"{type(error).__name__}: {error}"}
        # Read again: another process may have added its seeds meanwhile.
        kept = sorted([*(r for r in rows() if r["seed"] != seed), row], key=lambda r: r["seed"])
        RESULTS.mkdir(exist_ok=True)
        result = json.loads(path.read_text()) if path.exists() else {}
        result |= {"command": f"python benchmarks/learning/control.py {name} --seeds {len(kept)}"}
        result |= {"published": CONTROLS[name].published, "rows": kept}
        path.write_text(json.dumps(result, indent=1))
        print(name, row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("controls", nargs="*", help=", ".join(CONTROLS))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds")
    arguments = parser.parse_args()
    for name in arguments.controls if arguments.controls else CONTROLS:
        if name not in CONTROLS:
            parser.error(f"{name} is unknown: choose from {', '.join(CONTROLS)}")
        run_control(name, arguments.first, arguments.seeds)


if __name__ == "__main__":
    main()
