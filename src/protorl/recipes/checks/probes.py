"""Probe environments, whose true values and best actions are known."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch

from protorl.data import Array
from protorl.loops import evaluate
from protorl.networks import ActorCritic, Core
from protorl.recipes.checks.finding import Finding, Verdict, found, sentence_of
from protorl.recipes.checks.training import Training, rebound


class Question(NamedTuple):
    """A probe environment, observations, and what is known of them: values, or (with `action`) what to do."""

    probe: str
    obs: tuple[float, ...]
    answer: tuple[float, ...]
    text: str
    action: bool = False
    quick: bool = False


GAMMA = 0.8
VALUES = (
    Question("ConstantReward", (0,), (1.0,), "one step, reward 1: the value is 1", quick=True),
    Question("ObservationReward", (-1, 1), (-1.0, 1.0), "the reward is what is observed"),
    Question("DelayedReward", (0, 1), (GAMMA, 1.0), "the reward comes a step later: gamma, then 1", quick=True),
    Question("TimeLimitReward", (0,), (1 / (1 - GAMMA),), "a time limit is no end: 1 / (1 - gamma)"),
)
CHOICES = (
    Question("ActionReward", (0,), (1,), "action 1 is right", action=True, quick=True),
    Question("ObservationActionReward", (0, 1), (0, 1), "the action that equals the observation is right", action=True),
)
NUMBERS = (Question("GaussianBandit", (0,), (0.3,), "the best action is 0.3 on the agent's [-1, 1]", action=True),)
QUICKLY: dict[str, Any] = {
    "widths": (16,), "activation": "tanh", "lr": 2e-2, "batch_size": 32, "warmup_steps": 32, "update_every": 1, "updates": 1,
    "target_every": 10, "tau": 0.1, "gamma": GAMMA, "capacity": 1_000, "epsilon_start": 1.0, "epsilon_end": 1.0, "base": "auto",
    "atoms": 25, "v_min": -12.0, "v_max": 12.0, "noise_std": 0.5, "weight_decay": 0.0, "action_layer": 1, "actor_lr": 1e-3,
    "num_envs": 1, "device": "cpu", "protocol": None, "clip_reward": None, "package_to_import": None, "reward_scale": 1.0,
    "apply_api_compatibility": False, "backend": "auto", "overlap": False, "steps": 10_000, "anneal": False,
    "core_size": 16, "sequence_length": 8, "burn_in": 4, "period": 4, "scale": "none", "bonus": "none",
}  # fmt: skip
"""How probes are learned within seconds, as far as a recipe has these fields; all others stay the recipe's own."""
ON_POLICY: dict[str, Any] = {
    "num_envs": 4, "rollout_steps": 32, "batch_size": 64, "epochs": 4, "lr": 1e-2, "max_grad_norm": None, "anneal_clip": False,
    "normalise_reward": False, "entropy_coef": 0.0, "intrinsic_coef": 0.0, "warmup_rollouts": 1,
}  # fmt: skip
SOFT: dict[str, Any] = {"alpha": 1e-3, "alpha_lr": None}
"""Where a temperature is learned: known values do not count the entropy."""
MIXED: dict[str, Any] = {"beta": 0.0, "gamma_min": GAMMA}
"""Where a mixture of policies is learned: nor do they count what most of them pay themselves, each with its own discount."""
BANDIT: dict[str, Any] = {"widths": (64,), "activation": "relu", "lr": 1e-2, "actor_lr": 5e-3, "log_std": -1.0}
CLOSE = 0.1


class Game(NamedTuple):
    """A game for a team, and the return of whoever plays it right."""

    name: str
    best: float
    text: str


TEAM_GAMES = {
    "discrete": Game("OpposedTargets", 2.0, "agent i is paid for action i, and sees nothing else"),
    "box": Game("Apart", 1.0, "what two agents do should be 0.5 apart"),
}
TOGETHER: dict[str, Any] = {"actor_lr": 1e-2, "logit_penalty": 0.0, "core": "none", "share": True, "normalise_value": "none"}


def probed(recipe: Any, quick: bool) -> Iterator[Finding]:
    """The probes whose spaces the recipe fits."""
    with closing(recipe.make_env(1)) as env:
        kind = env.spec.action.kind
    if kind == "multidiscrete":
        kind = "discrete" if "discrete" in recipe.actions else ""
    if not kind:
        yield Finding("probes", None, "no probe has actions of this kind")
        return
    if recipe.as_teams:
        game = TEAM_GAMES[kind]
        yield found(f"probe {game.name}", played, recipe, game, 500 if quick else 1_000)
        return
    questions = (*VALUES, *(CHOICES if kind == "discrete" else NUMBERS))
    for question in questions:
        if question.quick or not quick:
            yield found(f"probe {question.probe}", probe, recipe, question, kind, 500 if quick else 1_000)


