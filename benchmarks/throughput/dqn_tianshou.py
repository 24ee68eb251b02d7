"""DQN of Tianshou."""

from __future__ import annotations

import gymnasium as gym
from contender import Pacer, paced
from settings import BATCH, CAPACITY, ENV, EPSILON, FOREVER, GAMMA, HIDDEN, LR, START, TARGET_STEPS, update_every, warm_up


def main() -> None:
    import torch
    from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    every = update_every()
    torch.manual_seed(0)
    pacer = Pacer(warm_up(every))
    env = gym.make(ENV)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=env.observation_space.shape, action_shape=env.action_space.n, hidden_sizes=HIDDEN),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=EPSILON,
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=LR),
        gamma=GAMMA,
        target_update_freq=TARGET_STEPS // every,  # counted in updates
        is_double=False,
        huber_loss_delta=1.0,
    )
    collector = Collector(algorithm, DummyVectorEnv([lambda: paced(env, pacer)]), VectorReplayBuffer(CAPACITY, 1))
    collector.reset()
    collector.collect(n_step=START)
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=FOREVER,
            collection_step_num_env_steps=every,
            update_step_num_gradient_steps_per_sample=1 / every,
            batch_size=BATCH,
            verbose=False,
            show_progress=False,
        )
    )


if __name__ == "__main__":
    main()
