"""A recipe: frozen hyperparameters that build environment, agent, memory and actors, and run them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from typing_extensions import Self, dataclass_transform

from protorl import rng
from protorl.accelerate import MODES, PRECISIONS
from protorl.accelerate.subnormals import start_threads
from protorl.actors import Actors, LocalActors, OverlappedActors
from protorl.agents import Agent
from protorl.data import ArraySpec, EnvSpec, ProtoRLError, visible
from protorl.envs import RandomActions, VecEnv, make_vec_envs
from protorl.memory import Replay
from protorl.modules import absolute, call_of
from protorl.networks import Optimizer, build_optimizer, one_each, optimizer_class
from protorl.policies import Policy
from protorl.recipes.fields import Fields, check, hints, hp, hp_field, unknown_field
from protorl.recipes.presets import Presets, preset
from protorl.recipes.start import Result, start

INSTEAD = {"discrete": "dqn or ppo", "multidiscrete": "ppo", "box": "ppo, sac or td3"}
"""Recipes for each kind of action, for whoever chose one that does not fit."""

RECIPES: dict[str, type[Recipe]] = {}
"""Every recipe of this package, by its name; the package's first module puts them here."""

OWN_ENV_KWARGS = {
    "env", "num_envs", "seed", "name", "backend", "package_to_import", "apply_api_compatibility", "protocol", "render_mode",
    "worker_timeout", "wrappers", "as_teams",
}  # fmt: skip
"""What `make_env` passes itself."""


class Threads:
    """Torch's threads, of which a process has one number: what it was before a recipe set it is remembered for the next one."""

    def __init__(self) -> None:
        self.before, self.ours = 1, 0

    def torch(self) -> int:
        """How many torch, or a person, chose."""
        now = torch.get_num_threads()
        return self.before if now == self.ours else now

    def set(self, number: int) -> None:
        self.before = self.torch()
        torch.set_num_threads(number)
        self.ours = number


THREADS = Threads()


