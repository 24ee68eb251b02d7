"""From a name, a class or a callable to environments: `make_env` for one, `make_vec_envs` for many."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import gymnasium
from gymnasium import wrappers as gym_wrappers
from gymnasium.envs.registration import load_env_creator

from protorl.data import MASK, ObsSpec, ProtoRLError
from protorl.envs.adapter import AdaptedEnv
from protorl.envs.api import AnyEnv, Parallel
from protorl.envs.atari import AtariGame, AtariProtocol, AtariVector, find_protocol, require_ale
from protorl.envs.compat import OldApi
from protorl.envs.find_team import team_factory
from protorl.envs.games import GAMES
from protorl.envs.gate import warn_once
from protorl.envs.native import CartPoleRows, EnvPoolRows
from protorl.envs.parallel import IsTeam, has_several, parallel
from protorl.envs.sync import SyncEnv
from protorl.envs.teams import AsTeams, Lanes, ParallelTables, Tables
from protorl.envs.vector import VecEnv
from protorl.envs.vmas import VmasFactory, VmasTables
from protorl.envs.wrappers import ActionMask, Canonical, FrameStack
from protorl.modules import EXTRAS, blamed, call_of, module_at
from protorl.processes import FAILURES
from protorl.words import listed

Registered = gymnasium.envs.registration.EnvSpec
EnvLike = str | Callable[..., object]
Wrap = Callable[[AnyEnv], AnyEnv]
BACKENDS = ("auto", "sync", "async", "native", "envpool")
CARTPOLES = {"CartPole-v0": 200, "CartPole-v1": 500}
ATARI_NATIVE_FROM = 2  # games; one alone is faster in the light loop (see docs of make_vec_envs)
MASKLESS = ("gymnasium.envs.classic_control", "gymnasium.envs.box2d", "ale_py", "minigrid", "minatar", "protorl.")
"""Modules whose environments tell of no masks: they need not be asked."""
FAMILIES = ("MiniGrid-", "popgym-", "ALE/", "MinAtar/", "protorl/")
"""How ids begin that another package registers."""


def make_env(
    env: EnvLike,
    *,
    seed: int | None = None,
    package_to_import: str | None = None,
    apply_api_compatibility: bool = False,
    wrappers: Sequence[Wrap | str] = (),
    render_mode: str | None = None,
    protocol: str | AtariProtocol | None = None,
    frame_stack: int | None = None,
    time_limit: int | None = None,
    **env_kwargs: object,
) -> AnyEnv:
    """One Gymnasium environment with this library's wrappers around it.

    env: a registered id ("CartPole-v1", "module:Env-v0", "ALE/Pong-v5", "protorl/Counter-v0"), a class, a callable, or a
        class by its name: "module:Class", "my_env.py:MyEnv".
    seed: resets the environment once, so that later resets follow from the seed.
    package_to_import: imported first, so that it can register its ids; or the home of the class that `env` names.
    apply_api_compatibility: the environment speaks the old Gym interface.
    wrappers: applied in order, before images become [C, H, W] and frames are stacked: functions or classes, or their names
        with arguments ("gymnasium.wrappers:TimeAwareObservation(flatten=True)").
    protocol: Atari only: "nature", "machado", an `AtariProtocol`, or "raw" for ALE's environment as it is. Without one,
        an id with sticky actions plays by "machado", another by "nature". Fields of the protocol may be given by name.
    frame_stack: how many observations are joined along the first axis. time_limit: in agent steps, in place of the id's.

    Raises:
        ProtoRLError: nothing has that name, something must be installed first, or a space is not supported.
    """
    maker = EnvMaker(
        env,
        package_to_import,
        apply_api_compatibility,
        tuple(wrappers),
        render_mode,
        protocol,
        frame_stack,
        time_limit,
        env_kwargs,
    )
    made = maker()
    if seed is not None:
        made.reset(seed=seed)
    return made


def make_vec_envs(
    env: EnvLike,
    num_envs: int = 1,
    *,
    seed: int = 0,
    backend: str = "auto",
    package_to_import: str | None = None,
    apply_api_compatibility: bool = False,
    wrappers: Sequence[Wrap | str] = (),
    render_mode: str | None = None,
    protocol: str | AtariProtocol | None = None,
    frame_stack: int | None = None,
    time_limit: int | None = None,
    name: str = "env",
    first_row: int = 0,
    worker_timeout: float = 60.0,
    as_teams: bool = False,
    **env_kwargs: object,
) -> VecEnv:
    """N environments behind the contract of `VecEnv`; see `make_env` for what the other arguments mean.

    Environments of several agents are made by name as well: "mpe2/simple_spread_v3", an id of PettingZoo's registry
    ("sisl/pursuit-v5"), one of Level-Based Foraging ("Foraging-8x8-2p-3f-v3"), "vmas/balance", "protorl/TwoStepGame-v0"; or as
    "module:name", a class, a callable or an object of PettingZoo's parallel or AEC interface. Each agent is a row of its own
    (`Lanes`), or with `as_teams` each environment is one, with arrays over its agents (`AsTeams`).

    backend: "sync" steps them in a loop in this process; "async" gives each a worker process; "native" uses a fast vector
    implementation (ALE's C++ threads, a compiled CartPole); "envpool" uses EnvPool. "auto" takes ALE's C++ from two
    games on, the compiled CartPole always, and the loop for everything else: measured on two cores, one game takes 0.32 ms a
    step in the loop and 0.41 in ALE's threads (eight: 2.6 and 1.4), a CartPole 12 us in the loop and 10 compiled (eight: 69
    and 15), and worker processes lose to the loop twice over for eight HalfCheetahs, ten times for eight CartPoles; they pay
    where one step of one environment takes milliseconds and there are cores to spare.
    Row i is seeded by the stream (seed, name, first_row + i).
    worker_timeout: seconds that a worker process of "async" has for an answer, before it counts as hanging.

    Raises:
        ProtoRLError: as `make_env`; or the backend is unknown, or does not have this environment.
    """
    if num_envs < 1:
        raise ProtoRLError(f"num_envs is {num_envs}: at least one environment is needed")
    if not worker_timeout > 0:
        raise ProtoRLError(f"worker_timeout is {worker_timeout}: a worker needs more than 0 seconds for an answer")
    if backend not in BACKENDS:
        raise ProtoRLError(f"backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}")
    maker = EnvMaker(
        env,
        package_to_import,
        apply_api_compatibility,
        tuple(wrappers),
        render_mode,
        protocol,
        frame_stack,
        time_limit,
        env_kwargs,
    )
    id = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    rows = Rows(id=id, seed=seed, name=name, first_row=first_row)
    factory = team_factory(env, package_to_import, render_mode, env_kwargs)
    if factory is None:
        try:
            made = _vector(maker, num_envs, backend, rows, worker_timeout)
        except IsTeam as found:
            first: list[object] = [found.made]
            factory = lambda: first.pop() if first else maker.make_own()  # noqa: E731 - what was made is not thrown away
    if factory is not None:
        return _teams(maker, factory, num_envs, backend, rows, as_teams)
    if as_teams:
        raise ProtoRLError(f"{id} has a single agent: use an environment of several, such as mpe2/simple_spread_v3")
    protocol = maker.atari_protocol(pool=backend == "envpool")
    if protocol is not None:
        made.spec = replace(made.spec, frame_skip=protocol.frame_skip)
    return made


class Rows(TypedDict):
    """What names the rows of a vector environment."""

    id: str
    seed: int
    name: str
    first_row: int


def _vector(maker: EnvMaker, num_envs: int, backend: str, rows: Rows, worker_timeout: float) -> VecEnv:
    id = rows["id"]
    if backend == "envpool":
        return _envpool(maker, num_envs, rows)
    native = None if backend in ("sync", "async") else _native(maker, num_envs, rows)
    enough = id in CARTPOLES or num_envs >= ATARI_NATIVE_FROM
    if native is not None and (backend == "native" or enough):
        return native()
    if backend == "native":
        raise ProtoRLError(
            f'{id} has no native vector implementation for these arguments: use backend="sync" or backend="async"'
        )
    if backend == "async":
        from protorl.envs.workers import WorkerEnvs  # here: it needs POSIX

        return WorkerEnvs(maker, num_envs, timeout=worker_timeout, **rows)
    return SyncEnv(maker, num_envs, **rows)


def _teams(maker: EnvMaker, factory: Callable[[], object], num_envs: int, backend: str, rows: Rows, as_teams: bool) -> VecEnv:
    id = rows["id"]
    if backend not in ("auto", "sync"):
        raise ProtoRLError(f"backend {backend!r} does not step environments of several agents, as {id} is: use sync")
    for name, given in (("protocol", maker.protocol), ("frame_stack", maker.frame_stack)):
        if given is not None:
            raise ProtoRLError(f"{name} {given!r} is not for environments of several agents, as {id} is: leave it out")

    def make() -> Parallel:
        made = factory()
        for wrap in maker.wrappers:
            made = put_around(wrap, made, has_several) if isinstance(wrap, str) else wrap(made)  # type: ignore[arg-type]
        return parallel(made)

    tables: Tables
    if isinstance(factory, VmasFactory):
        tables = VmasTables(factory, num_envs, id)
    else:
        tables = ParallelTables(make, num_envs, id, rows["first_row"], as_teams)
    return (AsTeams if as_teams else Lanes)(tables, num_envs, **rows, time_limit=maker.time_limit)


@dataclass(frozen=True)
class EnvMaker:
    """Builds one environment when called, here or in another process; the arguments are those of `make_env`."""

    env: EnvLike
    package_to_import: str | None = None
    apply_api_compatibility: bool = False
    wrappers: tuple[Wrap | str, ...] = ()
    render_mode: str | None = None
    protocol: str | AtariProtocol | None = None
    frame_stack: int | None = None
    time_limit: int | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    known: dict[str, bool] = field(default_factory=dict, compare=False)
    """What the first one made has shown of all."""

    def __call__(self) -> AnyEnv:
        protocol = self.atari_protocol()
        if protocol is not None:
            made: AnyEnv = AtariGame(self.registered().kwargs["game"], protocol, self.render_mode)
            stack, padding = protocol.frame_stack, "zero"
        else:
            made = self.limited(self.simulator())
            stack, padding = 1 if self.frame_stack is None else self.frame_stack, "reset"
        for wrap in self.wrappers:
            made = put_around(wrap, made) if isinstance(wrap, str) else wrap(made)
        for name in ("observation_space", "action_space"):
            if not isinstance(space := getattr(made, name, None), gymnasium.Space):
                raise ProtoRLError(f"{made} has the {name} {space!r}: it must be one of gymnasium.spaces")
        if isinstance(made.action_space, gymnasium.spaces.Discrete) and self.tells_masks(made):
            made = ActionMask(made)
        canonical = Canonical(made)
        if canonical.convert is not None:
            made = canonical
        return FrameStack(made, stack, padding) if stack > 1 else made

    def tells_masks(self, made: AnyEnv) -> bool:
        """Whether it tells which actions are available: as an entry of the observation, or in the info. No space tells of the
        latter, so the first one made begins an episode that nobody plays."""
        space = made.observation_space
        if isinstance(space, gymnasium.spaces.Dict) and MASK in space.spaces:
            return True
        if self.apply_api_compatibility or type(made.unwrapped).__module__.startswith(MASKLESS):
            return False
        if MASK not in self.known:
            try:
                _, info = made.reset(seed=0)
                self.known[MASK] = isinstance(info, dict) and MASK in info
            except FAILURES:  # of which the first reset in earnest tells
                self.known[MASK] = False
        return self.known[MASK]

    def registered(self) -> Registered:
        """Gymnasium's entry for the id.

        Raises:
            ProtoRLError: there is none; the sentence names close ones, or what must be installed.
        """
        return find_id(str(self.env), self.package_to_import)

    def own_class(self) -> Callable[..., object] | None:
        """The class that was given, or that the name stands for; None for a registered id."""
        if not isinstance(self.env, str):
            return self.env
        module, _, attribute = self.env.rpartition(":")
        home = module if module else self.package_to_import
        if home is None:
            return None
        found = getattr(module_at(home), attribute, None)
        return found if callable(found) and attribute not in gymnasium.registry else None

    def atari_protocol(self, pool: bool = False) -> AtariProtocol | None:
        """The protocol to play by, or None where this is no Atari game (or a "raw" one). pool: EnvPool plays, which has its own
        copy of the games: the ALE need not be installed."""
        if not isinstance(self.env, str) or self.protocol == "raw" or self.apply_api_compatibility:
            return None
        if not pool and self.own_class() is not None:
            return None
        if pool:
            atari, sticky = self.env.startswith("ALE/"), True
        else:
            spec = self.registered()
            atari = spec.entry_point == "ale_py.env:AtariEnv"
            sticky = atari and spec.kwargs["repeat_action_probability"] > 0
        if not atari:
            if self.protocol is not None:
                raise ProtoRLError(f"{self.env} is not an Atari game: it has no protocol {self.protocol!r}")
            return None
        named = "machado" if sticky else "nature"
        protocol = named if self.protocol is None else self.protocol
        return find_protocol(protocol, self.frame_stack, self.time_limit, self.env_kwargs)

    def simulator(self) -> AnyEnv:
        """The environment before this library's wrappers."""
        render: dict[str, Any] = {} if self.render_mode is None else {"render_mode": self.render_mode}
        if self.apply_api_compatibility:
            return self.old_simulator()
        if self.own_class() is not None:
            made = self.make_own()
            if has_several(made):
                raise IsTeam(made)
            if not isinstance(made, gymnasium.Env):
                raise ProtoRLError(
                    f"{made!r} is not a gymnasium.Env: derive it from one, or pass apply_api_compatibility=True "
                    "if it speaks the old Gym interface"
                )
            return made
        spec = self.registered()
        limit: dict[str, Any] = {} if self.time_limit is None else {"max_episode_steps": self.time_limit}
        once = mujoco_warns_once() if str(spec.entry_point).startswith("gymnasium.envs.mujoco") else nullcontext()
        try:
            with once:
                return gymnasium.make(spec, disable_env_checker=True, **limit, **render, **self.env_kwargs)
        except Exception as error:
            raise _explained(self.env, error) from error

    def make_own(self) -> Any:
        """What the class, or the callable, makes."""
        own: Any = self.own_class()
        render: dict[str, Any] = {} if self.render_mode is None else {"render_mode": self.render_mode}
        try:
            return own(**render, **self.env_kwargs)
        except Exception as error:
            if not isinstance(self.env, str):
                raise
            raise ProtoRLError(f"{self.env} cannot be made: {blamed(error)}") from error

    def old_simulator(self) -> AnyEnv:
        """A class of the old interface, or one that is registered."""
        own = self.own_class()
        if own is not None:
            return OldApi(own, self.render_mode, **self.env_kwargs)
        spec: Any = self.registered()
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        made: AnyEnv = OldApi(creator, self.render_mode, **{**spec.kwargs, **self.env_kwargs})
        if self.time_limit is None and spec.max_episode_steps is not None:
            made = gym_wrappers.TimeLimit(made, spec.max_episode_steps)
        return made

    def limited(self, made: AnyEnv) -> AnyEnv:
        """With the time limit asked for, where Gymnasium has not put it there already."""
        by_gymnasium = self.own_class() is None and not self.apply_api_compatibility
        if self.time_limit is None or by_gymnasium:
            return made
        return gym_wrappers.TimeLimit(made, self.time_limit)


