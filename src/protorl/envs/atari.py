"""Atari 2600 as the papers play it, one game at a time (`AtariGame`) or many in C++ threads (`AtariVector`).

Both give the same frames, rewards and ends for the same seed and actions, bit for bit, because `AtariGame` repeats what
ALE's vector environment does, down to its random numbers: a Mersenne twister for sticky actions, another for the number
of no-ops, no frame of the no-ops in the stack, which begins with zeros; INTER_AREA resizing; and, where an episode ends
inside the four frames of a step, the last screens of the step before (a terminal observation is never bootstrapped from;
at the frame cap it is at most one step old). What differs: `AtariGame` renders, and has exact snapshots; the C++ one is
faster with many environments, does neither, and is rebuilt from named seeds at checkpoint boundaries. The number of
no-ops is drawn by the C++ library ALE was compiled with: equal for its Linux packages (libstdc++), of the same distribution
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import ModuleType
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from protorl import rng
from protorl.data import Array, ArraySpec, ProtoRLError, State
from protorl.envs.api import AnyVectorEnv, Info, Options, Reset, Results
from protorl.envs.snapshot import freeze, thaw

INSTALL = 'Atari needs the ALE: pip install "protorl[atari]"'


@dataclass(frozen=True)
class AtariProtocol:
    """How a game is played. Rewards are always the game's own; clipping is the learner's.

    sticky: probability that a frame repeats the action before instead of the agent's. noop_max: an episode begins with
    0..noop_max no-ops, uniformly. life_loss: losing a life zeroes the discount, and the game goes on. max_frames: frame cap
    of an episode, a truncation. frame_skip frames per step, the last two max-pooled, grayscale, size x size, stack of
    `frame_stack`. full_action_space: all 18 actions rather than the game's minimal set. fire_reset: FIRE is pressed once
    at an episode's start where the game knows it.
    """

    sticky: float = 0.0
    noop_max: int = 30
    life_loss: bool = True
    max_frames: int = 108_000
    frame_skip: int = 4
    frame_stack: int = 4
    size: int = 84
    full_action_space: bool = False
    fire_reset: bool = False

    def __post_init__(self) -> None:
        numbers: dict[type, type] = {float: Real, int: Integral}
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kind: Any = type(field.default)
            if isinstance(value, bool) != (kind is bool) or not isinstance(value, numbers.get(kind, kind)):
                raise ProtoRLError(f"Atari option {field.name} {value!r} has the wrong type: it must be {kind.__name__}")
            low = 1 if field.name in ("max_frames", "frame_skip", "frame_stack", "size") else 0
            if value < low or (field.name == "sticky" and value > 1):
                allowed = "in [0, 1]" if field.name == "sticky" else f"at least {low}"
                raise ProtoRLError(f"Atari option {field.name} {value} is out of range: it must be {allowed}")

    @property
    def time_limit(self) -> int:
        """The frame cap in agent steps."""
        return self.max_frames // self.frame_skip

    def obs_spec(self, stack_padding: str) -> ArraySpec:
        """Stacked frames [frame_stack, size, size]."""
        low, high = (np.full((self.frame_stack, self.size, self.size), value, np.uint8) for value in (0, 255))
        return ArraySpec(low.shape, low.dtype, low, high, self.frame_stack, stack_padding)


PROTOCOLS = {
    # Mnih et al. 2015, and DQN to NGU after it.
    "nature": AtariProtocol(),
    # Machado et al. 2018, Dopamine.
    "machado": AtariProtocol(sticky=0.25, noop_max=0, life_loss=False),
}


def find_protocol(
    protocol: str | AtariProtocol, frame_stack: int | None, time_limit: int | None, changes: Mapping[str, Any]
) -> AtariProtocol:
    """A protocol by name, with some of its fields changed; `time_limit` is in agent steps.

    Raises:
        ProtoRLError: no such protocol, or no such field.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ProtoRLError(f'Atari protocol {protocol!r} is unknown: use "nature", "machado", "raw" or an AtariProtocol')
        protocol = PROTOCOLS[protocol]
    known = [field.name for field in fields(AtariProtocol)]
    if strange := set(changes) - set(known):
        raise ProtoRLError(
            f"Atari options {sorted(strange)} are unknown; an AtariProtocol has {', '.join(known)}; "
            'protocol="raw" passes options to the plain ALE environment'
        )
    if frame_stack is not None:
        changes = {**changes, "frame_stack": frame_stack}
    if time_limit is not None:
        skip = changes.get("frame_skip", protocol.frame_skip)
        changes = {**changes, "max_frames": time_limit * skip}
    return replace(protocol, **changes)


