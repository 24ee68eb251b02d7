"""What the recipes of all off-policy algorithms share: the replay memory, from recipe fields alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import Self

from protorl import rng
from protorl.actors import Actors, FirstPriorities, InProcesses, OnRay, WorkerActors
from protorl.actors.engine import Engine, Job
from protorl.agents import Agent, Novelty, curious
from protorl.data import Columns, EnvSpec, Field, Linear, ProtoRLError
from protorl.envs import VecEnv
from protorl.machine import cores
from protorl.memory import NStep, Prioritized, Rate, Replay, Sampler, Uniform, View, home_of
from protorl.modules import texts_of
from protorl.networks import RandomDistillation
from protorl.recipes.apart import HERE, apart
from protorl.recipes.config import fields_of, reference, unreachable
from protorl.recipes.fields import hp
from protorl.recipes.recipe import Recipe

WORKERS = (
    "processes that act and step the environments, a share each (--actors N); auto: one for each core but the one that "
    "learns; 0: this process does"
)
FIRST_PRIORITY = "of a new example: the largest so far, or td: what the agent says of it before it is stored"
FIRST_PRIORITIES = ("largest", "td")


class OffPolicy(Recipe):
    """Learns from a replay memory: any of them takes prioritized replay (`per_alpha`), n-step returns (`n_step`) and a bonus
    for what is new (`bonus`)."""

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
    first_priority: str = hp("largest", FIRST_PRIORITY, choices=FIRST_PRIORITIES)
    bonus: str = hp("none", "added to the reward: rnd is for what is new (Burda et al. 2018)", choices=("none", "rnd"))
    bonus_coef: float = hp(1.0, "weight of the bonus: about what each step is paid", unit="reward", low=0.0)
    predictor_lr: float = hp(1e-4, "learning rate of the bonus's predictor", low=0.0)
    predictor_features: int = hp(128, "numbers that the predictor predicts, width of its dense layers", low=1)
    chunk_steps: int = hp(16, "steps of each environment that workers, and td, hand over together", unit="agent steps", low=1)
    workers: int | Literal["auto"] = hp(0, WORKERS, low=0)
    engine: str = hp(
        "local", "where workers are: processes of this machine, or actors on Ray (docs/scaling.md)", choices=("local", "ray")
    )
    address: str | None = hp(
        None, "of the Ray cluster, auto or HOST:PORT; none: Ray is started on this machine, and ends with the training"
    )
    publish_every: int = hp(1, "between publications of the weights to workers, at least", unit="updates", low=1)
    lockstep: bool = hp(False, "workers wait for each other and the learner: a training repeats bit for bit, and is slower")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.workers, int) and self.workers > self.num_envs:
            object.__setattr__(self, "num_envs", self.workers)  # at least one each
        if self.address is not None and self.engine != "ray":
            raise ProtoRLError(f"address {self.address!r} is of a Ray cluster, and engine is {self.engine!r}: use engine=ray")
        if self.engine == "ray" and (self.workers == 0 or (self.workers == "auto" and self.address is not None)):
            raise ProtoRLError(
                f"engine=ray needs to know how many workers there are, and workers is {self.workers}: use --actors N"
            )
        if self.workers not in (0, "auto") and self.overlap:
            raise ProtoRLError(
                f"overlap is for one process, and workers is {self.workers}: they step while the agent learns anyhow; leave "
                "overlap out, or use workers=0"
            )

    def build_agent(self, spec: EnvSpec) -> Agent:
        """The agent, with its bonus, whose networks have a named stream of their own."""
        agent = super().build_agent(spec)
        bonuses = {"none": none, "rnd": rnd}
        with rng.torch_stream(self.seed, "bonus"):
            return bonuses[self.bonus](self, agent, spec)

    def view(self, agent: Agent) -> View:
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

    @property
    def processes(self) -> int:
        if self.workers != "auto":
            return self.workers
        return 0 if self.overlap or unreachable(self) else max(1, min(cores() - 1, self.num_envs))

    def here(self) -> Self:
        return dataclasses.replace(self, **HERE)

    def make_env_here(self) -> VecEnv:
        return self.make_env(1 if self.processes else None)

    def actors(self, agent: Agent, env: VecEnv) -> Actors:
        steps, lockstep, every = self.chunk_steps, self.lockstep, self.publish_every
        engines: dict[str, Callable[[Job], Engine]]
        engines = {"local": InProcesses, "ray": functools.partial(OnRay, address=self.address)}
        engine = engines[self.engine]
        if workers := self.processes:
            if why := unreachable(self):
                raise ProtoRLError(f"{workers} workers cannot find the recipe: {why}; put it into one, or use workers=0")
            name, each = reference(self), env.spec.rows_each
            build = functools.partial(apart, texts_of([name, self.env, *self.wrappers]), name, fields_of(self), each=each)
            columns = self.columns(agent, self.spec_of(env))
            return WorkerActors(
                agent, build, columns, self.env, workers=workers, steps=steps, lockstep=lockstep,
                timeout=self.worker_timeout, publish_every=every, engine=engine, each=each,
            )  # fmt: skip
        actors = super().actors(agent, env)
        if not self.judged:
            return actors
        among = (env.spec.lanes.start, self.num_envs * env.spec.rows_each) if lockstep else None
        return FirstPriorities(actors, agent, agent.columns(env.spec), self.view(agent), steps, among)

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        beta = Linear(self.per_beta, self.per_beta_end, max(self.steps, 1))
        sampler: Sampler = Prioritized(self.per_alpha, beta) if self.per_alpha > 0 else Uniform()
        columns, view = self.columns(agent, spec), self.view(agent)
        return Replay(
            columns,
            self.capacity,
            batch_size=self.batch_size,
            view=view,
            sampler=sampler,
            rate=Rate(self.warmup_steps, self.update_every, self.updates),
            device=home_of(columns, self.capacity, agent.device, view.starts),
            deliver_to=agent.device,
            seed=self.seed,
        )


def none(recipe: OffPolicy, agent: Agent, spec: EnvSpec) -> Agent:
    """The agent as it is."""
    return agent


def rnd(recipe: OffPolicy, agent: Agent, spec: EnvSpec) -> Agent:
    """The agent, which is paid for what is new to a predictor: of teams, in their common state."""
    entry = "state" if spec.reward_shape else None
    distillation = RandomDistillation(spec.obs, recipe.predictor_features, entry=entry).to(agent.device)
    optimizer = recipe.make_optimizer(distillation.predictor, recipe.predictor_lr)
    return curious(agent, Novelty(distillation, optimizer, recipe.bonus_coef))