def probe(recipe: Any, question: Question, kind: str, most: int, patience: float = 8.0) -> Verdict:
    """The known answer comes within `most` updates."""
    known = {field.name for field in dataclasses.fields(recipe)}
    fields = {**QUICKLY, **(ON_POLICY if "rollout_steps" in known else {})}
    for more in (SOFT, MIXED):
        if set(more) <= known:
            fields |= more
    fields |= BANDIT if question.probe == "GaussianBandit" else {}
    fields = {name: value for name, value in fields.items() if name in known}
    continuous = kind == "box" and not question.action
    fields |= {"env": f"protorl/{question.probe}-v0", "env_kwargs": {"continuous": True} if continuous else {}}
    try:
        run = Training(dataclasses.replace(recipe, **fields)).train(1)
    except Exception as error:  # a network made for another observation, say
        return None, f"the recipe does not fit it: {sentence_of(error)}"
    begin = time.process_time()
    with closing(run):
        while True:
            run.train(50)
            answer = decisions(run, question.obs) if question.action else values(run, question.obs)
            if answer is None:
                return None, "the agent's network names no values: `.q`, `.value`, or a critic"
            near = float(np.abs(answer - np.array(question.answer)).max()) < CLOSE
            if near or run.updates >= most or time.process_time() - begin > patience:
                break
    told = ", ".join(f"{x:.3g}" for x in answer.mean(0))
    right = ", ".join(f"{x:.3g}" for x in question.answer)
    return near, f"{question.text}; after {run.updates} updates {told}" + ("" if near else f" where {right} is right")


def played(recipe: Any, game: Game, most: int, patience: float = 8.0) -> Verdict:
    """The best return comes within `most` updates."""
    known = {field.name for field in dataclasses.fields(recipe)}
    fields = {**QUICKLY, **TOGETHER, **(ON_POLICY if "rollout_steps" in known else {})}
    fields = {name: value for name, value in fields.items() if name in known}
    try:
        run = Training(dataclasses.replace(recipe, **fields, env=f"protorl/{game.name}-v0", env_kwargs={})).train(1)
    except Exception as error:
        return None, f"the recipe does not fit it: {sentence_of(error)}"
    begin = time.process_time()
    with closing(run), closing(run.recipe.make_eval_env(1)) as env:
        while True:
            run.train(50)
            (ret,) = evaluate(run.agent, env, 1, seed=0).returns
            near = ret > game.best - CLOSE
            if near or run.updates >= most or time.process_time() - begin > patience:
                break
    right = "" if near else f" where {game.best:.3g} is right"
    return near, f"{game.text}; after {run.updates} updates the return is {ret:.3g}{right}"


def values(run: Training, obs: tuple[float, ...]) -> Array | None:
    """What the agent believes observations are worth: [any, O]; None where it does not say."""
    agent = run.agent
    if isinstance(agent.core, Core):
        return remembered(run, obs)
    seen = torch.tensor(obs, dtype=torch.float32, device=agent.device).reshape(len(obs), 1)
    network = agent.network
    network.eval()
    try:
        with torch.no_grad():
            if isinstance(network, ActorCritic) and not hasattr(network.critic, "head"):
                actions = torch.tensor([-0.8, 0.0, 0.8], device=agent.device)
                pairs = torch.cartesian_prod(actions, seen[:, 0])
                q = network.critic(pairs[:, 1:], pairs[:, :1])  # [K, 3 O], or of several outputs [K, 3 O, N]
                return np.asarray(q.reshape(-1, len(obs), getattr(network.critic, "outputs", 1)).mean(-1).cpu())
            out = network(seen)
    finally:
        network.train()
    value = told(out)
    return None if value is None else np.asarray(value.reshape(len(obs), -1).T.cpu())


def told(out: Any) -> Any:
    """The values in a network's output."""
    value = getattr(out, "q", None) if hasattr(out, "q") else getattr(out, "value", None)
    if value is not None and not hasattr(out, "q") and value.dim() > 1:
        value = value[..., 0]  # of the streams of reward, the environment's
    return value


def remembered(run: Training, obs: tuple[float, ...]) -> Array | None:
    """The same of an agent that remembers: what it believes where it comes upon them."""
    plain, found = run.agent.recall, dict[float, Any]()

    def recalling(seen: Any, *given: Any) -> Any:
        out, carry = plain(seen, *given)
        found[float(seen.obs[0, 0])] = told(out)
        return out, carry

    with rebound(run.agent, recall=recalling):
        decisions(run, obs)
    return None if None in found.values() else np.stack([np.asarray(found[x]).reshape(-1) for x in obs], 1)


def decisions(run: Training, obs: tuple[float, ...], most: int = 64) -> Array:
    """What the agent does without exploring, seen in evaluations until every observation has come up: [1, O]."""
    wanted = dict.fromkeys(obs)
    plain, env = run.agent.act, run.recipe.make_eval_env(1)

    def acting(*given: Any, **options: Any) -> Any:
        act = plain(*given, **options)
        seen = getattr(given[0], "obs", given[0])
        wanted[float(seen[0, 0])] = act.action.reshape(-1)[0]
        return act

    with closing(env), rebound(run.agent, act=acting):
        for seed in range(most):
            evaluate(run.agent, env, 1, seed=seed)
            if None not in wanted.values():
                break
    return np.array([[wanted[x] for x in obs]], np.float64)
