"""Environments of several agents, by name or as objects: what makes one."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

import gymnasium

from protorl.data import ProtoRLError
from protorl.envs.games import GAMES
from protorl.envs.parallel import has_several
from protorl.envs.vmas import VmasFactory
from protorl.modules import blamed, module_at
from protorl.words import listed

Factory = Callable[[], object]
ZOO = ("atari/", "butterfly/", "classic/", "magent/", "sisl/")
"""How ids begin of PettingZoo's registry."""
FORAGING = "Foraging-"


def team_factory(
    env: object, package_to_import: str | None, render_mode: str | None, kwargs: Mapping[str, Any]
) -> Factory | None:
    """What makes one environment of several agents; None where nothing says that there are several.

    Raises: ProtoRLError where it is known by name, and cannot be made.
    """
    if package_to_import is not None:
        module_at(package_to_import)
    more = dict(kwargs) | ({} if render_mode is None else {"render_mode": render_mode})
    if isinstance(env, ModuleType):  # from mpe2 import simple_spread_v3
        return made(env.__name__, maker_in(env, env.__name__), more)
    if not isinstance(env, str):
        if isinstance(env, type) or not has_several(env):
            return None
        return Given(env)
    if env in GAMES:
        return made(env, GAMES[env], kwargs)
    if env.startswith("mpe2/"):
        return made(env, maker_in(mpe2_module(env), env), more)
    if env.startswith("vmas/"):
        return VmasFactory(env.removeprefix("vmas/"), more)
    if env.removeprefix("lbforaging/").startswith(FORAGING):
        id = env.removeprefix("lbforaging/")
        need("lbforaging", env)
        if id not in gymnasium.registry:
            raise ProtoRLError(f"no environment is registered as {id!r}: {hint(id, gymnasium.registry)}")
        return made(env, partial(foraging, id), more)
    if env.startswith(ZOO) and env not in gymnasium.registry:
        return made(env, partial(from_registry, env), more)
    place, _, name = env.rpartition(":")
    if place:  # mpe2:simple_spread_v3
        home = module_at(place)
        found = getattr(home, name, None)
        if found is None and hasattr(home, "__path__") and importlib.util.find_spec(f"{place}.{name}") is not None:
            found = module_at(f"{place}.{name}")
        if isinstance(found, ModuleType):
            return made(env, maker_in(found, env), more)
    return None


def made(id: str, make: Callable[..., object], kwargs: Mapping[str, Any]) -> Factory:
    """What makes one, with a sentence where it fails."""

    def one() -> object:
        try:
            return make(**kwargs)
        except ProtoRLError:
            raise
        except Exception as error:
            raise ProtoRLError(f"{id} cannot be made: {blamed(error)}") from error

    return one


def foraging(id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """An environment of Level-Based Foraging, whose time limit is one."""
    return TimeIsUp(gymnasium.make(id, disable_env_checker=True, **kwargs))


class TimeIsUp(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Level-Based Foraging says "terminated" also when its own time is up; that is so only where nothing is left to eat."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, over, cut, info = self.env.step(action)
        left: Any = self.unwrapped
        late = bool(over) and bool(left.field.any())
        return obs, reward, bool(over) and not late, bool(cut) or late, info


class Given:
    """An environment that is there already, once."""

    def __init__(self, env: object) -> None:
        self.env, self.given = env, False

    def __call__(self) -> object:
        if self.given:
            raise ProtoRLError(f"{self.env} is one environment: for several, or for a training, give what makes it")
        self.given = True
        return self.env


def need(module: str, id: str) -> ModuleType:
    """A package, by name. Raises: ProtoRLError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ProtoRLError(f'{id} needs {module.partition(".")[0]}: pip install "protorl[multiagent]"') from error


def mpe2_module(id: str) -> ModuleType:
    """The module of an environment of mpe2. Raises: ProtoRLError for a name that is none."""
    modules = need("mpe2.all_modules", id)
    names = {name.rpartition("/")[2]: module for name, module in modules.mpe_environments.items()}
    name = id.partition("/")[2]
    if name not in names:
        raise ProtoRLError(f"mpe2 has no environment {name!r}: {hint(name, names)}")
    found: ModuleType = names[name]
    return found


def maker_in(module: ModuleType, id: str) -> Callable[..., object]:
    """What PettingZoo calls `parallel_env` in a module, or `env` where agents take turns. Raises: ProtoRLError where both are
    missing."""
    make = getattr(module, "parallel_env", getattr(module, "env", None))
    if not callable(make):
        raise ProtoRLError(f"{id} has neither parallel_env nor env: name a class or a function that makes an environment")
    return make


def from_registry(id: str, **kwargs: Any) -> object:
    """Of PettingZoo's registry: where agents act at the same time if it can, else in turns."""
    zoo: Any = need("pettingzoo", id)
    kinds = [("parallel", zoo.parallel_registry), ("aec", zoo.aec_registry)]
    for kind, registry in kinds:
        if id in registry:
            made: object = zoo.make(kind, id, **kwargs)
            return made
    raise ProtoRLError(f"PettingZoo has no environment {id!r}: {hint(id, [*zoo.parallel_registry, *zoo.aec_registry])}")


def hint(name: str, known: Any) -> str:
    """Close names."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"did you mean {listed(close)}?" if close else f"known are {', '.join(sorted(known)[:5])} ..."