def require_ale() -> ModuleType:
    """The module `ale_py`, told to keep quiet; importing it registers its games with Gymnasium."""
    try:
        import ale_py
    except ImportError as error:
        raise ProtoRLError(INSTALL) from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py


class AtariGame(gymnasium.Env[Array, Any]):
    """One game: observations [1, 84, 84] uint8 (stacked by `FrameStack(padding="zero")`), raw rewards.

    `info["lives"]`; and, where the protocol says so, `info["discount"] = 0` at a lost life that is not the last.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(self, game: str, protocol: AtariProtocol, render_mode: str | None = None) -> None:
        ale_py = require_ale()
        try:
            import cv2
        except ImportError as error:
            raise ProtoRLError(INSTALL) from error
        self.cv2 = cv2
        self.protocol, self.render_mode = protocol, render_mode
        self.rom = ale_py.roms.get_rom_path(game)
        self.ale = ale_py.ALEInterface()
        # Stickiness is ours: ALE's snapshots forget which action would be repeated.
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.setInt("random_seed", 0)
        self.ale.loadROM(self.rom)
        self.noop, self.fire = ale_py.Action.NOOP, ale_py.Action.FIRE
        full = protocol.full_action_space
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.fires = protocol.fire_reset and self.fire in self.actions
        self.sticky, self.noops = (np.random.Generator(np.random.MT19937(0)) for _ in range(2))
        self.seeded = False
        self.screens = [np.zeros(self.ale.getScreenDims(), np.uint8) for _ in range(2)]
        self.frames = self.lives = 0
        self.last = self.noop
        self.action_space = spaces.Discrete(len(self.actions))
        self.observation_space = spaces.Box(0, 255, (1, protocol.size, protocol.size), np.uint8)
        self.time_limit = protocol.time_limit

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[Array, Info]:
        super().reset(seed=seed)
        if seed is None and not self.seeded:
            seed = int(self.np_random.integers(2**31))
        if seed is not None:
            self.seeded = True
            # NumPy's legacy seeding is the one of std::mt19937; bit generators have none of their own in public.
            twister = np.random.RandomState(seed).get_state(legacy=False)
            self.sticky.bit_generator.state = self.noops.bit_generator.state = twister
            self.ale.setInt("random_seed", seed)
            self.ale.loadROM(self.rom)
        self._new_game()
        if self.fires:
            self._act(self.fire)
        for _ in range(self._draw_noops() - int(self.fires)):
            self._act(self.noop)
            if self.ale.game_over():
                self._new_game()
        self.frames, self.lives = 0, self.ale.lives()
        self.ale.getScreenGrayscale(self.screens[0])
        self.screens[1].fill(0)
        return self._observe(), {"lives": self.lives}

    def step(self, action: int) -> tuple[Array, float, bool, bool, Info]:
        reward, wanted = 0.0, self.actions[action]
        for left in range(self.protocol.frame_skip, 0, -1):
            reward += self._act(wanted)
            self.frames += 1
            terminated = self.ale.game_over()
            capped = self.frames >= self.protocol.max_frames
            if terminated or capped:
                break
            if left <= 2:
                self.ale.getScreenGrayscale(self.screens[left - 1])
        lives = self.ale.lives()
        info: Info = {"lives": lives}
        if self.protocol.life_loss and life_lost(self.lives, lives):
            info["discount"] = 0.0
        self.lives = lives
        return self._observe(), reward, terminated, capped and not terminated, info

    def render(self) -> Array | None:
        return self.ale.getScreenRGB() if self.render_mode == "rgb_array" else None

    def get_action_meanings(self) -> list[str]:
        """The name of each action."""
        return [action.name for action in self.actions]

    def state_dict(self) -> State:
        clone = self.ale.cloneState(include_rng=True).serialize()
        return {
            "ale": freeze(np.frombuffer(clone, np.uint8)),
            "sticky": rng.pack(self.sticky),
            "noops": rng.pack(self.noops),
            "np_random": rng.pack(self.np_random),
            "seeded": self.seeded,
            "screens": freeze(self.screens),
            "frames": self.frames,
            "lives": self.lives,
            "last": self.last.value,
        }

    def load_state_dict(self, state: State) -> None:
        ale_py = require_ale()
        self.ale.restoreState(ale_py.ALEState(thaw(state["ale"]).tobytes()))
        rng.unpack(self.sticky, state["sticky"])
        rng.unpack(self.noops, state["noops"])
        rng.unpack(self.np_random, state["np_random"])
        self.seeded, self.frames, self.lives = state["seeded"], state["frames"], state["lives"]
        self.screens, self.last = thaw(state["screens"]), ale_py.Action(state["last"])

    def _new_game(self) -> None:
        self.ale.reset_game()
        self.last = self.noop

    def _act(self, wanted: object) -> int:
        # ALE draws two numbers a frame, for player one and player two, and repeats where the draw is below.
        draw = self.sticky.bit_generator.random_raw
        if draw() / 2**32 >= self.protocol.sticky:
            self.last = wanted
        draw()
        return self.ale.act(self.last)

    def _draw_noops(self) -> int:
        # Uniform on 0..noop_max from 32-bit words as libstdc++ draws it (Lemire 2019, "Fast random integer generation").
        outcomes = self.protocol.noop_max + 1
        while True:
            product = int(self.noops.bit_generator.random_raw()) * outcomes
            if (product & 0xFFFFFFFF) >= 2**32 % outcomes:
                return product >> 32

    def _observe(self) -> Array:
        pooled, size = self.screens[0], self.protocol.size
        np.maximum(pooled, self.screens[1], out=pooled)
        return self.cv2.resize(pooled, (size, size), interpolation=self.cv2.INTER_AREA)[None]


Lives = TypeVar("Lives", int, Array)
"""Of one game, or of each of N."""


def life_lost(before: Lives, now: Lives) -> bool | Array:
    """Whether a life was lost that was not the last: some games show zero lives for a while before they are over."""
    return (now < before) & (now > 0)


class LifeLoss:
    """The discount that lost lives leave, for N rows: 0 where a life was lost and another is left, else 1."""

    def __init__(self) -> None:
        self.lives: Array

    def reset(self, lives: Array) -> None:
        self.lives = np.array(lives)

    def discount(self, lives: Array) -> Array:
        """[N] float32."""
        lost = life_lost(self.lives, lives)
        self.lives = np.array(lives)
        return np.where(lost, np.float32(0), np.float32(1))


class AtariVector(AnyVectorEnv):
    """N copies of a game in ALE's C++ threads, seeded row by row; finished rows are reset by the caller."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    seeds_rows = True

    def __init__(self, game: str, num_envs: int, protocol: AtariProtocol) -> None:
        require_ale()
        from ale_py.vector_env import AtariVectorEnv

        self.games = AtariVectorEnv(
            game,
            num_envs,
            max_num_frames_per_episode=protocol.max_frames,
            repeat_action_probability=protocol.sticky,
            full_action_space=protocol.full_action_space,
            img_height=protocol.size,
            img_width=protocol.size,
            stack_num=protocol.frame_stack,
            frameskip=protocol.frame_skip,
            noop_max=protocol.noop_max + 1,  # ALE draws 0..noop_max-1
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=protocol.fire_reset,
        )
        self.num_envs = num_envs
        self.single_observation_space = self.games.single_observation_space
        self.single_action_space = self.games.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.life_loss = LifeLoss() if protocol.life_loss else None

    def reset(self, *, seed: Any = None, options: Options = None) -> Reset:
        if seed is not None:
            seed = np.asarray(seed)
        obs, info = self.games.reset(seed=seed, options=options)
        if self.life_loss is not None:
            self.life_loss.reset(info["lives"])
        return obs, info

    def step(self, actions: Array) -> Results:
        obs, reward, terminated, truncated, info = self.games.step(actions)
        if self.life_loss is not None:
            info["discount"] = self.life_loss.discount(info["lives"])
        return obs, reward, terminated, truncated, info

    def close_extras(self, **kwargs: object) -> None:
        self.games.close()
