"""What the recipes of all off-policy algorithms share: the replay memory, from recipe fields alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from protorl.actors import Actors, FirstPriorities, WorkerActors
from protorl.agents import Agent
from protorl.data import Columns, EnvSpec, Field, Linear
from protorl.envs import VecEnv
from protorl.memory import NStep, Prioritized, Rate, Replay, Sampler, Uniform, home_of
from protorl.recipes.apart import apart
from protorl.recipes.config import fields_of, reference
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
    per_beta: float = hp(0.4, "importance exponent at the start", low=0.0, high=1.0)
    per_beta_end: float = hp(1.0, "importance exponent in the end", low=0.0, high=1.0)
    first_priority: str = hp(
        "largest",
        "of a new example: the largest so far, or td: what the agent says of it before it is stored",
        choices=("largest", "td"),
    )
    chunk_steps: int = hp(16, "steps of each environment that workers, and td, hand over together", unit="agent steps", low=1)
    workers: int = hp(0, "processes that act and step the environments, a share each (--actors N); 0: this one", low=0)
    lockstep: bool = hp(False, "workers wait for each other and the learner: a training repeats bit for bit, and is slower")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers > self.num_envs:
            object.__setattr__(self, "num_envs", self.workers)  # at least one each

    def view(self, agent: Agent) -> NStep:
        """What an example is."""
        return NStep(self.n_step, self.gamma, self.clip_reward, self.reward_scale, streams=agent.streams)

    @property
    def judged(self) -> bool:
        """Whether steps bring a first priority, and it counts."""
        return self.first_priority == "td" and self.per_alpha > 0

    def columns(self, agent: Agent, spec: EnvSpec) -> Columns:
        """What is stored of each step."""
        columns, priority = agent.columns(spec), Field((), np.dtype(np.float32))
        return dataclasses.replace(columns, extras={**columns.extras, "priority": priority}) if self.judged else columns

    def make_env_here(self) -> VecEnv:
        return self.make_env(1 if self.workers else None)

    def actors(self, agent: Agent, env: VecEnv) -> Actors:
        steps, lockstep = self.chunk_steps, self.lockstep
        if self.workers:
            build = functools.partial(apart, reference(self), fields_of(self), each=env.spec.rows_each)
            columns = self.columns(agent, self.spec_of(env))
            return WorkerActors(
                agent, build, columns, self.env, workers=self.workers, steps=steps, lockstep=lockstep,
                timeout=self.worker_timeout, each=env.spec.rows_each,
            )  # fmt: skip
        actors = super().actors(agent, env)
        if not self.judged:
            return actors
        among = (env.spec.lanes.start, self.num_envs * env.spec.rows_each) if lockstep else None
        return FirstPriorities(actors, agent, agent.columns(env.spec), self.view(agent), steps, among)

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        beta = Linear(self.per_beta, self.per_beta_end, max(self.steps, 1))
        sampler: Sampler = Prioritized(self.per_alpha, beta) if self.per_alpha > 0 else Uniform()
        columns = self.columns(agent, spec)
        return Replay(
            columns,
            self.capacity,
            batch_size=self.batch_size,
            view=self.view(agent),
            sampler=sampler,
            rate=Rate(self.warmup_steps, self.update_every, self.updates),
            device=home_of(columns, self.capacity, agent.device),
            deliver_to=agent.device,
            seed=self.seed,
        )