def is_env(made: object) -> bool:
    return isinstance(made, gymnasium.Env)


def put_around(wrapper: str, env: Any, fits: Callable[[object], bool] = is_env) -> Any:
    """The environment inside a wrapper that is named, with its arguments. fits: whether what it makes is an environment.

    Raises:
        ProtoRLError: there is no such wrapper, or it does not take this environment.
    """
    place, attribute, args, kwargs = call_of(wrapper, "wrapper")
    wrap: Any = getattr(module_at(place), attribute, None)
    if not callable(wrap):
        near = difflib.get_close_matches(attribute, _classes(place, gymnasium.Env), n=3)
        raise ProtoRLError(f"{place} has no wrapper {attribute!r}" + (f": did you mean {listed(near)}?" if near else ""))
    try:
        made = wrap(env, *args, **kwargs)
    except ProtoRLError:
        raise
    except Exception as error:
        raise ProtoRLError(f"{wrapper} cannot be put around {env}: {type(error).__name__}: {error}") from error
    if not fits(made):
        raise ProtoRLError(f"{wrapper} makes no environment: it must be a gymnasium.Wrapper, or a function that returns one")
    return made


@contextmanager
def mujoco_warns_once() -> Iterator[None]:
    """Inside, MuJoCo tells of a model's faults once a process: every evaluation reads the same models again."""
    import mujoco

    handler = getattr(mujoco, "get_mju_user_warning", lambda: None)()
    mujoco.set_mju_user_warning(lambda text: warn_once(f"MuJoCo: {text.strip()}", text))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(handler)