class Parts(NamedTuple):
    """What a training loop needs."""

    agent: Agent
    memory: Replay
    actors: Actors


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(hp, dataclasses.field))
class Recipe:
    """Hyperparameters of a paper's experiment, as a frozen dataclass; it builds and runs itself.

    A subclass declares fields (`lr: float = hp(1e-3, "learning rate")`, or plainly `lr: float = 1e-3`) and becomes a dataclass
    by itself. A field's value is the one given, or that of a user's class, or the preset's for the environment, or the
    default, in this order.

    It builds by small methods, each of which a subclass may replace alone: `network` (of `actor` and `critic` where there are
    two), `policy`, `optimizers`, `hyperparameters`, `memory`, `actors`; `agent` puts the first four together. The agent is an
    `agent_class`, which is also given `agent_arguments`.

    Raises: ProtoRLError for an unknown field, a wrong type, or a value out of range.
    """

    __dataclass_fields__: ClassVar[Fields]
    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    presets: ClassVar[Presets] = {}
    numbers: ClassVar[str] = ""
    """Whose paper its fields quote, for a class that several recipes share."""
    paper_preset: ClassVar[str] = ""
    """The preset that holds the paper's own numbers, if one does."""
    actions: ClassVar[tuple[str, ...]] = ("discrete", "multidiscrete", "box")
    """Kinds of actions the algorithm can choose."""
    as_teams: ClassVar[bool] = False
    """Whether a row of the environment is a team, with arrays over its agents; otherwise each agent is a row of its own."""
    agent_class: ClassVar[type[Agent]] = Agent
    """Of the agent, called with a network, a policy, and by name `optimizers`, `hyperparameters` and `agent_arguments`."""

    env: str = hp("CartPole-v1", "environment id, module:id, or a class as module:Class or my_env.py:MyEnv")
    steps: int = hp(50_000, "length of the training", unit="agent steps, all environments together", low=0)
    seed: int = hp(0, "root of every random stream", low=0)
    num_envs: int = hp(1, "environments stepped together", low=1)
    device: str = hp("auto", "where the networks live", choices=("auto", "cpu", "cuda"))
    accelerate: str = hp("auto", "how updates run; auto decides by the time of the first ones and says why", choices=MODES)
    precision: str = hp("float32", "of large matrix products in updates", choices=PRECISIONS)
    threads: int = hp(0, "torch threads; 0: one for small networks, all cores for images", low=0)
    overlap: bool = hp(False, "environments step while the agent learns, which is then one step behind")
    backend: str = hp("auto", "how environments are stepped", choices=("auto", "sync", "async", "native", "envpool"))
    worker_timeout: float = hp(60.0, "that a worker process of backend=async may take for a step", unit="seconds", low=1e-3)
    protocol: str | None = hp(
        None,
        "how Atari is played, and whose hyperparameters: nature is Mnih et al. 2015 (no-ops, lost lives), machado is Machado "
        "et al. 2018 and Dopamine (sticky actions), raw the plain ALE; none: as the environment's id says",
        choices=("nature", "machado", "raw"),
    )
    package_to_import: str | None = hp(None, "package that registers the environment")
    apply_api_compatibility: bool = hp(False, "the environment has the old gym API")
    wrappers: tuple[str, ...] = hp((), "Gymnasium's or your own, the innermost first: module:Class, file.py:Class(arguments)")
    gamma: float = hp(0.99, "discount per agent step", paper="0.99", low=0.0, high=1.0)
    lr: float = hp(3e-4, "learning rate", low=0.0)
    optimizer: str = hp(
        "adam", "gradient descent: adam, rmsprop (DeepMind's), torch-rmsprop, or any of torch.optim by its name"
    )
    optimizer_eps: float = hp(1e-8, "the optimizer's epsilon, if it has one", low=0.0)
    optimizer_kwargs: dict[str, object] = hp({}, "further arguments of the optimizer, as a dict")
    max_grad_norm: float | None = hp(None, "clips the gradient's norm; none: not", low=0.0)
    base: str = hp("auto", "body of the network", choices=("auto", "mlp", "nature", "impala", "minatar"))
    widths: tuple[int, ...] = hp((256, 256), "hidden layers of an MLP", low=1)
    activation: str = hp("relu", "activation of an MLP")
    layer_norm: bool = hp(False, "layer normalisation in an MLP")
    share: bool = hp(True, "of several agents: they share one network, told apart by their one-hot; no: each has its own")
    env_kwargs: dict[str, Any] = hp({}, "further arguments of the environment, as a dict")
    log_every: int = hp(1_000, "between rows of metrics.csv", unit="agent steps", low=1)
    eval_every: int = hp(5_000, "between evaluations; 0: none", unit="agent steps", low=0)
    eval_episodes: int = hp(10, "episodes of an evaluation", low=1)
    eval_max_steps: int = hp(100_000, "an evaluation's episode is cut after so many", unit="agent steps", low=1)
    eval_epsilon: float = hp(0.0, "share of random actions in evaluations (Atari: 0.05 to 0.001)", low=0.0, high=1.0)
    checkpoint_every: int = hp(10_000, "between checkpoints; 0: none", unit="agent steps", low=0)
    keep: int = hp(2, "checkpoints kept, besides the best weights", low=1)

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Makes the subclass a dataclass. Where it gives a field a new default (`lr = 1e-4`), with or without a type, the field
        keeps its type, help and range. Where it has no `name` of its own, it is called as the class is: MyPaper, "my-paper"."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()
        own, kinds = dict(inspect.get_annotations(cls)), hints(cls)
        for name in own:
            if inspect.isfunction(getattr(Recipe, name, None)):
                raise ProtoRLError(f"{cls.__name__} cannot have a field {name!r}: recipes have a method of that name")
        for name, field in nearest_fields(cls.__mro__[1:]).items():
            default = cls.__dict__.get(name, field)
            if inspect.isfunction(default):
                raise ProtoRLError(f"{cls.__name__} cannot have a method {name!r}: recipes have a field of that name")
            if not isinstance(default, dataclasses.Field):
                own.setdefault(name, kinds[name])
                setattr(cls, name, hp_field(default, field.metadata))
        cls.__annotations__ = own
        dataclass(frozen=True, kw_only=True, init=False)(cls)
        cls.__dataclass_fields__ = nearest_fields(cls.__mro__)  # type: ignore[attr-defined]

    def __init__(self, **given: object) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name in given:
            if name not in fields:
                raise unknown_field(name, sorted(fields))
        values = {name: default_of(field) for name, field in fields.items()} | given
        first = given.keys() | users_own(type(self))
        tuned = preset(self.presets, values["env"], values["protocol"])
        values |= {name: value for name, value in tuned.items() if name in fields and name not in first}
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen: there is no other way in
        self.__post_init__()

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "env", absolute(self.env))
        object.__setattr__(self, "wrappers", tuple(absolute(wrapper) for wrapper in self.wrappers))
        for wrapper in self.wrappers:
            call_of(wrapper, "wrapper")
        if taken := sorted(set(self.env_kwargs) & OWN_ENV_KWARGS):
            raise ProtoRLError(f"env_kwargs may not have {', '.join(taken)}: a recipe passes these to its environments itself")
        optimizer_class(self.optimizer, self.optimizer_kwargs)

    # What a recipe builds

    def make_env(self, num_envs: int | None = None, *, name: str = "env", render: bool = False, first_row: int = 0) -> VecEnv:
        """The vector environment; each `name` has random streams of its own. first_row: the first one's number among all."""
        return make_vec_envs(
            self.env,
            self.num_envs if num_envs is None else num_envs,
            seed=self.seed,
            name=name,
            first_row=first_row,
            backend="sync" if render else self.backend,
            package_to_import=self.package_to_import,
            apply_api_compatibility=self.apply_api_compatibility,
            protocol=self.protocol,
            wrappers=self.wrappers,
            render_mode="rgb_array" if render else None,
            worker_timeout=self.worker_timeout,
            as_teams=self.as_teams,
            **self.env_kwargs,
        )

    def make_eval_env(self, num_envs: int, *, render: bool = False) -> VecEnv:
        """The environments of an evaluation, which take a random action now and then if `eval_epsilon` says so."""
        env = self.make_env(num_envs, name="eval", render=render)
        return RandomActions(env, self.eval_epsilon) if self.eval_epsilon > 0 else env

    def agent(self, spec: EnvSpec) -> Agent:
        """The agent, its networks on `resolve_device(spec)`; called with torch's generator on a stream of its own."""
        if self.agent_class is Agent:
            raise self.lacks("agent_class, or a method agent(spec)")
        network = self.networks(spec).to(self.resolve_device(spec))
        arguments = {**self.optimizers(network), **self.hyperparameters(spec), **self.agent_arguments()}
        build: Callable[..., Agent] = self.agent_class
        return build(network, self.policy(spec), **arguments)

    def networks(self, spec: EnvSpec) -> nn.Module:
        """`network(spec)`, or one such for each agent of a team."""
        return self.network(spec) if self.share else one_each(spec, self.network)

    def network(self, spec: EnvSpec) -> nn.Module:
        """All that is learned: a Network, or an ActorCritic."""
        raise self.lacks("a method network(spec)")

    def policy(self, spec: EnvSpec) -> Policy[Any]:
        """What chooses actions from the network's outputs, with a stream of random numbers for each environment."""
        raise self.lacks("a method policy(spec)")

    def optimizers(self, network: nn.Module) -> dict[str, Optimizer]:
        """The optimizers of the network's parts, by the names under which the agent takes them."""
        return {"optimizer": self.make_optimizer(network)}

    def hyperparameters(self, spec: EnvSpec) -> dict[str, object]:
        """What the agent takes of the recipe's fields, by name."""
        return {}

    def agent_arguments(self) -> dict[str, object]:
        """What an `agent_class` of one's own takes besides, by name; these go before `hyperparameters`."""
        return {}

    def memory(self, agent: Agent, spec: EnvSpec) -> Replay:
        """The memory for what the agent wants remembered."""
        raise self.lacks("a method memory(agent, spec)")

    def actors(self, agent: Agent, env: VecEnv) -> Actors:
        """Who steps the environments."""
        return OverlappedActors(agent, env) if self.overlap else LocalActors(agent, env)

    # How it does so

    def lacks(self, what: str) -> ProtoRLError:
        """The sentence for a recipe in which something was not written."""
        return ProtoRLError(
            f"{type(self).__name__} lacks {what}: write it, or derive from a recipe that has it, such as prl.recipes.DQN"
        )

    def build(self) -> Parts:
        """Agent, memory and actors, ready for `prl.train`."""
        return self.assemble(self.make_env_here())

    @property
    def processes(self) -> int:
        """How many workers there are that act, on this machine."""
        return 0

    def here(self) -> Self:
        """This recipe with nothing in processes of their own."""
        return self

    def make_env_here(self) -> VecEnv:
        """What this process needs of the environments: all of them, unless they are stepped elsewhere."""
        return self.make_env()

    def assemble(self, env: VecEnv) -> Parts:
        """The parts around an environment that is already there."""
        spec = self.spec_of(env)
        agent = self.build_agent(spec)
        actors = self.actors(agent, env)
        return Parts(agent, self.memory(agent, spec), actors)

    def spec_of(self, env: VecEnv) -> EnvSpec:
        """Of all environments; where they are stepped elsewhere one stands for them."""
        each = env.spec.rows_each
        return dataclasses.replace(env.spec, num_envs=self.num_envs * each) if env.num_envs == each else env.spec

    def build_agent(self, spec: EnvSpec) -> Agent:
        """The agent, its initial weights from the recipe's named stream."""
        if spec.action.kind not in self.actions:
            raise ProtoRLError(
                f"{self.name} chooses {' or '.join(self.actions)} actions, but those of {spec.id} are "
                f"{spec.action.kind}: use {INSTEAD[spec.action.kind]}, or another environment"
            )
        THREADS.set(self.resolve_threads(spec))
        start_threads()
        with rng.torch_stream(self.seed, "networks"):
            return self.agent(spec)

    def make_optimizer(self, module: nn.Module, lr: float | None = None, **arguments: object) -> Optimizer:
        """An optimizer of `module`'s parameters from the fields. lr: None is the field. arguments: further ones of its own."""
        offered = {"eps": self.optimizer_eps}
        arguments = {**arguments, **self.optimizer_kwargs}
        lr = self.lr if lr is None else lr
        return build_optimizer(self.optimizer, module, lr, self.max_grad_norm, arguments, offered)

    def base_config(self, spec: EnvSpec, init: str = "default", **mlp: object) -> dict[str, object]:
        """The base of a network for `build_network`: "auto" is an MLP for vectors, the Nature network for images (MinAtar's
        for those below 36x36), and one of these for each entry of a dict. init: initial weights. mlp: further arguments of
        an MLP."""
        fields = {"widths": self.widths, "activation": self.activation, "layer_norm": self.layer_norm} | mlp

        def one(obs: ArraySpec) -> dict[str, object]:
            image = "nature" if min(obs.shape[1:], default=0) >= 36 else "minatar"
            kind = self.base if self.base != "auto" else image if obs.pixels else "mlp"
            return {"type": kind, "init": init, **(fields if kind == "mlp" else {})}

        seen = visible(spec.obs)
        if isinstance(seen, dict):
            return {"type": "dict", "bases": {key: one(entry) for key, entry in seen.items()}}
        return one(seen)

    def resolve_device(self, spec: EnvSpec) -> torch.device:
        """`auto`: the GPU for images if there is one, else the CPU. (A run with a folder measures where small networks are
        faster.)"""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ProtoRLError('device "cuda" was asked for, but torch sees no GPU: use device "auto" or "cpu"')
        if self.device == "auto":
            return torch.device("cuda" if spec.pixels and torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def resolve_threads(self, spec: EnvSpec) -> int:
        """`0`: one thread for small networks, where more cost more than they bring; for images what torch chose."""
        if self.threads:
            return self.threads
        return THREADS.torch() if spec.pixels else 1

    def run(self, run_dir: str | Path | None = None, *, progress: bool = True) -> Result:
        """Train in a run folder (a new one under runs/ if none is given); see `protorl.recipes.start`."""
        return start(self, run_dir, progress=progress)


def nearest_fields(classes: Sequence[type]) -> Fields:
    """The fields of classes in the order in which attributes are looked up: the first that declares a name has it. (A dataclass
    of several bases takes what each of them has inherited for its own.)"""
    found: Fields = {}
    for base in reversed(classes):
        if dataclasses.is_dataclass(base):
            declared = inspect.get_annotations(base)
            found |= {field.name: field for field in dataclasses.fields(base) if field.name in declared}
    return found


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default, a new one where it can be changed."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def users_own(cls: type) -> set[str]:
    """Fields to which a class of the user's own gave their defaults: these go before presets."""
    classes = [base for base in cls.__mro__ if base.__module__.split(".")[0] != "protorl"]
    return {name for base in classes for name in inspect.get_annotations(base)}


dataclass(frozen=True, kw_only=True, init=False)(Recipe)
