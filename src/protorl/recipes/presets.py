"""Hyperparameters by environment: what a recipe takes when nothing else is said. Every block names its source.

A recipe's table has a pattern of ids for each block ("ALE/*"). "ALE/*@machado" is the block for those ids where that protocol
was asked for by name; without one of its own, a protocol gets the plain pattern's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

Block = dict[str, object]
"""Fields of a recipe and their values."""
Presets = Mapping[str, Mapping[str, object]]
"""Blocks by the ids or patterns of environments that they are for."""

MUJOCO = (
    "HalfCheetah-*", "Hopper-*", "Walker2d-*", "Ant-*", "Humanoid-*", "HumanoidStandup-*", "Swimmer-*", "Reacher-*",
    "Pusher-*", "InvertedPendulum-*", "InvertedDoublePendulum-*",
)  # fmt: skip
"""Gymnasium's MuJoCo environments, of any version."""
ATARI = ("ALE/*", "*NoFrameskip-v4")
"""Atari games."""


def atari(values: Block, **protocols: Block) -> dict[str, Block]:
    """Entries for Atari games: `values`, and others for each protocol asked for by name (`machado=...`)."""
    entries = {"": values, **{f"@{protocol}": others for protocol, others in protocols.items()}}
    return {pattern + suffix: block for suffix, block in entries.items() for pattern in ATARI}


# The tuned configurations of rl-baselines3-zoo, hyperparams/dqn.yml (two hidden layers of 256, Adam, Huber loss, gradient
# norm 10). That library copies its target between bursts of updates, every so many agent steps: `target_every` here is the
# same moment counted in updates (CartPole: every burst of 128; MountainCar: 600 steps = 300 updates; others: 250 = 250).
# CartPole differs in one value: `n_step` is 3 where the zoo has 1, with which some seeds never reach 475 (see
# benchmarks/learning/results); `--set n_step=1` is the zoo's own.
ZOO_DQN: dict[str, Block] = {
    "CartPole-v1": {
        "steps": 50_000, "lr": 2.3e-3, "batch_size": 64, "capacity": 100_000, "warmup_steps": 1_000, "gamma": 0.99,
        "target_every": 128, "update_every": 256, "updates": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04,
        "n_step": 3, "eval_every": 2_000, "eval_episodes": 20,
    },
    "MountainCar-v0": {
        "steps": 120_000, "lr": 4e-3, "batch_size": 128, "capacity": 10_000, "warmup_steps": 1_000, "gamma": 0.98,
        "target_every": 300, "update_every": 16, "updates": 8, "epsilon_steps": 24_000, "epsilon_end": 0.07,
    },
    "Acrobot-v1": {
        "steps": 100_000, "lr": 6.3e-4, "batch_size": 128, "capacity": 50_000, "warmup_steps": 0, "gamma": 0.99,
        "target_every": 250, "update_every": 4, "updates": 4, "epsilon_steps": 12_000, "epsilon_end": 0.1,
    },
    "LunarLander-v3": {
        "steps": 100_000, "lr": 6.3e-4, "batch_size": 128, "capacity": 50_000, "warmup_steps": 0, "gamma": 0.99,
        "target_every": 250, "update_every": 4, "updates": 4, "epsilon_steps": 12_000, "epsilon_end": 0.1,
    },
}  # fmt: skip

# Mnih et al. 2015, Extended Data Table 1, in agent steps (4 frames) and updates; RMSProp's 0.01 is for summed gradients.
NATURE_DQN: Block = {
    "steps": 50_000_000, "optimizer": "rmsprop", "lr": 2.5e-4, "optimizer_eps": 0.01 / 32**2, "batch_size": 32,
    "capacity": 1_000_000, "warmup_steps": 50_000, "gamma": 0.99, "target_every": 2_500, "update_every": 4, "updates": 1,
    "epsilon_steps": 1_000_000, "epsilon_end": 0.1, "clip_reward": 1.0, "max_grad_norm": None, "eval_every": 250_000,
    "checkpoint_every": 250_000, "protocol": "nature", "eval_epsilon": 0.05,
}  # fmt: skip

# van Hasselt et al. 2016, "tuned", as in the authors' dqn_zoo/double_q/run_atari.py: the target is copied every 30 000 steps
# (120 000 frames), exploration ends lower, also in evaluations. The shared bias of the last layer is not offered.
NATURE_DOUBLE_DQN: Block = {**NATURE_DQN, "target_every": 7_500, "epsilon_end": 0.01, "eval_epsilon": 0.01}

# Wang et al. 2016, section 4.2: Double DQN's numbers, gradients clipped to a norm of 10, and a learning rate "slightly lower"
# that the paper does not give (it stays here). With prioritized replay it is 6.25e-5: `--set per_alpha=0.6 --set lr=6.25e-5`.
NATURE_D3QN: Block = {**NATURE_DOUBLE_DQN, "max_grad_norm": 10.0}

# Dopamine, jax/agents/dqn/configs/dqn.gin, of whose iterations of 250 000 steps 200 are published; in agent steps and updates.
# Its squared error is not halved as ours is, so its Adam sees gradients twice as large: our epsilon is half of its 1.5e-4. Its
# exploration stays at 1 during the warm-up and falls afterwards. Its convolutions are padded (7,744 features where the Nature
# network has 3,136), which is not offered. Initial weights as in its jax/networks.py. It has no Double or dueling DQN: they
# share these numbers.
DOPAMINE_DQN: Block = {
    "steps": 50_000_000, "optimizer": "adam", "lr": 6.25e-5, "optimizer_eps": 1.5e-4 / 2, "kappa": math.inf, "batch_size": 32,
    "init": "xavier", "capacity": 1_000_000, "warmup_steps": 20_000, "gamma": 0.99, "target_every": 2_000, "update_every": 4,
    "updates": 1, "epsilon_steps": 250_000, "epsilon_after": 20_000, "epsilon_end": 0.01, "clip_reward": 1.0,
    "max_grad_norm": None, "eval_every": 250_000, "checkpoint_every": 250_000, "protocol": "machado", "eval_epsilon": 0.001,
}  # fmt: skip

