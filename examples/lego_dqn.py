"""DQN with prioritized 3-step replay on CartPole-v1, put together by hand from its parts."""

import torch

import protorl as prl

torch.manual_seed(0)
env = prl.make_vec_envs("CartPole-v1", num_envs=8, seed=0)

network = prl.Network(prl.MLP(env.spec.obs, [120, 84]), prl.QHead(env.spec.action))
policy = prl.EpsilonGreedy(env.spec.action, prl.Linear(1.0, 0.05, steps=10_000))
optimizer = prl.Adam(network, lr=1e-3, max_grad_norm=10.0)
agent = prl.DQN(network, policy, optimizer, target_every=250)

memory = prl.Replay(
    agent.columns(env.spec),
    capacity=50_000,
    batch_size=64,
    view=prl.NStep(3, gamma=0.99),
    sampler=prl.Prioritized(alpha=0.6, beta=0.4),
    rate=prl.Rate(start=1_000, every=2),
)

prl.train(agent, memory, prl.LocalActors(agent, env), steps=30_000)

score = prl.evaluate(agent, prl.make_vec_envs("CartPole-v1", num_envs=10, name="eval"), episodes=20, seed=1)
print(f"return {score.mean:.1f} ± {score.std:.1f} over {len(score.returns)} episodes")
