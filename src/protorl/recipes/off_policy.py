"""What the recipes of all off-policy algorithms share: the replay memory, from recipe fields alone."""

from __future__ import annotations

from typing import ClassVar

from protorl.agents import Agent
from protorl.data import EnvSpec, Linear
from protorl.memory import NStep, Prioritized, Rate, Replay, Sampler, Uniform, home_of
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe


class OffPolicy(Recipe):
    """Learns from a replay memory: any of them takes prioritized replay (`per_alpha`) and n-step returns (`n_step`)."""

    numbers: ClassVar[str] = ""

    batch_size: int = hp(256, "examples per update", low=1)
    capacity: int = hp(1_000_000, "replay memory", unit="agent steps", low=1)
    warmup_steps: int = hp(1_000, "before the first update", unit="agent steps", low=0)
    update_every: int = hp(1, "between bursts of updates", unit="agent steps", low=1)
    updates: int = hp(1, "updates per burst", low=1)
    n_step: int = hp(1, "steps of the return", unit="agent steps", paper="1", low=1)
    clip_reward: float | None = hp(None, "clips each reward to [-c, c] for learning", low=0.0)
    reward_scale: float = hp(1.0, "multiplies each reward for learning, after the clip", low=0.0)
    per_alpha: float = hp(0.0, "prioritization exponent; 0: uniform replay (0.6: Schaul et al. 2016)", low=0.0)
    per_beta: float = hp(0.4, "importance exponent at the start; it ends at 1 with the training", low=0.0, high=1.0)

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        beta = Linear(self.per_beta, 1.0, max(self.steps, 1))
        sampler: Sampler = Prioritized(self.per_alpha, beta) if self.per_alpha > 0 else Uniform()
        columns = agent.columns(spec)
        return Replay(
            columns,
            self.capacity,
            batch_size=self.batch_size,
            view=NStep(self.n_step, self.gamma, self.clip_reward, self.reward_scale, streams=agent.streams),
            sampler=sampler,
            rate=Rate(self.warmup_steps, self.update_every, self.updates),
            device=home_of(columns, self.capacity, agent.device),
            deliver_to=agent.device,
            seed=self.seed,
        )