def find_id(id: str, package_to_import: str | None = None) -> Registered:
    """Gymnasium's `EnvSpec` of an id, after importing what registers it.

    Raises:
        ProtoRLError: it is registered nowhere; the sentence names close ids, or the package to install.
    """
    if package_to_import is not None:
        module_at(package_to_import)
    module, _, plain = id.rpartition(":")
    if module:
        module_at(module)
    if plain not in gymnasium.registry:
        _register(plain)
    try:
        return gymnasium.spec(plain)
    except gymnasium.error.Error as error:
        if id.endswith((".py", ".py:")):
            raise ProtoRLError(f"{id} names a file, and no class in it: write {id.rstrip(':')}:MyEnv") from error
        close = close_ids(plain)
        if module and not close:
            near = difflib.get_close_matches(plain, _classes(module, gymnasium.Env), n=3)
            hint = f"did you mean {listed(near)}?" if near else "name a class of it, or an id that it registers"
            raise ProtoRLError(f"{module} has no environment {plain!r}: {hint}") from error
        way = "package_to_import= imports what registers it, and FILE.py:CLASS or MODULE:CLASS names a class"
        hint = f"did you mean {listed(close)}?" if close else way
        raise ProtoRLError(f"no environment is registered as {plain!r}: {hint}") from error