# The authors' code, munchausen_rl/configs/atari.gin; beside DQN's own numbers it changes these. Of Dopamine's (TensorFlow) DQN
# it has the initial weights (Keras's own, Xavier's) and the exploration that waits for the warm-up, and the padding, which is
# not offered.
MUNCHAUSEN_ATARI: Block = {
    **NATURE_DQN, "optimizer": "adam", "lr": 5e-5, "optimizer_eps": 3.125e-4, "init": "xavier", "target_every": 2_000,
    "warmup_steps": 20_000, "epsilon_steps": 250_000, "epsilon_after": 20_000, "epsilon_end": 0.01, "protocol": "machado",
    "eval_epsilon": 0.001,
}  # fmt: skip

# PPO on classic control: CleanRL's ppo.py (documentation, "Proximal Policy Gradient"), whose published scores are at 500 000
# steps. Its value_coef of 0.5 belongs to half of the squared error.
CLEANRL_PPO: Block = {
    "steps": 500_000, "num_envs": 4, "rollout_steps": 128, "epochs": 4, "batch_size": 128, "lr": 2.5e-4, "anneal": True,
    "entropy_coef": 0.01, "value_coef": 0.25, "clip_value": 0.2, "eval_every": 25_000, "checkpoint_every": 100_000,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ppo.yml, MountainCar-v0. (With the settings above CleanRL reports -200: it never gets out.)
ZOO_PPO_MOUNTAINCAR: Block = {
    "steps": 1_000_000, "num_envs": 16, "rollout_steps": 16, "epochs": 4, "batch_size": 64, "gae_lambda": 0.98,
    "normalise_obs": True, "normalise_reward": True, "eval_every": 50_000, "checkpoint_every": 200_000,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ppo.yml, LunarLander and LunarLanderContinuous.
ZOO_PPO_LUNARLANDER: Block = {
    "steps": 1_000_000, "num_envs": 16, "rollout_steps": 1_024, "epochs": 4, "batch_size": 64, "gae_lambda": 0.98,
    "gamma": 0.999, "entropy_coef": 0.01, "eval_every": 50_000, "checkpoint_every": 200_000,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ppo.yml, BipedalWalker-v3.
ZOO_PPO_BIPEDAL: Block = {
    "steps": 5_000_000, "num_envs": 32, "rollout_steps": 2_048, "epochs": 10, "batch_size": 64, "gae_lambda": 0.95,
    "gamma": 0.999, "clip": 0.18, "normalise_obs": True, "normalise_reward": True, "eval_every": 131_072,
    "checkpoint_every": 524_288,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ppo.yml, Pendulum-v1, without its state-dependent exploration.
ZOO_PPO_PENDULUM: Block = {
    "steps": 100_000, "num_envs": 4, "rollout_steps": 1_024, "epochs": 10, "batch_size": 64, "gamma": 0.9, "lr": 1e-3,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ppo_lstm.yml, CartPoleNoVel-v1 and PendulumNoVel-v1, without the latter's state-dependent
# exploration. Its LSTM of 64 comes before the layer of 64, and actor and critic have one each; here they share one, after it,
# so that rewards are scaled: the errors of returns of 50 would leave little of the policy's gradient.
ZOO_PPO_NOVEL: Block = {
    "steps": 100_000, "lr": 1e-3, "core": "lstm", "core_size": 64, "core_inputs": (), "widths": (64,), "normalise_reward": True,
}  # fmt: skip
ZOO_PPO_CARTPOLE_NOVEL: Block = {
    **ZOO_PPO_NOVEL, "num_envs": 8, "rollout_steps": 32, "epochs": 20, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98,
    "anneal": True, "anneal_clip": True,
}  # fmt: skip
ZOO_PPO_PENDULUM_NOVEL: Block = {
    **ZOO_PPO_NOVEL, "num_envs": 4, "rollout_steps": 1_024, "epochs": 10, "batch_size": 128, "gamma": 0.9,
    "sequence_steps": 32,
}  # fmt: skip

# Our own, for tasks of memory whose episodes are shorter than `sequence_steps`: a core that lasts as long as they do.
PPO_MEMORY: Block = {
    "steps": 500_000, "num_envs": 16, "rollout_steps": 64, "epochs": 4, "batch_size": 256, "lr": 1e-3, "anneal": True,
    "entropy_coef": 0.01, "core": "lstm", "core_size": 64, "core_span": 50, "core_inputs": (), "widths": (64,),
}  # fmt: skip

# Schulman et al. 2017, table 3 (horizon 2048, Adam 3e-4, 10 epochs, minibatch 64, gamma 0.99, lambda 0.95), with what CleanRL's
# ppo_continuous_action.py adds: annealing, value clipping, scaled observations and rewards.
PPO_MUJOCO: Block = {
    "steps": 1_000_000, "num_envs": 1, "rollout_steps": 2_048, "epochs": 10, "batch_size": 64, "lr": 3e-4, "anneal": True,
    "value_coef": 0.25, "clip_value": 0.2, "normalise_obs": True, "normalise_reward": True, "eval_every": 50_000,
    "checkpoint_every": 200_000,
}  # fmt: skip

# Schulman et al. 2017, table 5, with the four epochs, the value clipping and the coefficients of OpenAI Baselines (ppo2), and
# the constant clip of CleanRL's ppo_atari.py (the paper's falls to 0: `--set anneal_clip=true`).
PPO_ATARI: Block = {
    "steps": 10_000_000, "num_envs": 8, "rollout_steps": 128, "epochs": 4, "batch_size": 256, "lr": 2.5e-4, "anneal": True,
    "clip": 0.1, "clip_value": 0.1, "value_coef": 0.25, "entropy_coef": 0.01, "clip_reward": 1.0, "protocol": "nature",
    "eval_every": 250_000, "checkpoint_every": 250_000,
}  # fmt: skip

# Burda et al. 2018, tables 2 to 5 (30 000 rollouts of 128 steps in each of 128 environments), with what the authors' code
# (run_atari.py, ppo_agent.py) adds: half of each squared error, advantages as they are, no clip of values or of the gradient's
# norm, 50 random rollouts at first. The tables' sticky actions, whole games and 18 000 frames (4 500 steps) are `machado`'s but
# for that limit. CleanRL's ppo_rnd_envpool.py differs by: anneal, normalise_advantage, value_coef 0.25 with clip_value 0.1,
# max_grad_norm 0.5, optimizer_eps 1e-5.
RND_ATARI: Block = {
    "steps": 30_000 * 128 * 128, "num_envs": 128, "rollout_steps": 128, "epochs": 4, "batch_size": 4_096, "lr": 1e-4,
    "gamma": 0.999, "gae_lambda": 0.95, "clip": 0.1, "value_coef": 0.5, "entropy_coef": 0.001,
    "max_grad_norm": None, "optimizer_eps": 1e-8, "clip_reward": 1.0, "protocol": "machado", "warmup_rollouts": 50,
    "env_kwargs": {"time_limit": 4_500}, "eval_every": 10_000_000, "checkpoint_every": 10_000_000,
}  # fmt: skip

# Our own, found with benchmarks/learning/deep_sea.py and run.py. What is new is said by few numbers, and learned as fast as the
# policy learns, since episodes are few. DoorKey is seen as numbers, not as an image of 255 shades.
GRID_WRAPPERS = ("minigrid.wrappers:ImgObsWrapper", "gymnasium.wrappers:DtypeObservation(dtype='float32')")
PPO_SMALL_TASK: Block = {
    "num_envs": 8, "rollout_steps": 40, "epochs": 4, "batch_size": 80, "lr": 1e-3, "entropy_coef": 0.001, "steps": 200_000,
}  # fmt: skip
PPO_MINIGRID: Block = {
    "num_envs": 16, "rollout_steps": 128, "epochs": 4, "batch_size": 256, "lr": 5e-4, "entropy_coef": 0.01,
    "normalise_obs": True, "steps": 500_000, "eval_every": 50_000, "checkpoint_every": 200_000,
    "package_to_import": "minigrid", "wrappers": GRID_WRAPPERS,
}  # fmt: skip
RND_SMALL_TASK: Block = {
    **PPO_SMALL_TASK, "predictor_features": 64, "predictor_share": 1.0, "entropy_coef": 0.003, "rollout_steps": 60,
}  # fmt: skip
RND_MINIGRID: Block = {**PPO_MINIGRID, "entropy_coef": 0.001, "predictor_features": 64}

# A memory that keeps a treasure found once, and a bonus that it outweighs: each step is paid about `bonus_coef` for ever.
DQN_DEEP_SEA: Block = {
    "steps": 200_000, "lr": 1e-3, "batch_size": 64, "capacity": 50_000, "warmup_steps": 200, "target_every": 50,
    "update_every": 1, "epsilon_steps": 1_000, "epsilon_end": 0.02, "widths": (64, 64), "predictor_lr": 1e-3,
    "predictor_features": 64, "bonus_coef": 0.1,
}  # fmt: skip

# Horgan et al. 2018, appendix C, in agent steps (4 frames) and updates, with the sizes of one machine: 8 environments where the
# paper has 360 actors, a memory of 1 million steps where it has 2. Its learner makes 19 updates a second whatever the actors
# do; here 512 examples are drawn for 384 new steps, the 1.3 for one that Kapturowski et al. 2019 state for it.
APEX_ATARI: Block = {
    "steps": 50_000_000, "optimizer": "rmsprop", "lr": 2.5e-4 / 4, "optimizer_eps": 1.5e-7, "batch_size": 512,
    "capacity": 1_000_000, "warmup_steps": 50_000, "gamma": 0.99, "target_every": 2_500, "update_every": 384, "updates": 1,
    "clip_reward": 1.0, "max_grad_norm": 40.0, "eval_every": 250_000, "checkpoint_every": 250_000, "protocol": "nature",
}  # fmt: skip

# Our own: ZOO_DQN's numbers for control, as far as they fit several environments that explore all along.
APEX_CONTROL: dict[str, Block] = {
    env: {name: value for name, value in values.items() if not name.startswith("epsilon")} | {"n_step": 3}
    for env, values in ZOO_DQN.items()
}
APEX_PENDULUM: Block = {
    "steps": 20_000,
    "lr": 1e-3,
    "actor_lr": None,
    "gamma": 0.98,
    "capacity": 200_000,
    "warmup_steps": 1_000,
    "eval_every": 1_000,
    "final_bound": 3e-3,
}
# As ZOO_DDPG; with hyperbolic tangents and the action in the second layer one of two seeds of HalfCheetah stayed on its back.
APEX_MUJOCO: Block = {
    "steps": 300_000, "lr": 1e-3, "actor_lr": None, "warmup_steps": 10_000, "activation": "relu", "action_layer": 1,
}  # fmt: skip

# Kapturowski et al. 2019, appendix, in agent steps (4 frames) and updates, with the sizes of one machine: 8 environments
# where the paper has 256 actors, a memory of 1 million steps where it has 4. Its learner makes 5 updates a second whatever
# the actors do; here 64 sequences are drawn for 80 new ones (of 40 steps each), the replay ratio of 0.8 that the paper
# states. Rewards are not clipped, and a lost life is no end.
R2D2_ATARI: Block = {
    "steps": 50_000_000, "lr": 1e-4, "optimizer_eps": 1e-3, "max_grad_norm": None, "batch_size": 64, "capacity": 1_000_000,
    "warmup_steps": 50_000, "gamma": 0.997, "core_size": 512, "target_every": 2_500, "update_every": 3_200, "updates": 1,
    "sequence_length": 80, "burn_in": 40, "period": 40, "n_step": 5,
    "eval_every": 250_000, "checkpoint_every": 250_000, "protocol": "nature", "env_kwargs": {"life_loss": False},
}  # fmt: skip

# Our own, for small tasks: short sequences and a small core. A value comes n steps nearer to the start with each copy of the
# target: 3 steps, and a copy every 3,200 agent steps, are 50 steps in 60,000, where CartPole's cart reaches its edge after 250;
# 5 steps every 640 are 470. The falling rate lets what is reached stay (docs/algorithms/r2d2.md, "Scores").
R2D2_SMALL: Block = {
    "steps": 100_000, "num_envs": 8, "widths": (64,), "core_size": 64, "lr": 1e-3, "anneal": True, "gamma": 0.99,
    "batch_size": 32, "capacity": 50_000, "warmup_steps": 1_000, "update_every": 32, "target_every": 20, "sequence_length": 20,
    "burn_in": 10, "period": 10, "n_step": 5,
}  # fmt: skip

# Our own: a sequence is an episode from its first step on, so that what was shown then gets its share of the error in the end,
# and the core lasts as long. The last step pays all there is, so that values need not travel.
R2D2_MEMORY: Block = {
    **R2D2_SMALL, "anneal": False, "target_every": 100, "n_step": 3, "sequence_length": 50, "burn_in": 0, "period": 50,
    "core_span": 50, "eval_every": 2_000,
}  # fmt: skip

# Rashid et al. 2018, appendix B, the two-step game: uniformly random actions all along, of which everything is replayed, and
# agents that see all there is, without a memory; with smaller networks, a batch of steps for a batch of episodes, and Adam.
TEAM_GAMES: Block = {
    "steps": 4_000, "core": "none", "widths": (64,), "sequence_length": 1, "period": 1, "batch_size": 64, "capacity": 4_000,
    "warmup_steps": 200, "update_every": 2, "target_every": 50, "lr": 3e-3, "epsilon_start": 1.0, "epsilon_end": 1.0,
    "eval_every": 1_000,
}  # fmt: skip

# Badia et al. 2020, tables 6 and 8, in agent steps (4 frames) and updates, with the sizes of one machine: 8 environments where
# the paper has 256 actors, a memory of 1 million steps where it has 5 million. The replay ratio and the burn-in, of which the
# paper says nothing, are R2D2's. One frame is seen, not four; all 18 actions; the first update after 6 250 sequences.
NGU_ATARI: Block = {
    "steps": 50_000_000, "lr": 1e-4, "optimizer_eps": 1e-4, "max_grad_norm": 40.0, "batch_size": 64, "capacity": 1_000_000,
    "warmup_steps": 250_000, "mixtures": 32, "beta": 0.3, "gamma": 0.997, "gamma_min": 0.99, "core_size": 512,
    "target_every": 1_500, "update_every": 3_200, "updates": 1, "sequence_length": 80, "burn_in": 40, "period": 40,
    "retrace_lambda": 0.95, "target_epsilon": 0.01, "neighbours": 10, "kernel_epsilon": 1e-4, "cluster_distance": 0.008,
    "pseudo_count": 0.001, "max_similarity": 8.0, "memory_size": 30_000, "novelty_max": 5.0, "embedding_lr": 5e-4,
    "embedding_l2": 1e-5, "predictor_lr": 5e-4, "predictor_features": 128, "eval_epsilon": 0.01,
    "eval_every": 250_000, "checkpoint_every": 250_000, "protocol": "nature",
    "env_kwargs": {"life_loss": False, "frame_stack": 1, "full_action_space": True},
}  # fmt: skip

# Badia et al. 2020, table 7, sized for one machine: a smaller memory and core; and short sequences, since early episodes are of
# a few steps, which would fill an eighth of the paper's 50.
NGU_DISCO: Block = {
    "steps": 500_000, "num_envs": 8, "lr": 1e-3, "embedding_lr": 1e-3, "predictor_lr": 1e-3, "batch_size": 64,
    "capacity": 100_000, "warmup_steps": 1_000, "beta": 0.5, "core_size": 128, "target_every": 100, "update_every": 32,
    "sequence_length": 10, "burn_in": 0, "period": 10, "retrace_lambda": 0.97, "scale": "none", "kernel_epsilon": 1e-2,
    "memory_size": 500, "first_priority": "largest",
}  # fmt: skip

# Our own, for small worlds. Where all episodes are short and alike, so are their sequences: what is never learned from there,
# such as an episode's first steps, would stay new for ever. So it learns from all of each (`novelty_steps`).
NGU_SMALL: Block = {
    "steps": 200_000, "num_envs": 8, "widths": (64, 64), "core_size": 64, "lr": 1e-3, "batch_size": 32, "capacity": 50_000,
    "warmup_steps": 1_000, "update_every": 32, "target_every": 100, "sequence_length": 20, "burn_in": 0, "period": 20,
    "mixtures": 8, "memory_size": 100, "predictor_features": 64, "novelty_steps": None,
}  # fmt: skip
# In deep sea every step leads where the episode has not been, and what the episodic reward makes of the distances between
# embeddings is a taste of its own (10 x 10, seed 0: solved after 2 469 episodes instead of 716). So its kernel is too wide to
# tell places apart, and what is new in the agent's life decides.
NGU_DEEP_SEA: Block = {
    **NGU_SMALL, "update_every": 4, "sequence_length": 10, "period": 10, "kernel_epsilon": 1_000.0, "beta": 3.0,
}  # fmt: skip
NGU_DOORKEY: Block = {
    **NGU_SMALL, "steps": 500_000, "memory_size": 1_000, "sequence_length": 40, "period": 40, "eval_every": 50_000,
    "checkpoint_every": 200_000, "package_to_import": "minigrid", "wrappers": GRID_WRAPPERS,
}  # fmt: skip

# Our own, for Level-Based Foraging, where everything is seen and random actions are seldom paid: those are replayed more often,
# and returns (of at most 1) are on a scale that is larger than what a new network says. Hypernetworks as in EPyMARL. Of an
# evaluation's actions 5 % are random: two that wait for each other would do so for ever.
FORAGING_DQN: Block = {
    "steps": 1_000_000, "num_envs": 8, "widths": (128, 128), "n_step": 3, "per_alpha": 0.6, "reward_scale": 10.0,
    "batch_size": 256, "update_every": 32, "lr": 5e-4, "epsilon_steps": 300_000, "eval_epsilon": 0.05, "eval_every": 50_000,
    "checkpoint_every": 200_000,
}  # fmt: skip
FORAGING: Block = {
    **FORAGING_DQN, "core": "none", "sequence_length": 10, "burn_in": 0, "period": 10, "batch_size": 64,
}  # fmt: skip
# Without a sum it takes longer, and longer exploration: with FORAGING_DQN's own 300 000 steps of it, one of three seeds of QMIX
# and none of IQL came near. Of independent learners every agent's step counts; and where 5 % of their actions stay random, to
# wait for each other is good enough, since chance ends it: so they do it in evaluations too.
FORAGING_MIXED: Block = {"steps": 2_000_000, "lr": 3e-4, "epsilon_steps": 500_000, "hyper_widths": (64,)}
FORAGING_ALONE: Block = {"steps": 4_000_000, "lr": 3e-4, "epsilon_steps": 800_000, "epsilon_end": 0.01}
FORAGING_PPO: Block = {
    "steps": 1_500_000, "num_envs": 16, "rollout_steps": 50, "epochs": 4, "batch_size": 400, "widths": (128, 128), "lr": 5e-4,
    "entropy_coef": 0.01, "eval_every": 100_000, "checkpoint_every": 500_000,
}  # fmt: skip

# Our own, for particle environments, where everything is seen. With hypernetworks of no hidden layer, as the paper has them,
# QMIX stayed behind VDN in simple_spread, and one of five seeds left the landmarks for good.
PARTICLES_TEAM: Block = {
    "steps": 300_000, "num_envs": 8, "core": "none", "sequence_length": 5, "burn_in": 0, "period": 5, "n_step": 3,
    "batch_size": 64, "update_every": 32, "epsilon_steps": 20_000, "eval_every": 20_000, "checkpoint_every": 50_000,
}  # fmt: skip

# Lillicrap et al. 2016, section 7, is the recipe's own. These are rl-baselines3-zoo's, hyperparams/ddpg.yml (learning rate,
# noise, widths, warm-up), with the tau, batch and one learning rate that are the defaults of Stable-Baselines3 2.3 and later.
ZOO_DDPG: Block = {
    "lr": 1e-3, "actor_lr": None, "weight_decay": 0.0, "tau": 0.005, "batch_size": 256, "final_bound": None,
    "noise": "gaussian", "noise_std": 0.1, "action_layer": 1, "warmup_steps": 10_000, "steps": 1_000_000,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/ddpg.yml and td3.yml, which agree: Pendulum, LunarLanderContinuous, BipedalWalker. Where it
# updates after each episode, once per step of it, here an update follows each step; batch_size as for ZOO_DDPG.
ZOO_TUNED: Block = {"gamma": 0.98, "capacity": 200_000, "batch_size": 256, "warmup_steps": 10_000}
ZOO_PENDULUM: Block = {**ZOO_TUNED, "steps": 20_000, "eval_every": 1_000}
ZOO_LUNARLANDER: Block = {**ZOO_TUNED, "steps": 300_000}
ZOO_BIPEDAL: Block = {**ZOO_TUNED, "steps": 1_000_000}
# The same files, MountainCarContinuous. Their Ornstein-Uhlenbeck noise (sigma 0.5, theta 0.15) advances by dt = 0.01 a step,
# which makes a slow swing of it: sigma sqrt(dt) and theta dt are these.
ZOO_MOUNTAINCAR: Block = {
    "steps": 300_000, "batch_size": 256, "warmup_steps": 100, "noise": "ou", "noise_std": 0.05, "noise_theta": 0.0015,
}  # fmt: skip

# Fujimoto et al. 2018, supplement: HalfCheetah and Ant begin with 10 000 random actions, the others with 1 000.
TD3_LONG: Block = {"steps": 1_000_000, "warmup_steps": 10_000}
TD3_SHORT: Block = {"steps": 1_000_000, "warmup_steps": 1_000}

# Haarnoja et al. 2018 (arXiv 1812.05905), table 1, is the recipe's own; the 10 000 random actions are rl-baselines3-zoo's
# (the authors' code takes 1 000).
SAC_MUJOCO: Block = {"steps": 1_000_000}
# rl-baselines3-zoo, hyperparams/sac.yml: Pendulum; LunarLanderContinuous (its learning rate falls to 0, here it stays);
# BipedalWalker without its state-dependent exploration.
SAC_PENDULUM: Block = {"steps": 20_000, "lr": 1e-3, "alpha_lr": 1e-3, "warmup_steps": 100, "eval_every": 1_000}
SAC_LUNARLANDER: Block = {"steps": 500_000, "lr": 7.3e-4, "alpha_lr": 7.3e-4, "tau": 0.01, "widths": (400, 300)}
SAC_BIPEDAL: Block = {
    "steps": 500_000, "lr": 7.3e-4, "alpha_lr": 7.3e-4, "capacity": 300_000, "gamma": 0.98, "tau": 0.02, "update_every": 64,
    "updates": 64, "widths": (400, 300),
}  # fmt: skip

# Young and Tian 2019, arXiv 1903.03176, and the authors' examples/dqn.py; the step sizes are the best of their sweep, per game.
# A version of that file adds a momentum of 0.95 to RMSProp, with which Breakout stays at 2 to 3 points. Their epsilon stays 1
# for 5 000 steps and falls over 100 000; here it falls from the start, to end at the same step.
MINATAR_DQN: Block = {
    "steps": 5_000_000, "base": "minatar", "optimizer": "torch-rmsprop", "lr": 2**-12, "optimizer_eps": 0.01,
    "max_grad_norm": None, "batch_size": 32, "capacity": 100_000, "warmup_steps": 5_000, "gamma": 0.99, "target_every": 1_000,
    "update_every": 1, "updates": 1, "epsilon_steps": 105_000, "epsilon_end": 0.1, "threads": 1, "eval_every": 100_000,
    "checkpoint_every": 100_000,
}  # fmt: skip
MINATAR: dict[str, Block] = {
    "MinAtar/Breakout-*": {**MINATAR_DQN, "lr": 2**-9},
    "MinAtar/Freeway-*": {**MINATAR_DQN, "lr": 2**-11},
    "MinAtar/SpaceInvaders-*": {**MINATAR_DQN, "lr": 2**-12},
    "MinAtar/Asterix-*": {**MINATAR_DQN, "lr": 2**-13},
    "MinAtar/Seaquest-*": {**MINATAR_DQN, "lr": 2**-13},
}

MINATAR_APEX: dict[str, Block] = {
    env: {name: value for name, value in values.items() if not name.startswith("epsilon")} for env, values in MINATAR.items()
}

# Our own, not tuned: the size of MINATAR_DQN's memory and network, learned from by R2D2_SMALL's sequences.
R2D2_MINATAR: Block = {
    "steps": 5_000_000, "base": "minatar", "core_size": 128, "lr": 5e-4, "gamma": 0.99, "batch_size": 32, "capacity": 100_000,
    "warmup_steps": 5_000, "update_every": 32, "target_every": 250, "sequence_length": 20, "burn_in": 10, "period": 10,
    "n_step": 3, "threads": 1, "eval_every": 100_000, "checkpoint_every": 100_000,
}  # fmt: skip

# rl-baselines3-zoo, hyperparams/qrdqn.yml, with the defaults of SB3-contrib's QRDQN (Adam's epsilon 0.01 / batch size, no
# clipping of the gradient); `target_every` is counted as for ZOO_DQN. LunarLander's learning rate falls to 0.
ZOO_QRDQN: dict[str, Block] = {
    "CartPole-v1": {
        "steps": 50_000, "lr": 2.3e-3, "batch_size": 64, "capacity": 100_000, "warmup_steps": 1_000, "gamma": 0.99,
        "target_every": 128, "update_every": 256, "updates": 128, "epsilon_steps": 8_000, "epsilon_end": 0.04,
        "optimizer_eps": 0.01 / 64, "quantiles": 10,
    },
    "MountainCar-v0": {
        "steps": 120_000, "lr": 4e-3, "batch_size": 128, "capacity": 10_000, "warmup_steps": 1_000, "gamma": 0.98,
        "target_every": 300, "update_every": 16, "updates": 8, "epsilon_steps": 24_000, "epsilon_end": 0.07,
        "optimizer_eps": 0.01 / 128, "quantiles": 25,
    },
    "Acrobot-v1": {
        "steps": 100_000, "lr": 6.3e-4, "batch_size": 128, "capacity": 50_000, "warmup_steps": 0, "gamma": 0.99,
        "target_every": 250, "update_every": 4, "updates": 4, "epsilon_steps": 12_000, "epsilon_end": 0.1,
        "optimizer_eps": 0.01 / 128, "quantiles": 25,
    },
    "LunarLander-v3": {
        "steps": 100_000, "lr": 1.5e-3, "anneal": True, "batch_size": 128, "capacity": 100_000, "warmup_steps": 10_000,
        "gamma": 0.995, "target_every": 256, "update_every": 256, "updates": 256, "epsilon_steps": 24_000,
        "epsilon_end": 0.18, "optimizer_eps": 0.01 / 128, "quantiles": 170,
    },
}  # fmt: skip

# Dabney et al. 2018 (arXiv 1710.10044), as in the authors' dqn_zoo: the numbers of NATURE_DQN where nothing else is said.
QRDQN_ATARI: Block = {
    "steps": 50_000_000, "optimizer": "adam", "lr": 5e-5, "optimizer_eps": 0.01 / 32, "batch_size": 32, "capacity": 1_000_000,
    "warmup_steps": 50_000, "gamma": 0.99, "target_every": 2_500, "update_every": 4, "updates": 1, "epsilon_steps": 1_000_000,
    "epsilon_end": 0.01, "clip_reward": 1.0, "max_grad_norm": None, "quantiles": 200, "eval_every": 250_000,
    "checkpoint_every": 250_000, "protocol": "nature", "eval_epsilon": 0.001,
}  # fmt: skip

# Dabney et al. 2018 (arXiv 1806.06923): as QR-DQN, with 64 + 64 levels to learn and 32 to act (the recipe's own).
IQN_ATARI: Block = {name: value for name, value in QRDQN_ATARI.items() if name != "quantiles"}

# Dopamine, jax/agents/quantile/configs/quantile.gin and implicit_quantile.gin: beside its DQN's numbers, three-step returns and
# other initial weights for both; for quantiles also prioritized replay, by the root of the loss. Its importance weights (of
# exponent 0.5) enter the loss that quantile_agent.py writes down, but not the gradient, which is taken before: hence 0 here.
DOPAMINE_IQN: Block = {
    **{name: value for name, value in DOPAMINE_DQN.items() if name != "kappa"},
    "lr": 5e-5, "optimizer_eps": 3.125e-4, "init": "dopamine", "n_step": 3,
}  # fmt: skip
DOPAMINE_QRDQN: Block = {
    **DOPAMINE_IQN, "quantiles": 200, "per_alpha": 0.5, "per_beta": 0.0, "per_beta_end": 0.0, "priority": "loss",
}  # fmt: skip

# Our own: ZOO_QRDQN's numbers without its quantiles, and fewer levels than on Atari: with small networks an update costs in
# proportion to them.
IQN_CONTROL: dict[str, Block] = {
    env: {name: value for name, value in values.items() if name != "quantiles"}
    | {"samples": 8, "target_samples": 8, "act_samples": 16}
    for env, values in ZOO_QRDQN.items()
}

# Hessel et al. 2018, table 1, in agent steps (4 frames) and updates; sigma0 = 0.5 is the noisy layers' own.
RAINBOW_ATARI: Block = {
    "steps": 50_000_000, "optimizer": "adam", "lr": 6.25e-5, "optimizer_eps": 1.5e-4, "batch_size": 32, "capacity": 1_000_000,
    "warmup_steps": 20_000, "gamma": 0.99, "target_every": 2_000, "update_every": 4, "updates": 1, "n_step": 3,
    "per_alpha": 0.5, "per_beta": 0.4, "atoms": 51, "v_min": -10.0, "v_max": 10.0, "clip_reward": 1.0, "max_grad_norm": None,
    "eval_every": 250_000, "checkpoint_every": 250_000, "protocol": "nature",
}  # fmt: skip

# Our own. The supports hold every discounted return: CartPole's are 0..1 / (1 - gamma) = 100, MountainCar's (gamma 0.98) and
# Acrobot's never positive and above -1 / (1 - gamma); LunarLander's lie in -300..300 but for a rare crash from far away. The
# head has two streams, each as wide as the base, so 128 stands for the 256 of the others.
RAINBOW_SMALL: Block = {
    "widths": (128, 128), "batch_size": 64, "capacity": 50_000, "target_every": 250, "update_every": 4, "updates": 2,
    "max_grad_norm": 10.0,
}  # fmt: skip
RAINBOW_CONTROL: dict[str, Block] = {
    "CartPole-v1": {
        **RAINBOW_SMALL, "steps": 50_000, "lr": 1e-3, "v_min": 0.0, "v_max": 100.0, "eval_every": 2_000, "eval_episodes": 20,
    },
    "MountainCar-v0": {**RAINBOW_SMALL, "steps": 120_000, "lr": 1e-3, "gamma": 0.98, "v_min": -50.0, "v_max": 0.0},
    "Acrobot-v1": {**RAINBOW_SMALL, "steps": 100_000, "lr": 6.3e-4, "v_min": -100.0, "v_max": 0.0},
    "LunarLander-v3": {
        **RAINBOW_SMALL, "steps": 100_000, "lr": 6.3e-4, "atoms": 101, "v_min": -300.0, "v_max": 300.0,
    },
}  # fmt: skip

PPO: dict[str, Block] = {
    "CartPole-v1": CLEANRL_PPO, "Acrobot-v1": CLEANRL_PPO, "MountainCar-v0": ZOO_PPO_MOUNTAINCAR,
    "LunarLander*-v3": ZOO_PPO_LUNARLANDER, "BipedalWalker-v3": ZOO_PPO_BIPEDAL, "Pendulum-v1": ZOO_PPO_PENDULUM,
    "protorl/DeepSea-v0": PPO_SMALL_TASK, "protorl/DiscoMaze-v0": PPO_SMALL_TASK, "MiniGrid-DoorKey-*": PPO_MINIGRID,
    "MiniGrid-MultiRoom-*": PPO_MINIGRID,
    "protorl/CartPoleNoVel-v0": ZOO_PPO_CARTPOLE_NOVEL, "protorl/PendulumNoVel-v0": ZOO_PPO_PENDULUM_NOVEL,
    "protorl/MemoryLength-v0": PPO_MEMORY, "protorl/TMaze-v0": PPO_MEMORY,
    "Foraging-*": {**FORAGING_PPO, "steps": 2_000_000, "normalise_reward": True},
    **atari(PPO_ATARI), **dict.fromkeys(MUJOCO, PPO_MUJOCO),
}  # fmt: skip
DDPG: dict[str, Block] = {
    "Pendulum-v1": ZOO_DDPG | ZOO_PENDULUM, "LunarLander*-v3": ZOO_DDPG | ZOO_LUNARLANDER,
    "BipedalWalker-v3": ZOO_DDPG | ZOO_BIPEDAL, "MountainCarContinuous-v0": ZOO_DDPG | ZOO_MOUNTAINCAR,
    **dict.fromkeys(MUJOCO, ZOO_DDPG),
}  # fmt: skip
TD3: dict[str, Block] = {
    "Pendulum-v1": ZOO_PENDULUM, "LunarLander*-v3": ZOO_LUNARLANDER, "BipedalWalker-v3": ZOO_BIPEDAL,
    "MountainCarContinuous-v0": ZOO_MOUNTAINCAR,
    **dict.fromkeys(MUJOCO, TD3_SHORT), "HalfCheetah-*": TD3_LONG, "Ant-*": TD3_LONG,
}  # fmt: skip
SAC: dict[str, Block] = {
    "Pendulum-v1": SAC_PENDULUM, "LunarLander*-v3": SAC_LUNARLANDER, "BipedalWalker-v3": SAC_BIPEDAL,
    **dict.fromkeys(MUJOCO, SAC_MUJOCO),
}  # fmt: skip
DQN: dict[str, Block] = {
    **ZOO_DQN, "protorl/DeepSea-v0": DQN_DEEP_SEA, "Foraging-*": {**FORAGING_DQN, **FORAGING_ALONE}, **MINATAR,
    **atari(NATURE_DQN, machado=DOPAMINE_DQN),
}  # fmt: skip
DOUBLE_DQN: dict[str, Block] = {**DQN, **atari(NATURE_DOUBLE_DQN)}
D3QN: dict[str, Block] = {**DQN, **atari(NATURE_D3QN)}
MUNCHAUSEN: dict[str, Block] = {**ZOO_DQN, **atari(MUNCHAUSEN_ATARI)}
APEX_DQN: dict[str, Block] = {**APEX_CONTROL, **MINATAR_APEX, **atari(APEX_ATARI)}
R2D2: dict[str, Block] = {
    "CartPole-v1": R2D2_SMALL, "protorl/CartPoleNoVel-*": R2D2_SMALL, "protorl/MemoryLength-*": R2D2_MEMORY,
    **dict.fromkeys(MINATAR, R2D2_MINATAR), **atari(R2D2_ATARI),
}  # fmt: skip
NGU: dict[str, Block] = {
    "protorl/DiscoMaze-*": NGU_DISCO, "protorl/DeepSea-*": NGU_DEEP_SEA, "protorl/MemoryLength-*": NGU_SMALL,
    "CartPole-v1": NGU_SMALL, "MiniGrid-*": NGU_DOORKEY, **atari(NGU_ATARI),
}  # fmt: skip
APEX_DDPG: dict[str, Block] = {"Pendulum-v1": APEX_PENDULUM, **dict.fromkeys(MUJOCO, APEX_MUJOCO)}
RND: dict[str, Block] = {
    "protorl/DeepSea-v0": RND_SMALL_TASK, "protorl/DiscoMaze-v0": RND_SMALL_TASK, "MiniGrid-DoorKey-*": RND_MINIGRID,
    "MiniGrid-MultiRoom-*": RND_MINIGRID,
    **atari(RND_ATARI),
}  # fmt: skip
# The recipes' own numbers are the papers', at a budget of an hour; MAPPO has 16 environments where the authors have 128.
MAPPO: dict[str, Block] = {
    "mpe2/*": {"steps": 300_000, "eval_every": 20_000, "checkpoint_every": 50_000},
    "Foraging-*": {**FORAGING_PPO, "batch_size": 200},
}
MADDPG: dict[str, Block] = {"mpe2/*": {"steps": 300_000, "num_envs": 4, "eval_every": 20_000, "checkpoint_every": 50_000}}
VDN: dict[str, Block] = {
    "protorl/TwoStepGame-v0": TEAM_GAMES, "protorl/MatrixGame-v0": TEAM_GAMES, "Foraging-*": FORAGING,
    "mpe2/*": PARTICLES_TEAM,
}  # fmt: skip
QMIX: dict[str, Block] = {
    **VDN, "Foraging-*": {**FORAGING, **FORAGING_MIXED}, "mpe2/*": {**PARTICLES_TEAM, "hyper_widths": (64,)},
}  # fmt: skip
RAINBOW: dict[str, Block] = {**RAINBOW_CONTROL, **atari(RAINBOW_ATARI)}
QR_DQN: dict[str, Block] = {**ZOO_QRDQN, **atari(QRDQN_ATARI, machado=DOPAMINE_QRDQN)}
IQN: dict[str, Block] = {**IQN_CONTROL, **atari(IQN_ATARI, machado=DOPAMINE_IQN)}


def preset(presets: Presets, env: object, protocol: str | None = None) -> dict[str, object]:
    """The preset for an environment: its own id's, or the first whose pattern fits ("ALE/*"); empty where there is none.
    Where a protocol is asked for, one of that protocol ("ALE/*@machado") goes before."""
    if not isinstance(env, str):
        return {}
    for suffix in (f"@{protocol}", ""):
        blocks = {key.removesuffix(suffix): values for key, values in presets.items() if key.endswith(suffix)}
        fitting = env if env in blocks else next((pattern for pattern in blocks if fnmatchcase(env, pattern)), None)
        if fitting is not None:
            return dict(blocks[fitting])
    return {}


def tuned_for(presets: Presets) -> str:
    """The environments of presets in words: "CartPole-v1, MuJoCo, Atari"."""
    families = dict.fromkeys(MUJOCO, "MuJoCo") | dict.fromkeys(MINATAR, "MinAtar")
    families |= dict.fromkeys(ATARI, "Atari")
    patterns = [key.partition("@")[0] for key in presets]
    return ", ".join(dict.fromkeys(families.get(pattern, pattern) for pattern in patterns))
