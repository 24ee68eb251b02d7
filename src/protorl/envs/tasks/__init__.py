"""Small tasks of published papers, which take memory or exploration; each has an id, "protorl/<Name>-v0".

All resume exactly. Arguments are given by `env_kwargs`.
"""

from __future__ import annotations

import gymnasium
from gymnasium.envs.registration import WrapperSpec

from protorl.envs.tasks.deep_sea import DeepSea
from protorl.envs.tasks.disco_maze import DiscoMaze
from protorl.envs.tasks.memory_length import MemoryLength
from protorl.envs.tasks.t_maze import TMaze

TASKS = (DeepSea, DiscoMaze, MemoryLength, TMaze)
WITHOUT_VELOCITY = {
    "CartPoleNoVel": ("CartPole-v1", (1, 3)),
    "MountainCarNoVel": ("MountainCar-v0", (1,)),
    "MountainCarContinuousNoVel": ("MountainCarContinuous-v0", (1,)),
    "PendulumNoVel": ("Pendulum-v1", (2,)),
}
"""Tasks of Gymnasium's with zeros where the velocities were, as in RL Baselines3 Zoo: name -> (id, indices of velocities)."""


def register() -> None:
    """Give every task its id in Gymnasium's registry."""
    for task in TASKS:
        _register(f"protorl/{task.__name__}-v0", entry_point=f"{task.__module__}:{task.__name__}")
    for name, (id, velocities) in WITHOUT_VELOCITY.items():
        seen = gymnasium.spec(id)
        masked = WrapperSpec("MaskObs", "protorl.envs.wrappers:MaskObs", {"drop": velocities})
        _register(
            f"protorl/{name}-v0",
            entry_point=seen.entry_point,
            kwargs=seen.kwargs,
            reward_threshold=seen.reward_threshold,
            max_episode_steps=seen.max_episode_steps,
            additional_wrappers=(masked,),
        )


def _register(id: str, **arguments: object) -> None:
    if id not in gymnasium.registry:
        gymnasium.register(id, **arguments)  # type: ignore[arg-type]