def _classes(place: str, base: type) -> list[str]:
    """Names of the classes of this kind in a module."""
    found = inspect.getmembers(module_at(place), lambda value: isinstance(value, type) and issubclass(value, base))
    return [name for name, _ in found]


def close_ids(id: str) -> list[str]:
    """Registered ids that are nearly this one, the newest version of each; a game is found without its namespace."""
    for family in FAMILIES:
        if not any(known.startswith(family) for known in gymnasium.registry):
            with suppress(ProtoRLError):  # it is not installed
                _register(family)
    newest: dict[str, str] = {}
    for spec in sorted(gymnasium.registry.values(), key=lambda spec: spec.version or 0):
        old_atari = str(spec.entry_point).startswith("ale_py") and not (spec.namespace or spec.name.endswith("NoFrameskip"))
        if spec.namespace not in ("phys2d", "tabular") and not old_atari:  # other simulators of the same names
            newest[f"{spec.namespace or ''}/{spec.name}".lower()] = spec.id
    newest |= {id.removesuffix("-v0").lower(): id for id in GAMES}
    wanted = re.sub(r"-v\d+$", "", id).lower()
    exact = [found for name, found in newest.items() if wanted in (name.lstrip("/"), name.rpartition("/")[2])]
    if exact:
        return sorted(exact, key=lambda found: not found.startswith("MinAtar/"))[:3]
    names = {name.lstrip("/") if "/" in wanted else name.rpartition("/")[2]: found for name, found in newest.items()}
    return [names[name] for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)]


