"""DQN of Stable-Baselines3."""

from __future__ import annotations

import gymnasium as gym
from contender import Pacer, paced
from settings import BATCH, CAPACITY, ENV, EPSILON, FOREVER, GAMMA, HIDDEN, LR, START, TARGET_STEPS, update_every, warm_up


def main() -> None:
    from stable_baselines3 import DQN

    every = update_every()
    model = DQN(
        "MlpPolicy",
        paced(gym.make(ENV), Pacer(warm_up(every))),
        learning_rate=LR,
        buffer_size=CAPACITY,
        learning_starts=START,
        batch_size=BATCH,
        gamma=GAMMA,
        train_freq=every,
        gradient_steps=1,
        target_update_interval=TARGET_STEPS,
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        policy_kwargs={"net_arch": HIDDEN},
        seed=0,
        device="cpu",
    )
    model.learn(FOREVER)


if __name__ == "__main__":
    main()
