"""The settings that all contenders of a learning benchmark share, one class per benchmark."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

FOREVER = 10**9
NATURE = ((4, 32, 8, 4, 84), (32, 64, 4, 2, 20), (64, 64, 3, 1, 9))
"""The convolutions of the Nature network: channels in, out, kernel, stride, side of the input."""
NATURE_DENSE = (3_136, 512)


@dataclass(frozen=True)
class DQN:
    env: str = "CartPole-v1"
    update_every: int = 1  # environment steps per update
    num_envs: int = 1
    hidden: tuple[int, ...] = (120, 84)  # ReLU
    lr: float = 2.5e-4  # Adam
    gamma: float = 0.99
    batch: int = 128
    capacity: int = 10_000
    target_steps: int = 500  # environment steps between two copies to the target network
    start: int = 1_000  # environment steps before learning starts
    epsilon: float = 0.05

    cycle = 1  # a window of measurement holds a multiple of so many environment steps

    @property
    def warm_up(self) -> int:
        """Environment steps to let pass before measuring: `start`, then a few hundred updates."""
        return self.start + 300 * self.update_every + 700

    def sb3(self) -> dict[str, Any]:
        """These settings in the words of Stable-Baselines3, which SBX shares."""
        return {
            "learning_rate": self.lr,
            "buffer_size": self.capacity,
            "learning_starts": self.start,
            "batch_size": self.batch,
            "gamma": self.gamma,
            "train_freq": self.update_every,
            "gradient_steps": 1,
            "target_update_interval": self.target_steps,
            "exploration_initial_eps": self.epsilon,
            "exploration_final_eps": self.epsilon,
        }


@dataclass(frozen=True)
class PPO:
    env: str = "CartPole-v1"
    num_envs: int = 8
    rollout: int = 128  # steps of each environment
    epochs: int = 4
    batch: int = 256
    hidden: tuple[int, ...] = (64, 64)  # tanh; policy and value are two networks
    lr: float = 2.5e-4  # Adam, not annealed
    adam_eps: float = 1e-5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2  # of the policy's ratio; the value is not clipped
    entropy: float = 0.01
    value: float = 0.5  # coefficient of the mean squared error
    max_grad_norm: float = 0.5

    @property
    def cycle(self) -> int:
        """Environment steps from one update to the next."""
        return self.num_envs * self.rollout

    @property
    def warm_up(self) -> int:
        return 8 * self.cycle

    def sb3(self) -> dict[str, Any]:
        return {
            "learning_rate": self.lr,
            "n_steps": self.rollout,
            "n_epochs": self.epochs,
            "batch_size": self.batch,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip,
            "ent_coef": self.entropy,
            "vf_coef": self.value,
            "max_grad_norm": self.max_grad_norm,
        }


@dataclass(frozen=True)
class ActorCritic:
    """TD3 and SAC; one update per environment step."""

    env: str = "HalfCheetah-v5"
    num_envs: int = 1
    hidden: tuple[int, ...] = (256, 256)  # ReLU
    lr: float = 3e-4  # Adam, for everything that is learned
    gamma: float = 0.99
    tau: float = 0.005
    batch: int = 256
    capacity: int = 1_000_000
    start: int = 1_000  # environment steps before learning starts

    cycle = 2  # TD3's policy learns at every second update

    @property
    def warm_up(self) -> int:
        return self.start + 300

    def sb3(self) -> dict[str, Any]:
        return {
            "learning_rate": self.lr,
            "buffer_size": self.capacity,
            "learning_starts": self.start,
            "batch_size": self.batch,
            "gamma": self.gamma,
            "tau": self.tau,
            "train_freq": 1,
            "gradient_steps": 1,
        }


@dataclass(frozen=True)
class TD3(ActorCritic):
    policy_delay: int = 2
    noise: float = 0.1  # of exploration, in units of the action's range [-1, 1]
    target_noise: float = 0.2
    noise_clip: float = 0.5

    def sb3(self) -> dict[str, Any]:
        return super().sb3() | {
            "policy_delay": self.policy_delay,
            "target_policy_noise": self.target_noise,
            "target_noise_clip": self.noise_clip,
        }


@dataclass(frozen=True)
class SAC(ActorCritic):
    """The entropy coefficient is learned too, towards minus the number of actions."""

    def sb3(self) -> dict[str, Any]:
        return super().sb3() | {"ent_coef": "auto"}


@dataclass(frozen=True)
class PongDQN(DQN):
    """The Nature network on four stacked frames of 84x84; rewards clipped, a lost life ends the bootstrap."""

    env: str = "ALE/Pong-v5"  # without its sticky actions
    update_every: int = 4
    lr: float = 1e-4
    batch: int = 32
    capacity: int = 20_000
    target_steps: int = 4_000

    @property
    def warm_up(self) -> int:
        return self.start + 200


@dataclass(frozen=True)
class PongPPO(PPO):
    """The Nature network, shared by policy and value."""

    env: str = "ALE/Pong-v5"
    clip: float = 0.1

    @property
    def warm_up(self) -> int:
        return 2 * self.cycle


@dataclass(frozen=True)
class PongRND(PongPPO):
    """With random network distillation, as CleanRL's script has it: 512 features, and the predictor learns of a quarter."""

    lr: float = 1e-4
    gamma: float = 0.999
    intrinsic_gamma: float = 0.99
    entropy: float = 0.001
    value: float = 0.25
    clip_value: float = 0.1
    predictor_share: float = 0.25

    @property
    def warm_up(self) -> int:
        return 4 * self.cycle


@dataclass(frozen=True)
class RecurrentPPO(PPO):
    """One LSTM for policy and value, and one dense layer."""

    hidden: tuple[int, ...] = (64,)
    lstm: int = 64


Settings = DQN | PPO | TD3 | SAC
BENCHES: dict[str, type[Settings]] = {
    "dqn": DQN, "ppo": PPO, "td3": TD3, "sac": SAC, "pong-dqn": PongDQN, "pong-ppo": PongPPO, "pong-rnd": PongRND,
    "recurrent-ppo": RecurrentPPO,
}  # fmt: skip


def parse(parser: argparse.ArgumentParser | None = None) -> tuple[Settings, argparse.Namespace]:
    """A contender's command line, `BENCH [--env ID] [--update-every K] [--device cuda]`: the settings, and all arguments."""
    parser = argparse.ArgumentParser() if parser is None else parser
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--env")
    parser.add_argument("--update-every", type=int)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    given = {name: value for name in ("env", "update_every") if (value := getattr(args, name)) is not None}
    return BENCHES[args.bench](**given), args