def _register(id: str) -> None:
    """Import what may know the id; each of these packages registers its own on import."""
    if id.startswith("protorl/"):
        for ours in ("protorl.envs.probes", "protorl.envs.tasks"):
            importlib.import_module(ours).register()
    elif id.startswith(("MiniGrid-", "BabyAI-", "popgym-")):
        package, name = ("popgym", "POPGym") if id.startswith("popgym-") else ("minigrid", "MiniGrid")
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ProtoRLError(f'{id} needs {name}: pip install "protorl[{package}]"') from error
    elif id.startswith("MinAtar/"):
        try:
            importlib.import_module("minatar.gym").register_envs()
        except ImportError as error:
            raise ProtoRLError(f'{id} needs MinAtar: pip install "protorl[minatar]"') from error
    elif id.startswith("ALE/") or id.endswith(("NoFrameskip-v4", "NoFrameskip-v0")):
        require_ale()


def _explained(id: object, error: Exception) -> ProtoRLError:
    text = f"{error!r} {error.__cause__!r}"
    if isinstance(error, (gymnasium.error.DependencyNotInstalled, ImportError)):
        for word, extra in EXTRAS.items():
            if word in text and importlib.util.find_spec(word) is None:
                return ProtoRLError(f'{id} needs more packages: pip install "protorl[{extra}]"')
    return ProtoRLError(f"{id} cannot be made: {error}")


