"""DQN of Stable-Baselines3."""

from __future__ import annotations

import gymnasium as gym
from contender import Pacer, paced
from settings import ENV, FOREVER, HIDDEN, sb3_arguments, update_every, warm_up


def main() -> None:
    from stable_baselines3 import DQN

    every = update_every()
    model = DQN(
        "MlpPolicy",
        paced(gym.make(ENV), Pacer(warm_up(every))),
        **sb3_arguments(every),
        policy_kwargs={"net_arch": HIDDEN},
        device="cpu",
    )
    model.learn(FOREVER)


if __name__ == "__main__":
    main()
