"""The fast vector environments of others, seeded row by row: CartPole in NumPy, EnvPool in C++."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from protorl import rng
from protorl.data import Array, ProtoRLError, State
from protorl.envs import snapshot
from protorl.envs.api import AnyVectorEnv, Options, Reset, Results
from protorl.envs.atari import AtariProtocol, LifeLoss
from protorl.envs.kernels import cartpole_step

ENVPOOL_INSTALL = 'the envpool backend needs EnvPool: pip install "protorl[envpool]"'


class CartPoleRows(CartPoleVectorEnv):
    """Gymnasium's CartPole for N rows at once, its step compiled, with a generator per row in place of the one for all, so
    that a row's episodes begin as those of the single environment with the same seed, whoever its neighbours are. Rows that
    ended are reset when asked (`reset_mask`), so that no step is spent on a reset."""

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": AutoresetMode.DISABLED}
    seeds_rows = True

    def __init__(self, num_envs: int, max_episode_steps: int, sutton_barto_reward: bool = False) -> None:
        super().__init__(num_envs, max_episode_steps, sutton_barto_reward=sutton_barto_reward)
        self.rows = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self.blank, self.ones = np.zeros((num_envs, 4), np.float32), np.ones(num_envs, np.float32)
        self.flags = np.zeros(num_envs, np.bool_)
        self._np_random: Any = self  # it draws the initial states

    def uniform(self, low: float, high: float, size: tuple[int, int]) -> Array:
        """[4, N] initial states, each row's from its own generator."""
        return np.stack([row.uniform(low, high, 4) for row in self.rows], axis=1)

    def step(self, action: Array) -> Results:
        state: Any = self.state
        obs, terminated, truncated = self.blank.copy(), self.flags.copy(), self.flags.copy()
        cos, sin = np.cos(state[2]), np.sin(state[2])
        cartpole_step(state, cos, sin, action, self.steps, self.max_episode_steps, obs, terminated, truncated)
        reward = -terminated.astype(np.float32) if self._sutton_barto_reward else self.ones.copy()
        return obs, reward, terminated, truncated, {}

    def reset(self, *, seed: Any = None, options: Options = None) -> Reset:
        if seed is not None:
            self.rows = [seeding.np_random(one)[0] for one in seed]
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return super().reset(options=options)
        state: Any = self.state
        for row in np.flatnonzero(mask).tolist():
            state[:, row] = self.rows[row].uniform(self.low, self.high, 4)
        self.steps[mask] = 0
        return state.T.astype(np.float32), {}

    def state_dict(self) -> State:
        kept = {name: snapshot.freeze(getattr(self, name)) for name in ("state", "steps")}
        return {**kept, "rows": [rng.pack(row) for row in self.rows]}

    def load_state_dict(self, state: State) -> None:
        for name in ("state", "steps"):
            setattr(self, name, snapshot.thaw(state[name]))
        for row, kept in zip(self.rows, state["rows"], strict=True):
            rng.unpack(row, kept)


class EnvPoolRows(AnyVectorEnv):
    """An EnvPool task as a Gymnasium vector environment. EnvPool resets a row in the step after its episode's end, and
    takes its seeds only at construction: a seeded reset makes the pool anew."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    seeds_rows = True

    def __init__(self, task: str, num_envs: int, protocol: AtariProtocol | None = None, **options: object) -> None:
        try:
            import envpool
        except ImportError as error:
            raise ProtoRLError(ENVPOOL_INSTALL) from error
        if task not in envpool.list_all_envs():
            raise ProtoRLError(f"EnvPool has no task {task!r}: envpool.list_all_envs() names them, or use another backend")
        self.life_loss = None
        if protocol is not None:
            options = {**_envpool_atari(protocol), **options}
            self.life_loss = LifeLoss() if protocol.life_loss else None
        self.make = partial(envpool.make, task, env_type="gymnasium", num_envs=num_envs, **options)
        self.pool = self.make(seed=list(range(num_envs)))
        self.num_envs = num_envs
        self.single_observation_space = self.pool.observation_space
        self.single_action_space = self.pool.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Options = None) -> Reset:
        if seed is not None:
            self.pool.close()
            self.pool = self.make(seed=[int(one) for one in seed])
        obs, info = self.pool.reset()
        if self.life_loss is not None:
            self.life_loss.reset(info["lives"])
        return obs, {}

    def step(self, actions: Array) -> Results:
        actions = np.asarray(actions).astype(self.single_action_space.dtype)
        obs, reward, terminated, truncated, info = self.pool.step(actions)
        discount = {} if self.life_loss is None else {"discount": self.life_loss.discount(info["lives"])}
        return obs, reward, terminated, truncated, discount

    def close_extras(self, **kwargs: object) -> None:
        self.pool.close()


def _envpool_atari(protocol: AtariProtocol) -> dict[str, object]:
    return {
        "repeat_action_probability": protocol.sticky,
        "noop_max": max(protocol.noop_max, 1),  # EnvPool draws at least one
        "max_episode_steps": protocol.time_limit,
        "frame_skip": protocol.frame_skip,
        "stack_num": protocol.frame_stack,
        "img_height": protocol.size,
        "img_width": protocol.size,
        "full_action_space": protocol.full_action_space,
        "use_fire_reset": protocol.fire_reset,
        "episodic_life": False,
        "reward_clip": False,
    }
