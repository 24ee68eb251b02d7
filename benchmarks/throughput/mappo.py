"""MAPPO beside TorchRL's (which BenchMARL trains with), at the same settings, in one process and thread, by turns.

    pip install torchrl mpe2 pettingzoo vmas
    python benchmarks/throughput/mappo.py                  # some minutes
    python benchmarks/throughput/mappo.py --game vmas

mpe2's simple_spread (3 agents, 25 steps), 4 environments, rollouts of 100 steps in each, 10 epochs of one minibatch; or VMAS's,
64 environments vectorised in torch, rollouts of 25 steps. Actor and critic of two layers of 64, which the agents share; Adam,
gradients clipped. Values are as they are (no PopArt), since TorchRL has none. Each takes its turn of some rollouts, again and
again; medians over turns. Both step the same simulator, whose share of the time is beside it. Ours is compiled ahead of time;
theirs runs as its own examples run it. Writes results/mappo.json, or results/mappo-vmas.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from spread import CYCLES, Turn, measured, simulator, vectorised

RESULTS = Path(__file__).parent / "results"
EPOCHS, WIDTH, GAMMA, LAMBDA, LR = 10, 64, 0.99, 0.95, 7e-4


@dataclass(frozen=True)
class Game:
    """simple_spread in one of its simulators."""

    id: str
    envs: int
    rollout: int  # steps in each environment
    env_kwargs: dict[str, Any]
    group: str  # TorchRL's name of the agents
    alone: Callable[[], Turn]

    def make(self) -> Any:
        """For TorchRL: all environments."""
        if self.group == "agents":
            from torchrl.envs import VmasEnv

            return VmasEnv("simple_spread", num_envs=self.envs, continuous_actions=False, max_steps=CYCLES)
        from mpe2 import simple_spread_v3
        from torchrl.envs import PettingZooWrapper, SerialEnv

        def one() -> Any:
            return PettingZooWrapper(simple_spread_v3.parallel_env(max_cycles=CYCLES), use_mask=False, categorical_actions=True)

        return SerialEnv(self.envs, one)


GAMES = {
    "mpe2": Game("mpe2/simple_spread_v3", 4, 100, {"max_cycles": CYCLES}, "agent", simulator),
    "vmas": Game(
        "vmas/simple_spread", 64, CYCLES, {"max_steps": CYCLES, "continuous_actions": False}, "agents", lambda: vectorised(64)
    ),
}


def ours(game: Game) -> Turn:
    import protorl as prl
    from protorl.accelerate import accelerate
    from protorl.recipes import RECIPES

    recipe = RECIPES["mappo"](
        env=game.id, env_kwargs=game.env_kwargs, num_envs=game.envs, rollout_steps=game.rollout,
        batch_size=game.envs * game.rollout, epochs=EPOCHS, widths=(WIDTH, WIDTH), gamma=GAMMA, gae_lambda=LAMBDA, lr=LR,
        normalise_value="none", clip_value=None, normalise_advantage=False,
    )  # fmt: skip
    agent, memory, actors = recipe.build()
    accelerate(agent, "aot")
    return lambda steps: prl.train(agent, memory, actors, steps=steps)


def theirs(game: Game) -> Turn:
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.modules import MultiAgentMLP, ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss, ValueEstimators

    env, group, size = game.make(), game.group, game.envs * game.rollout
    inputs = env.observation_spec[group, "observation"].shape[-1]

    def net(outputs: int, central: bool) -> Any:
        return MultiAgentMLP(
            inputs, outputs, 3, centralized=central, share_params=True, depth=2, num_cells=WIDTH, activation_class=torch.nn.ReLU
        )

    actor = ProbabilisticActor(
        TensorDictModule(net(5, False), [(group, "observation")], [(group, "logits")]),
        spec=env.full_action_spec_unbatched, in_keys=[(group, "logits")], out_keys=[(group, "action")],
        distribution_class=torch.distributions.Categorical, return_log_prob=True,
    )  # fmt: skip
    critic = TensorDictModule(net(1, True), [(group, "observation")], [(group, "state_value")])
    loss = ClipPPOLoss(
        actor, critic, clip_epsilon=0.2, entropy_coeff=0.01, critic_coeff=0.5, loss_critic_type="l2", normalize_advantage=False
    )
    loss.set_keys(
        reward=(group, "reward"), action=(group, "action"), value=(group, "state_value"), done=(group, "done"),
        terminated=(group, "terminated"),
    )  # fmt: skip
    loss.make_value_estimator(ValueEstimators.GAE, gamma=GAMMA, lmbda=LAMBDA)
    optimizer = torch.optim.Adam(loss.parameters(), LR)
    frames = iter(Collector(env, actor, frames_per_batch=size, total_frames=-1))

    def turn(steps: int) -> None:
        for _ in range(steps // size):
            data = next(frames)
            shape = data["next", group, "reward"].shape
            for key in ("done", "terminated"):
                data["next", group, key] = data["next", key].unsqueeze(-1).expand(shape)
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
    parser.add_argument("--game", choices=GAMES, default="mpe2", help="the simulator (mpe2)")
    parser.add_argument("--steps", type=int, help="of a turn; by default two rollouts")
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    game = GAMES[asked.game]
    steps = asked.steps or 2 * game.envs * game.rollout
    torch.set_num_threads(1)
    contenders = {"protorl": ours(game), "torchrl": theirs(game), "simulator": game.alone()}
    found = measured(contenders, steps, steps, asked.turns)  # first everything is compiled
    print(json.dumps(found, indent=1))
    RESULTS.mkdir(exist_ok=True)
    name = "mappo.json" if asked.game == "mpe2" else f"mappo-{asked.game}.json"
    (RESULTS / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
