"""What the recipes of on-policy algorithms share: rollouts as memory, from recipe fields alone."""

from __future__ import annotations

from typing import ClassVar

from protorl.agents import Agent
from protorl.data import EnvSpec, Linear, ProtoRLError, Schedule
from protorl.memory import Minibatches, Rate, Replay, Rollout
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class OnPolicy(Recipe):
    """Learns from what it just did: a rollout, as the agent's `prepare` leaves it, in several passes of minibatches."""

    numbers: ClassVar[str] = "ppo"

    rollout_steps: int = hp(2_048, "length of a rollout", unit="agent steps, in each environment", paper="2048", low=1)
    epochs: int = hp(10, "passes over each rollout", paper="10", low=1)
    batch_size: int = hp(64, "examples per update", paper="64", low=1)
    clip_reward: float | None = hp(None, "clips each reward to [-c, c] for learning", paper="Atari: 1", low=0.0)

    def falling(self, value: float, falls: bool, spec: EnvSpec) -> float | Schedule:
        """The value, or a straight line from it to 0 over all updates of the training."""
        rollouts = self.steps // (self.rollout_steps * spec.num_envs)
        return Linear(value, 0.0, max(rollouts * self.updates_per_rollout(spec), 1)) if falls else value

    def minibatches(self, spec: EnvSpec) -> int:
        """Updates per epoch."""
        rows = self.rollout_steps * spec.num_envs
        if self.batch_size > rows:
            raise ProtoRLError(
                f"batch_size {self.batch_size} exceeds the {rows} steps of a rollout ({self.rollout_steps} in each of "
                f"{spec.num_envs} environments): raise rollout_steps or num_envs, or lower batch_size"
            )
        return -(-rows // self.batch_size)

    def sequence(self) -> int:
        """Steps of the sequences that a network with a core learns from."""
        return min(self.rollout_steps, self.batch_size)

    def updates_per_rollout(self, spec: EnvSpec) -> int:
        """All epochs' minibatches."""
        return self.epochs * self.minibatches(spec)

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        rows = self.rollout_steps * spec.num_envs
        return Replay(
            agent.columns(spec),
            2 * rows,  # environments that spend steps on resets leave more of the rollout to the others, but not twice as much
            batch_size=self.batch_size,
            view=Rollout(agent.prepare, self.gamma, self.clip_reward, streams=agent.streams),
            sampler=Minibatches(self.minibatches(spec), agent.core.sequence(self.sequence())),
            rate=Rate(0, rows, self.updates_per_rollout(spec)),
            device=agent.device,
            seed=self.seed,
        )
