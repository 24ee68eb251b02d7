"""MAPPO beside TorchRL's (which BenchMARL trains with), at the same settings, in one process and thread, by turns.

    pip install torchrl mpe2 pettingzoo
    python benchmarks/throughput/mappo.py                  # some minutes

mpe2's simple_spread (3 agents, 25 steps), 4 environments, rollouts of 100 steps in each, 10 epochs of one minibatch; actor
and critic of two layers of 64, which the agents share; Adam, gradients clipped. Values are as they are (no PopArt), since
TorchRL has none. Each takes its turn of some rollouts, again and again; medians over turns. Both step the same simulator,
whose share of the time is beside it. Ours is compiled ahead of time; theirs runs as its own examples run it. Writes
results/mappo.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from spread import CYCLES, Turn, measured, simulator

RESULTS = Path(__file__).parent / "results"
ENVS, ROLLOUT, EPOCHS, WIDTH, GAMMA, LAMBDA, LR = 4, 100, 10, 64, 0.99, 0.95, 7e-4


def ours() -> Turn:
    import protorl as prl
    from protorl.accelerate import accelerate
    from protorl.recipes import RECIPES

    recipe = RECIPES["mappo"](
        env="mpe2/simple_spread_v3", env_kwargs={"max_cycles": CYCLES}, num_envs=ENVS, rollout_steps=ROLLOUT,
        batch_size=ENVS * ROLLOUT, epochs=EPOCHS, widths=(WIDTH, WIDTH), gamma=GAMMA, gae_lambda=LAMBDA, lr=LR,
        normalise_value="none", clip_value=None, normalise_advantage=False,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    accelerate(agent, "aot")
    return lambda steps: prl.train(agent, memory, actors, steps=steps)


def theirs() -> Turn:
    from mpe2 import simple_spread_v3
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.envs import PettingZooWrapper, SerialEnv
    from torchrl.modules import MultiAgentMLP, ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss, ValueEstimators

    def make() -> Any:
        return PettingZooWrapper(simple_spread_v3.parallel_env(max_cycles=CYCLES), use_mask=False, categorical_actions=True)

    env = SerialEnv(ENVS, make)
    inputs = env.observation_spec["agent", "observation"].shape[-1]

    def net(outputs: int, central: bool) -> Any:
        return MultiAgentMLP(
            inputs, outputs, 3, centralized=central, share_params=True, depth=2, num_cells=WIDTH, activation_class=torch.nn.ReLU
        )

    actor = ProbabilisticActor(
        TensorDictModule(net(5, False), [("agent", "observation")], [("agent", "logits")]),
        spec=env.full_action_spec_unbatched, in_keys=[("agent", "logits")], out_keys=[("agent", "action")],
        distribution_class=torch.distributions.Categorical, return_log_prob=True,
    )  # fmt: skip
    critic = TensorDictModule(net(1, True), [("agent", "observation")], [("agent", "state_value")])
    loss = ClipPPOLoss(
        actor, critic, clip_epsilon=0.2, entropy_coeff=0.01, critic_coeff=0.5, loss_critic_type="l2", normalize_advantage=False
    )
    loss.set_keys(
        reward=("agent", "reward"), action=("agent", "action"), value=("agent", "state_value"), done=("agent", "done"),
        terminated=("agent", "terminated"),
    )  # fmt: skip
    loss.make_value_estimator(ValueEstimators.GAE, gamma=GAMMA, lmbda=LAMBDA)
    optimizer = torch.optim.Adam(loss.parameters(), LR)
    frames = iter(Collector(env, actor, frames_per_batch=ENVS * ROLLOUT, total_frames=-1))

    def turn(steps: int) -> None:
        for _ in range(steps // (ENVS * ROLLOUT)):
            data = next(frames)
            shape = data["next", "agent", "reward"].shape
            for key in ("done", "terminated"):
                data["next", "agent", key] = data["next", key].unsqueeze(-1).expand(shape)
            with torch.no_grad():
                loss.value_estimator(data, params=loss.critic_network_params, target_params=loss.target_critic_network_params)
            flat = data.reshape(-1)
            for _ in range(EPOCHS):
                told = loss(flat)
                optimizer.zero_grad()
                (told["loss_objective"] + told["loss_critic"] + told["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 10.0)
                optimizer.step()

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="of a turn")
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    contenders = {"protorl": ours(), "torchrl": theirs(), "simulator": simulator()}
    found = measured(contenders, 800, asked.steps, asked.turns)  # first everything is compiled
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mappo.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
