"""Stable-Baselines3 as a contender: with_sb3.py BENCH [--env ID] [--update-every K] [--device cuda]."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from contender import Pacer, paced
from settings import FOREVER, TD3, PongDQN, PongPPO, RecurrentPPO, Settings, parse


def model(library: Any, settings: Settings, device: str = "cpu", **policy: Any) -> Any:
    """The model of Stable-Baselines3, or of SBX, which has the same interface. policy: further `policy_kwargs`."""
    import numpy as np
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.vec_env import VecFrameStack

    pacer = Pacer(settings.warm_up, settings.cycle)
    pong = isinstance(settings, PongDQN | PongPPO)
    env = make_vec_env(lambda: paced(game() if pong else gym.make(settings.env), pacer), settings.num_envs, seed=0)
    if pong:
        env = VecFrameStack(env, 4)
    arguments = settings.sb3()
    if isinstance(settings, TD3):
        size = env.action_space.shape
        arguments["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, settings.noise))
    algorithm = getattr(library, type(settings).__name__.removeprefix("Pong"))
    kind = "CnnPolicy" if pong else "MlpLstmPolicy" if isinstance(settings, RecurrentPPO) else "MlpPolicy"
    return algorithm(kind, env, **arguments, policy_kwargs=policy, seed=0, device=device)


def game() -> gym.Env[Any, Any]:
    """Pong with the library's own Atari wrapper: no-ops, four frames a step, lost lives, 84x84, clipped rewards."""
    import ale_py
    from stable_baselines3.common.atari_wrappers import AtariWrapper

    gym.register_envs(ale_py)
    return AtariWrapper(gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0))


def main() -> None:
    import stable_baselines3 as library

    settings, args = parse()
    pong = isinstance(settings, PongDQN | PongPPO)
    policy: dict[str, Any] = {} if pong else {"net_arch": list(settings.hidden)}  # its CnnPolicy is the Nature network
    if isinstance(settings, RecurrentPPO):
        import sb3_contrib as library  # type: ignore[no-redef]

        policy |= {"lstm_hidden_size": settings.lstm, "shared_lstm": True, "enable_critic_lstm": False}
    model(library, settings, args.device, **policy).learn(FOREVER)


if __name__ == "__main__":
    main()
