"""What people type, understood: whole numbers in every usual way to write them, and names that are nearly right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SYNONYMS: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "step_size", "q_lr", "critic_lr", "adam_lr"),
    "actor_lr": ("policy_lr", "pi_lr"),
    "alpha_lr": ("temperature_lr", "ent_lr"),
    "capacity": ("buffer_size", "buffer", "buffer_capacity", "memory_size", "replay_size", "replay_buffer_size"),
    "num_envs": ("n_envs", "num_env", "n_env", "envs", "num_environments", "number_of_envs", "parallel_envs"),
    "rollout_steps": ("num_steps", "n_steps", "horizon", "rollout_length", "steps_per_epoch"),
    "n_step": ("n_steps", "nstep", "multi_step", "n_step_returns"),
    "steps": (
        "total_timesteps", "timesteps", "total_steps", "max_steps", "n_timesteps", "num_timesteps", "num_steps", "train_steps",
        "training_steps", "max_timesteps", "frames", "num_frames", "budget",
    ),
    "warmup_steps": (
        "warmup", "warm_up", "learning_starts", "start_steps", "start_timesteps", "starting_steps", "min_replay_history",
        "min_replay_size", "replay_start_size", "burn_in", "random_steps", "initial_exploration",
    ),
    "update_every": (
        "train_freq", "train_frequency", "train_every", "update_freq", "update_frequency", "update_period", "learn_every",
        "update_interval", "train_interval",
    ),
    "updates": ("gradient_steps", "updates_per_step", "utd", "utd_ratio", "num_updates", "replay_ratio", "update_steps"),
    "target_every": (
        "target_update_interval", "target_update_freq", "target_update_frequency", "target_update_period", "target_update",
        "target_network_frequency", "target_network_update_freq", "target_interval", "sync_every",
    ),
    "batch_size": ("minibatch_size", "mini_batch_size", "batch", "bs", "train_batch_size"),
    "gamma": ("discount", "discount_factor", "discounting"),
    "tau": ("polyak", "soft_update", "soft_target", "target_smoothing"),
    "epochs": ("n_epochs", "num_epochs", "update_epochs", "ppo_epochs", "k_epochs", "num_sgd_iter"),
    "epsilon_steps": (
        "exploration_fraction", "exploration_steps", "epsilon_decay", "eps_decay", "epsilon_decay_steps",
        "epsilon_decay_period", "epsilon_fraction",
    ),
    "epsilon_end": ("exploration_final_eps", "final_epsilon", "epsilon_final", "epsilon_min", "eps_end", "eps_min", "end_e"),
    "epsilon_start": ("exploration_initial_eps", "initial_epsilon", "epsilon_max", "eps_start", "start_e", "epsilon", "eps"),
    "entropy_coef": ("ent_coef", "entropy", "entropy_coefficient", "entropy_weight", "beta_entropy"),
    "value_coef": ("vf_coef", "value_loss_coef", "critic_coef", "value_weight"),
    "clip": ("clip_range", "clip_coef", "clip_ratio", "clip_eps", "clip_epsilon", "clip_param", "ppo_clip"),
    "clip_value": ("clip_range_vf", "clip_vloss", "value_clip", "vf_clip_param"),
    "gae_lambda": ("lambda", "lam", "gae", "lambda_"),
    "max_grad_norm": ("grad_clip", "gradient_clip", "clip_grad", "clip_grad_norm", "gradient_clipping", "grad_norm"),
    "widths": ("net_arch", "hidden_sizes", "hidden_size", "hidden_units", "hidden_layers", "hidden", "layers", "hidden_dim"),
    "activation": ("activation_fn", "nonlinearity", "act_fn"),
    "optimizer": ("optim", "optimiser", "optimizer_class"),
    "optimizer_eps": ("adam_eps", "adam_epsilon"),
    "alpha": ("ent_coef", "entropy_coef", "temperature", "init_temperature"),
    "delay": ("policy_delay", "policy_freq", "policy_frequency", "actor_delay", "policy_update_freq"),
    "target_noise": ("policy_noise", "target_policy_noise", "smoothing_noise"),
    "noise_std": ("exploration_noise", "action_noise", "noise_sigma", "sigma", "expl_noise"),
    "noise_clip": ("target_noise_clip",),
    "quantiles": ("n_quantiles", "num_quantiles"),
    "atoms": ("n_atoms", "num_atoms"),
    "per_alpha": ("per", "prioritized", "prioritised", "priority_exponent", "priority_alpha", "prioritized_replay"),
    "per_beta": ("priority_beta", "importance_exponent"),
    "munchausen_tau": ("entropy_tau", "m_tau"),
    "env": ("env_id", "environment", "environment_id", "env_name", "task", "game", "gym_id"),
    "seed": ("random_seed", "rng_seed", "manual_seed"),
    "seeds": ("n_seeds", "num_seeds", "trials", "repeats"),
    "jobs": ("n_jobs", "num_workers", "workers", "processes"),
    "device": ("gpu", "cuda", "accelerator"),
    "eval_every": ("eval_freq", "eval_frequency", "eval_interval", "evaluation_interval", "evaluate_every", "test_every"),
    "eval_episodes": ("n_eval_episodes", "num_eval_episodes", "test_episodes"),
    "episodes": ("n_episodes", "num_episodes", "n_eval_episodes"),
    "checkpoint_every": ("save_freq", "save_interval", "save_every", "checkpoint_freq", "checkpoint_interval"),
    "log_every": ("log_interval", "log_freq", "log_frequency", "logging_interval"),
    "run_dir": ("log_dir", "logdir", "out_dir", "output_dir", "save_dir", "folder", "path", "name", "out"),
    "out": ("output", "file", "filename", "save"),
    "metric": ("y", "column", "key"),
    "video": ("render", "record", "capture_video", "film"),
    "checkpoint": ("model", "weights", "which"),
    "wrappers": ("wrapper", "env_wrapper", "env_wrappers"),
    "env_kwargs": ("env_args", "environment_kwargs"),
    "train": ("run", "learn", "fit", "start"),
    "eval": ("evaluate", "test", "play", "enjoy", "score", "watch"),
    "resume": ("continue", "restart", "restore", "load"),
    "plot": ("draw", "graph", "curve", "curves", "plots"),
    "list": ("ls", "recipes", "algorithms", "algos", "show"),
    "doctor": ("info", "benchmark", "diagnose"),
    "double-dqn": ("ddqn", "double"),
    "d3qn": ("dueling", "dueling-dqn", "dueling-double-dqn", "dddqn"),
    "munchausen-dqn": ("m-dqn", "mdqn", "munchausen"),
    "qr-dqn": ("qrdqn", "quantile", "quantile-regression-dqn"),
    "rainbow": ("rainbow-dqn", "c51", "categorical-dqn"),
}  # fmt: skip
"""What other libraries and papers call it, by our name."""


def whole(text: str) -> int | None:
    """The whole number that a text is: 1000000, 1_000_000, 1,000,000, 1e6, 1M, 100k; None where it is none."""
    text = text.strip()
    times = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:].lower(), 1)
    digits = text[:-1] if times > 1 else text
    first, *others = digits.split(",")
    if others and not (first.lstrip("+-").isdigit() and all(len(group) == 3 and group.isdigit() for group in others)):
        return None
    try:
        if times == 1 and not others:
            return int(text)
    except ValueError:
        pass
    try:
        number = float(digits.replace(",", "")) * times
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, by what others call it or by its letters; None where none is near."""
    plain = spelling(name)
    ours = {spelling(one): one for one in known}
    others = {spelling(other): one for one in SYNONYMS if one in ours.values() for other in reversed(SYNONYMS[one])}
    if plain in others and plain not in ours:
        return others[plain]
    for names, likeness in ((ours, 0.75), (others, 0.85)):
        alike = {one: difflib.SequenceMatcher(None, plain, one).ratio() + 0.1 * (one[:1] == plain[:1]) for one in names}
        near = max(alike, key=lambda one: alike[one], default="")
        if near and alike[near] > likeness:
            return names[near]
    return None


def spelling(name: str) -> str:
    """A name without what people mix up."""
    return name.lower().replace("_", "-")


def listed(words: Iterable[object], last: str = "or") -> str:
    """a, b or c."""
    *most, end = [str(word) for word in words]
    return f"{', '.join(most)} {last} {end}" if most else end
