"""Exact snapshots of one Gymnasium environment, every wrapper included, as plain data that `torch.save` can keep and
`torch.load(weights_only=True)` can read: tensors, numbers, strings, lists and dicts; never a pickled object.

A simulator has a snapshot here if it offers `state_dict` and `load_state_dict`, belongs to classic control, toy text or
MuJoCo of Gymnasium or to MinAtar, or is the plain ALE environment without sticky actions (ALE's own clone forgets which
action would be repeated; `protorl.envs.atari.AtariGame` remembers it). Everything else is rebuilt from named seeds instead.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol, TypeGuard

import gymnasium
import numpy as np
import torch
from gymnasium import wrappers as gym_wrappers

from protorl import rng
from protorl.data import ProtoRLError, State, Stateful
from protorl.envs.api import AnyEnv, AnyWrapper, Options, Reset
from protorl.envs.compat import OldApi

WRAPPER_MEMORY: dict[type, tuple[str, ...]] = {
    gym_wrappers.TimeLimit: ("_elapsed_steps",),
    gym_wrappers.OrderEnforcing: ("_has_reset",),
    gym_wrappers.PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
    gym_wrappers.FrameStackObservation: ("obs_queue",),
    gym_wrappers.TimeAwareObservation: ("timesteps",),
    gym_wrappers.AtariPreprocessing: ("obs_buffer", "lives", "game_over"),
}
STATELESS = (gym_wrappers.TransformObservation, gym_wrappers.TransformAction, gym_wrappers.TransformReward)
PLAIN_FAMILIES = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.", "gymnasium.envs.mujoco.")


class Mujoco(Protocol):
    """An environment of MuJoCo."""

    model: object
    data: object


class Exact(gymnasium.Env[Any, Any]):
    """An environment of our own with exact snapshots: of the attributes that `remembers` names, and of its generator.

    A subclass gives its spaces, `begin` and `step`.
    """

    remembers: tuple[str, ...] = ()

    def reset(self, *, seed: int | None = None, options: Options = None) -> Reset:
        super().reset(seed=seed)
        return self.begin(), {}

    def begin(self) -> Any:
        """Start an episode, drawing from `np_random` alone. Returns its first observation."""
        raise NotImplementedError

    def state_dict(self) -> State:
        kept = {name: freeze(getattr(self, name)) for name in self.remembers}
        return {**kept, "np_random": rng.pack(self.np_random)}

    def load_state_dict(self, state: State) -> None:
        for name in self.remembers:
            setattr(self, name, thaw(state[name]))
        rng.unpack(self.np_random, state["np_random"])


def freeze(value: object) -> object:
    """Plain data from numbers, strings, arrays and containers of them, every type remembered.

    Raises:
        TypeError: the value is of another type.
    """
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.generic):
        return {"is": "scalar", "value": torch.from_numpy(np.array(value))}
    if isinstance(value, np.ndarray):
        return {"is": "array", "value": torch.from_numpy(value.copy())}
    if isinstance(value, (list, tuple, deque)):
        kept = {"is": type(value).__name__, "value": [freeze(item) for item in value]}
        return {**kept, "maxlen": value.maxlen} if isinstance(value, deque) else kept
    if isinstance(value, dict):
        return {"is": "dict", "value": [[freeze(key), freeze(item)] for key, item in value.items()]}
    raise TypeError(f"no plain form for {type(value)}")


def thaw(frozen: object) -> Any:
    """What `freeze` was given."""
    if not isinstance(frozen, dict):
        return frozen
    kind, value = frozen["is"], frozen["value"]
    if kind == "array":
        return value.numpy().copy()
    if kind == "scalar":
        return value.numpy()[()]
    if kind == "dict":
        return {thaw(key): thaw(item) for key, item in value}
    items = [thaw(item) for item in value]
    if kind == "deque":
        return deque(items, frozen["maxlen"])
    return tuple(items) if kind == "tuple" else items


def layers(env: AnyEnv) -> tuple[list[AnyWrapper], Any]:
    """The wrappers of an environment, outermost first, and the simulator."""
    outer: list[AnyWrapper] = []
    while isinstance(env, gymnasium.Wrapper):
        outer.append(env)
        env = env.env
    return outer, env.old if isinstance(env, OldApi) else env


def exact(env: AnyEnv) -> bool:
    """Whether every layer of the environment can be saved and put back exactly."""
    outer, simulator = layers(env)
    return all(_wrapper_known(layer) for layer in outer) and _simulator_known(simulator)


def save(env: AnyEnv) -> list[State]:
    """One entry per layer, outermost first. Only for environments that are `exact`."""
    outer, simulator = layers(env)
    return [*(_save_wrapper(layer) for layer in outer), _save_simulator(simulator)]


def load(env: AnyEnv, state: list[State]) -> None:
    """Put an environment built the same way where `save` saw its like.

    Raises:
        ProtoRLError: the environment has other layers than the one that was saved.
    """
    outer, simulator = layers(env)
    if len(state) != len(outer) + 1:
        raise ProtoRLError(
            f"the saved environment had {len(state)} layers and this one has {len(outer) + 1}: build it as it was"
        )
    for layer, kept in zip(outer, state[:-1]):
        if _stateful(layer):
            layer.load_state_dict(kept)
        else:
            for name, value in kept.items():
                setattr(layer, name, thaw(value))
    _load_simulator(simulator, state[-1])


def _stateful(layer: object) -> TypeGuard[Stateful]:
    # Asked of the type: a Gymnasium wrapper may forward unknown attributes to what it wraps.
    return hasattr(type(layer), "state_dict") and hasattr(type(layer), "load_state_dict")


def _wrapper_known(layer: AnyWrapper) -> bool:
    if _stateful(layer) or type(layer) in WRAPPER_MEMORY or isinstance(layer, STATELESS):
        return True
    # A wrapper without attributes of its own remembers nothing.
    return set(vars(layer)) <= set(vars(gymnasium.Wrapper(layer.env)))


def _save_wrapper(layer: AnyWrapper) -> State:
    if _stateful(layer):
        return layer.state_dict()
    return {name: freeze(getattr(layer, name)) for name in WRAPPER_MEMORY.get(type(layer), ()) if hasattr(layer, name)}


def _simulator_known(env: AnyEnv) -> bool:
    if _stateful(env):
        return True
    return type(env).__module__.startswith(PLAIN_FAMILIES) or _minatar(env) or _plain_ale(env)


def _minatar(env: AnyEnv) -> bool:
    return type(env).__module__ == "minatar.gym"


def _plain_ale(env: Any) -> bool:
    return type(env).__module__ == "ale_py.env" and env.ale.getFloat("repeat_action_probability") == 0.0


def _save_simulator(env: Any) -> State:
    if _stateful(env):
        return env.state_dict()
    if _minatar(env):
        game = env.game
        return {
            "last_action": game.last_action,
            "random": freeze(game.random.get_state()),
            "attributes": _plain_attributes(game.env),
        }
    state: State = {"np_random": rng.pack(env.np_random)}
    if _plain_ale(env):
        clone = env.ale.cloneState(include_rng=True).serialize()
        return {**state, "ale": torch.frombuffer(bytearray(clone), dtype=torch.uint8)}
    if type(env).__module__.startswith("gymnasium.envs.mujoco."):
        state["mujoco"] = _save_mujoco(env)
    return {**state, "attributes": _plain_attributes(env)}


def _load_simulator(env: Any, state: State) -> None:
    if _stateful(env):
        env.load_state_dict(state)
        return
    if _minatar(env):
        game = env.game
        game.seed(0)  # gives the game and its stickiness one generator, as every seeded reset does
        game.random.set_state(thaw(state["random"]))
        game.last_action = state["last_action"]
        for name, value in state["attributes"].items():
            setattr(game.env, name, thaw(value))
        return
    rng.unpack(env.np_random, state["np_random"])
    if "ale" in state:
        import ale_py

        env.ale.restoreState(ale_py.ALEState(state["ale"].numpy().tobytes()))
        return
    if "mujoco" in state:
        _load_mujoco(env, state["mujoco"])
    for name, value in state["attributes"].items():
        setattr(env, name, thaw(value))


def _plain_attributes(env: AnyEnv) -> State:
    """The attributes with a plain form. In the families known here, what has none (spaces, screens, fixed transition
    tables, models) does not change while the environment runs."""
    kept = {}
    for name, value in vars(env).items():
        if isinstance(value, (dict, str)) or name in ("_np_random", "_np_random_seed"):
            continue
        try:
            kept[name] = freeze(value)
        except TypeError:
            continue
    return kept


def _save_mujoco(env: Mujoco) -> State:
    import mujoco

    what = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    physics = np.empty(mujoco.mj_stateSize(env.model, what))
    mujoco.mj_getState(env.model, env.data, physics, what)
    # Some environments read last step's positions of bodies before they step: those are not a function of the state.
    derived = {}
    for name in dir(env.data):
        value = None if name.startswith("_") else getattr(env.data, name, None)
        if isinstance(value, np.ndarray) and value.size and value.flags.writeable and value.dtype.kind in "fiu":
            derived[name] = freeze(value)
    return {"physics": freeze(physics), "derived": derived}


def _load_mujoco(env: Mujoco, state: State) -> None:
    import mujoco

    mujoco.mj_setState(env.model, env.data, thaw(state["physics"]), int(mujoco.mjtState.mjSTATE_INTEGRATION))
    for name, value in state["derived"].items():
        target, kept = getattr(env.data, name), thaw(value)
        if target.shape == kept.shape:  # lists of contacts and constraints have no fixed length, and are found anew
            target[...] = kept
