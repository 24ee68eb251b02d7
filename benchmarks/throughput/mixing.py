"""QMIX beside TorchRL's (which BenchMARL trains with), at the same settings, in one process and thread, by turns.

    pip install torchrl mpe2 pettingzoo
    python benchmarks/throughput/mixing.py                  # some minutes

mpe2's simple_spread (3 agents, 25 steps, one environment), agents of two layers of 64 and ReLU that share one network, mixing
network of 32, one-step double Q-learning (TorchRL: the target's own maximum), 128 transitions of 50,000 per update, an update
per `--every` steps of the team, Adam. Each takes its turn of so many steps, again and again; medians over turns. Both step the
same simulator, whose share of the time is beside it. Ours is compiled ahead of time; theirs runs as its own examples run it.
Writes results/mixing.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from spread import CYCLES, Turn, measured, simulator

RESULTS = Path(__file__).parent / "results"
BATCH, CAPACITY, WIDTH, MIXING, GAMMA, LR, EPSILON = 128, 50_000, 64, 32, 0.99, 5e-4, 0.1


def ours(every: int) -> Turn:
    import protorl as prl
    from protorl.accelerate import accelerate
    from protorl.recipes import RECIPES

    recipe = RECIPES["qmix"](
        env="mpe2/simple_spread_v3", env_kwargs={"max_cycles": CYCLES}, core="none", widths=(WIDTH, WIDTH), sequence_length=1,
        period=1, batch_size=BATCH, capacity=CAPACITY, warmup_steps=1_000, update_every=every, mixing_size=MIXING, gamma=GAMMA,
        lr=LR, epsilon_start=EPSILON, epsilon_end=EPSILON, max_grad_norm=10.0,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    accelerate(agent, "aot")
    return lambda steps: prl.train(agent, memory, actors, steps=steps)


def theirs(every: int) -> Turn:
    from mpe2 import simple_spread_v3
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.envs import PettingZooWrapper, TransformedEnv
    from torchrl.envs.transforms import RewardSum
    from torchrl.modules import EGreedyModule, MultiAgentMLP, QMixer, QValueModule
    from torchrl.objectives import HardUpdate, QMixerLoss, ValueEstimators

    plain = PettingZooWrapper(
        simple_spread_v3.parallel_env(max_cycles=CYCLES), return_state=True, use_mask=False, categorical_actions=True
    )
    env = TransformedEnv(plain, RewardSum(in_keys=[("agent", "reward")], out_keys=[("agent", "episode_reward")]))
    inputs, state = env.observation_spec["agent", "observation"].shape[-1], env.observation_spec["state"].shape
    net = MultiAgentMLP(
        inputs, 5, 3, centralized=False, share_params=True, depth=2, num_cells=WIDTH, activation_class=torch.nn.ReLU
    )
    values = TensorDictModule(net, [("agent", "observation")], [("agent", "action_value")])
    chosen = QValueModule(
        action_value_key=("agent", "action_value"), action_space="categorical",
        out_keys=[("agent", "action"), ("agent", "action_value"), ("agent", "chosen_action_value")],
    )  # fmt: skip
    local = TensorDictSequential(values, chosen)
    explore = EGreedyModule(
        env.full_action_spec["agent", "action"], EPSILON, EPSILON, action_key=("agent", "action"), annealing_num_steps=1
    )
    mixer = TensorDictModule(
        QMixer(state, MIXING, 3, "cpu"), [("agent", "chosen_action_value"), "state"], ["chosen_action_value"]
    )
    loss = QMixerLoss(local, mixer, action_space="categorical", delay_value=True)
    loss.set_keys(
        action_value=("agent", "action_value"), action=("agent", "action"), local_value=("agent", "chosen_action_value"),
        global_value="chosen_action_value",
    )  # fmt: skip
    loss.make_value_estimator(ValueEstimators.TD0, gamma=GAMMA)
    target = HardUpdate(loss, value_network_update_interval=200)
    optimizer = torch.optim.Adam(loss.parameters(), LR)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=BATCH)
    collector = Collector(env, TensorDictSequential(local, explore), frames_per_batch=every, total_frames=-1)
    frames = iter(collector)
    taken = 0

    def turn(steps: int) -> None:
        nonlocal taken
        for _ in range(steps // every):
            data = next(frames)
            done = data["next", "done"]
            data["next", "reward"] = data["next", "agent", "reward"].sum(-2)
            data["next", "terminated"], data["next", "done"] = torch.zeros_like(done), done
            buffer.extend(data.reshape(-1))
            taken += every
            if taken > 1_000:
                optimizer.zero_grad()
                loss(buffer.sample())["loss"].backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 10.0)
                optimizer.step()
                target.step()

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--steps", type=int, default=800, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    contenders = {"protorl": ours(arguments.every), "torchrl": theirs(arguments.every), "simulator": simulator(state=True)}
    found = measured(contenders, 1_600, arguments.steps, arguments.turns)  # first the memory is filled, and everything compiled
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mixing.json").write_text(json.dumps({"every": arguments.every, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
