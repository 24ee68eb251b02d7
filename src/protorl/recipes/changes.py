"""What of a recipe may be another when its training is resumed: this module alone decides."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from protorl.agents import Agent
from protorl.data import ProtoRLError, State
from protorl.networks import Optimizer
from protorl.parts import parts
from protorl.recipes.config import fields_of, reference
from protorl.recipes.experiment import Experiment

TUNABLE = frozenset({
    "steps", "device", "accelerate", "precision", "threads", "log_every", "eval_every", "eval_episodes", "eval_epsilon",
    "checkpoint_every", "keep", "lr", "actor_lr", "alpha_lr", "anneal", "optimizer_eps", "max_grad_norm",
    "weight_decay", "gamma", "clip_reward", "reward_scale", "update_every", "updates", "per_beta", "target_every",
    "kappa", "epsilon_start", "epsilon_end", "epsilon_steps", "munchausen_alpha", "munchausen_tau", "munchausen_low",
    "samples", "target_samples", "act_samples", "gae_lambda", "clip", "anneal_clip", "clip_value", "value_coef",
    "entropy_coef", "target_kl", "normalise_advantage", "tau", "delay", "target_noise", "noise_clip", "noise_std",
    "noise_theta", "target_entropy", "eval_max_steps", "worker_timeout", "epsilon_after", "per_beta_end",
    "action_gradient_clip", "address", "engine", "publish_every", "eta", "start", "intrinsic_gamma",
    "intrinsic_lambda", "extrinsic_coef", "intrinsic_coef", "predictor_lr", "predictor_share", "bonus_coef",
    "beta", "gamma_min", "retrace_lambda", "target_epsilon", "neighbours", "kernel_epsilon", "cluster_distance",
    "pseudo_count", "max_similarity", "distance_mean", "distance_decay", "novelty_max", "novelty_steps", "embedding_lr",
    "embedding_l2", "others", "temperature", "logit_penalty",
})  # fmt: skip
"""Numbers that are read while a training runs, and those of the run itself. A field of one's own is among them if it says so:
`prl.hp(..., tunable=True)`."""

WHY_NOT = {
    "it is another algorithm": "recipe scale bonus arms embedding",
    "it makes other environments": (
        "env num_envs backend protocol env_kwargs wrappers package_to_import apply_api_compatibility overlap"
    ),
    "it decides who steps the environments, and how": (
        "workers lockstep chunk_steps first_priority epsilon epsilon_alpha bandit_window bandit_epsilon bandit_bonus"
    ),
    "the random streams come from it": "seed noise",
    "it shapes the networks": (
        "base widths activation layer_norm head noisy atoms v_min v_max quantiles cosines critics action_layer share_base "
        "distribution normalise_obs normalise_reward core core_size core_inputs predictor_features share mixtures "
        "embedding_features mixing_size hyper_widths central normalise_value"
    ),
    "it shapes the optimizer": "optimizer optimizer_kwargs",
    "it shapes the memory": (
        "capacity batch_size memory_size n_step per_alpha priority rollout_steps epochs sequence_length sequence_steps burn_in "
        "period"
    ),
    "it matters at the beginning alone": "init core_span final_bound log_std alpha warmup_steps warmup_rollouts",
}


def reason(recipe: Experiment, name: str, then: object, now: object) -> str | None:
    """Why this field may not be another when a training is resumed; None: it may."""
    if name == "workers" and then and now:
        return None  # of what is saved nothing depends on how many there are
    field = recipe.__dataclass_fields__.get(name)
    if name in TUNABLE or (field is not None and field.metadata.get("tunable", False)):
        return None
    for why, names in WHY_NOT.items():
        if name in names.split():
            return why
    return "nothing says that it may change in mid-training (prl.hp(..., tunable=True) does)"


def plain_fields(recipe: Experiment) -> State:
    """The fields as config.json holds them."""
    fields: State = json.loads(json.dumps(fields_of(recipe)))
    return fields


def changes(about: State, recipe: Experiment) -> dict[str, tuple[object, object]]:
    """What is not as a checkpoint was trained with, of which this is the `summary`: by name, (then, now)."""
    before, now = {"recipe": about.get("recipe"), **about.get("fields", {})}, summary(recipe)
    now = {"recipe": now["recipe"], **now["fields"]} if about else {}
    return {name: (before[name], value) for name, value in now.items() if name in before and before[name] != value}


def refuse(changed: Mapping[str, tuple[object, object]], recipe: Experiment, folder: Path) -> None:
    """Raises: ProtoRLError where one of the changes cannot be honoured."""
    for name, (then, now) in changed.items():
        why = reason(recipe, name, then, now)
        if why is not None:
            raise ProtoRLError(
                f"{name} was {then!r} in the training so far and is {now!r} now, but {why}: "
                f"put {then!r} back in {folder / 'config.json'}, or train anew"
            )


def learning_rates(agent: Agent) -> dict[str, float]:
    """The learning rate of every optimizer in an agent, by its place."""
    return {name: float(part.lr) for name, part in parts(agent) if isinstance(part, Optimizer)}


def adopt(agent: Agent, built: Mapping[str, float], before: Mapping[str, float]) -> None:
    """An agent was loaded, with learning rates as they stood. Those that it was built with hold where they are others than in
    the training `before`."""
    for name, part in parts(agent):
        if isinstance(part, Optimizer) and name in before and name in built and before[name] != built[name]:
            part.lr.fill_(built[name])


def summary(recipe: Experiment, agent: Agent | None = None) -> State:
    """What goes with each checkpoint, to see later what has changed."""
    name = reference(recipe).rpartition(":")[2]  # its file may move
    return {"recipe": name, "fields": plain_fields(recipe), "rates": {} if agent is None else learning_rates(agent)}
