"""skrl as a contender: with_skrl.py ppo."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from contender import Pacer, paced
from settings import FOREVER, PPO, parse


def networks(env: Any, hidden: tuple[int, ...]) -> dict[str, Any]:
    """The policy's and the value's network, tanh between the layers."""
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
    from torch import nn

    def mlp(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.Tanh()]
            inputs = width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))

    class Policy(CategoricalMixin, Model):  # type: ignore[misc]
        def __init__(self, **spaces: Any) -> None:
            Model.__init__(self, **spaces)
            CategoricalMixin.__init__(self)
            self.net = mlp(self.num_observations, self.num_actions)

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Any, dict[str, Any]]:
            return self.net(inputs["observations"]), {}

    class Value(DeterministicMixin, Model):  # type: ignore[misc]
        def __init__(self, **spaces: Any) -> None:
            Model.__init__(self, **spaces)
            DeterministicMixin.__init__(self)
            self.net = mlp(self.num_observations, 1)

        def compute(self, inputs: dict[str, Any], role: str) -> tuple[Any, dict[str, Any]]:
            return self.net(inputs["observations"]), {}

    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    return {"policy": Policy(**spaces), "value": Value(**spaces)}


def main() -> None:
    import torch
    from skrl.agents.torch.ppo import PPO as Algorithm  # noqa: N811
    from skrl.agents.torch.ppo import PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.trainers.torch import SequentialTrainer

    settings, _ = parse()
    assert isinstance(settings, PPO)
    torch.manual_seed(0)
    pacer = Pacer(settings.warm_up, settings.cycle)
    env = wrap_env(
        gym.vector.SyncVectorEnv(
            [lambda: paced(gym.make(settings.env), pacer)] * settings.num_envs,
            autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,  # every row of the memory is a step
        )
    )
    agent = Algorithm(
        models=networks(env, settings.hidden),
        memory=RandomMemory(memory_size=settings.rollout, num_envs=settings.num_envs, device="cpu"),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
        cfg=PPO_CFG(
            rollouts=settings.rollout,
            learning_epochs=settings.epochs,
            mini_batches=settings.cycle // settings.batch,
            discount_factor=settings.gamma,
            gae_lambda=settings.gae_lambda,
            learning_rate=settings.lr,
            grad_norm_clip=settings.max_grad_norm,
            ratio_clip=settings.clip,
            value_clip=0.0,
            entropy_loss_scale=settings.entropy,
            value_loss_scale=settings.value,
            time_limit_bootstrap=True,
            experiment={"write_interval": 0, "checkpoint_interval": 0},
        ),
    )
    agent.optimizer.param_groups[0]["eps"] = settings.adam_eps  # no setting of its own
    SequentialTrainer(
        env=env,
        agents=agent,
        cfg={"timesteps": FOREVER, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False},
    ).train()


if __name__ == "__main__":
    main()
