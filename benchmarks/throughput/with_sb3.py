"""Stable-Baselines3 as a contender: with_sb3.py BENCH [--env ID] [--update-every K]."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from contender import Pacer, paced
from settings import FOREVER, TD3, Settings, parse


def model(library: Any, settings: Settings, **policy: Any) -> Any:
    """The model of Stable-Baselines3, or of SBX, which has the same interface. policy: further `policy_kwargs`."""
    import numpy as np
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import NormalActionNoise

    pacer = Pacer(settings.warm_up, settings.cycle)
    env = make_vec_env(lambda: paced(gym.make(settings.env), pacer), settings.num_envs, seed=0)
    arguments = settings.sb3()
    if isinstance(settings, TD3):
        size = env.action_space.shape
        arguments["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, settings.noise))
    algorithm = getattr(library, type(settings).__name__)
    return algorithm("MlpPolicy", env, **arguments, policy_kwargs=policy, seed=0, device="cpu")


def main() -> None:
    import stable_baselines3

    settings, _ = parse()
    model(stable_baselines3, settings, net_arch=list(settings.hidden)).learn(FOREVER)


if __name__ == "__main__":
    main()