def _native(maker: EnvMaker, num_envs: int, rows: Rows) -> Callable[[], VecEnv] | None:
    if not isinstance(maker.env, str) or maker.wrappers or maker.render_mode is not None or maker.apply_api_compatibility:
        return None
    protocol = maker.atari_protocol()
    if protocol is not None:
        game = maker.registered().kwargs["game"]
        obs, limit = protocol.obs_spec("zero"), protocol.time_limit
        return lambda: AdaptedEnv(lambda: AtariVector(game, num_envs, protocol), obs=obs, time_limit=limit, **rows)
    options = maker.env_kwargs
    if maker.env not in CARTPOLES or maker.frame_stack not in (None, 1) or not options.keys() <= {"sutton_barto_reward"}:
        return None
    limit = CARTPOLES[maker.env] if maker.time_limit is None else maker.time_limit
    return lambda: AdaptedEnv(lambda: CartPoleRows(num_envs, limit, **options), time_limit=limit, **rows)


def _envpool(maker: EnvMaker, num_envs: int, rows: Rows) -> VecEnv:
    if not isinstance(maker.env, str) or maker.wrappers or maker.render_mode is not None or maker.apply_api_compatibility:
        raise ProtoRLError("EnvPool takes an id, and neither wrappers, render_mode nor apply_api_compatibility")
    task, options = maker.env, dict(maker.env_kwargs)
    obs: ObsSpec | None = None
    limit: int | None = None
    protocol = maker.atari_protocol(pool=True)
    if protocol is not None:
        obs, limit = protocol.obs_spec("reset"), protocol.time_limit
        task, options = task.removeprefix("ALE/"), {}
    else:
        if maker.frame_stack not in (None, 1):
            raise ProtoRLError('EnvPool stacks no frames of this environment: use backend="sync"')
        if task in gymnasium.registry:
            limit = gymnasium.spec(task).max_episode_steps
        if maker.time_limit is not None:
            limit = options["max_episode_steps"] = maker.time_limit
    return AdaptedEnv(lambda: EnvPoolRows(task, num_envs, protocol, **options), obs=obs, time_limit=limit, **rows)
