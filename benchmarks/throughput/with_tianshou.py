"""Tianshou as a contender: with_tianshou.py BENCH [--env ID] [--update-every K]."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from contender import Pacer, paced
from settings import DQN, FOREVER, PPO, SAC, TD3, ActorCritic, PongDQN, Settings, parse


def dqn(s: DQN, env: gym.Env[Any, Any]) -> Any:
    from tianshou.algorithm.modelfree.dqn import DQN as Algorithm  # noqa: N811
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net

    if isinstance(s, PongDQN):
        from tianshou.env.atari.atari_network import DQNet, ScaledObsInputActionReprNet

        model: Any = ScaledObsInputActionReprNet(DQNet(4, 84, 84, env.action_space.n))
    else:
        model = Net(state_shape=env.observation_space.shape, action_shape=env.action_space.n, hidden_sizes=s.hidden)
    policy = DiscreteQLearningPolicy(
        model=model,
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=s.epsilon,
    )
    return Algorithm(
        policy=policy,
        optim=AdamOptimizerFactory(lr=s.lr),
        gamma=s.gamma,
        target_update_freq=s.target_steps // s.update_every,  # counted in updates
        is_double=False,
        huber_loss_delta=1.0,
    )


def ppo(s: PPO, env: gym.Env[Any, Any]) -> Any:
    import torch
    from tianshou.algorithm.modelfree.ppo import PPO as Algorithm  # noqa: N811
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    def body() -> Any:
        return Net(state_shape=env.observation_space.shape, hidden_sizes=s.hidden, activation=torch.nn.Tanh)

    policy = DiscreteActorPolicy(
        actor=DiscreteActor(preprocess_net=body(), action_shape=env.action_space.n, softmax_output=False),
        action_space=env.action_space,
        observation_space=env.observation_space,
    )
    return Algorithm(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=body()),
        optim=AdamOptimizerFactory(lr=s.lr, eps=s.adam_eps),
        eps_clip=s.clip,
        vf_coef=s.value,
        ent_coef=s.entropy,
        max_grad_norm=s.max_grad_norm,
        gae_lambda=s.gae_lambda,
        max_batchsize=s.cycle,  # values of a whole rollout in one pass
        gamma=s.gamma,
    )


def actor_critic(s: ActorCritic, env: gym.Env[Any, Any]) -> Any:
    """What TD3 and SAC share: the arguments of the algorithm but its policy, and a network body."""
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousCritic

    def critic() -> Any:
        body = Net(
            state_shape=env.observation_space.shape,
            action_shape=env.action_space.shape,
            hidden_sizes=s.hidden,
            concat=True,
        )
        return ContinuousCritic(preprocess_net=body)

    adam = AdamOptimizerFactory(lr=s.lr)
    arguments = {
        "policy_optim": adam,
        "critic": critic(),
        "critic_optim": adam,
        "critic2": critic(),
        "critic2_optim": adam,
        "tau": s.tau,
        "gamma": s.gamma,
    }
    return arguments, Net(state_shape=env.observation_space.shape, hidden_sizes=s.hidden)


def td3(s: TD3, env: gym.Env[Any, Any]) -> Any:
    from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
    from tianshou.algorithm.modelfree.td3 import TD3 as Algorithm  # noqa: N811
    from tianshou.exploration import GaussianNoise
    from tianshou.utils.net.continuous import ContinuousActorDeterministic

    arguments, body = actor_critic(s, env)
    policy = ContinuousDeterministicPolicy(
        actor=ContinuousActorDeterministic(preprocess_net=body, action_shape=env.action_space.shape),
        exploration_noise=GaussianNoise(sigma=s.noise),
        action_space=env.action_space,
        observation_space=env.observation_space,
    )
    return Algorithm(
        policy=policy,
        **arguments,
        policy_noise=s.target_noise,
        noise_clip=s.noise_clip,
        update_actor_freq=s.policy_delay,
    )


def sac(s: SAC, env: gym.Env[Any, Any]) -> Any:
    from tianshou.algorithm.modelfree.sac import SAC as Algorithm  # noqa: N811
    from tianshou.algorithm.modelfree.sac import AutoAlpha, SACPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic

    arguments, body = actor_critic(s, env)
    shape = env.action_space.shape
    policy = SACPolicy(
        actor=ContinuousActorProbabilistic(preprocess_net=body, action_shape=shape, unbounded=True, conditioned_sigma=True),
        action_space=env.action_space,
        observation_space=env.observation_space,
    )
    alpha = AutoAlpha(target_entropy=-float(shape[0]), log_alpha=0.0, optim=AdamOptimizerFactory(lr=s.lr))
    return Algorithm(policy=policy, **arguments, alpha=alpha)


def game(settings: Settings) -> gym.Env[Any, Any]:
    """The environment; Pong with Gymnasium's wrappers, as the library's own do not work with today's NumPy."""
    if not isinstance(settings, PongDQN):
        return gym.make(settings.env)
    import ale_py
    from gymnasium import wrappers

    gym.register_envs(ale_py)
    env: Any = gym.make(settings.env, frameskip=1, repeat_action_probability=0.0)
    env = wrappers.AtariPreprocessing(env, terminal_on_life_loss=True)
    return wrappers.FrameStackObservation(wrappers.TransformReward(env, lambda r: max(-1.0, min(1.0, r))), 4)


def build(settings: Settings, env: gym.Env[Any, Any]) -> Any:
    if isinstance(settings, DQN):
        return dqn(settings, env)
    if isinstance(settings, PPO):
        return ppo(settings, env)
    return td3(settings, env) if isinstance(settings, TD3) else sac(settings, env)


def main() -> None:
    import torch
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams

    settings, _ = parse()
    torch.manual_seed(0)
    pacer = Pacer(settings.warm_up, settings.cycle)
    algorithm = build(settings, game(settings))
    envs = DummyVectorEnv([lambda: paced(game(settings), pacer) for _ in range(settings.num_envs)])
    on_policy = isinstance(settings, PPO)
    frames = {"ignore_obs_next": True, "save_only_last_obs": True, "stack_num": 4} if isinstance(settings, PongDQN) else {}
    buffer = VectorReplayBuffer(settings.cycle if on_policy else settings.capacity, settings.num_envs, **frames)
    collector = Collector(algorithm, envs, buffer)
    collector.reset()
    shared = {
        "training_collector": collector,
        "max_epochs": 1,
        "epoch_num_steps": FOREVER,
        "batch_size": settings.batch,
        "verbose": False,
        "show_progress": False,
    }
    if isinstance(settings, PPO):
        params: Any = OnPolicyTrainerParams(
            **shared, collection_step_num_env_steps=settings.cycle, update_step_num_repetitions=settings.epochs
        )
    else:
        collector.collect(n_step=settings.start, random=isinstance(settings, ActorCritic))
        every = settings.update_every if isinstance(settings, DQN) else 1
        params = OffPolicyTrainerParams(
            **shared, collection_step_num_env_steps=every, update_step_num_gradient_steps_per_sample=1 / every
        )
    algorithm.run_training(params)


if __name__ == "__main__":
    main()
