"""Do weights, priorities and n-step returns keep their meaning?"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from protorl import rng
from protorl.data import Array, Batch, ProtoRLError, Update, tree_leaves, tree_map
from protorl.memory import NStep, Replay, Sequence
from protorl.recipes.checks.contents import Contents, farthest, put
from protorl.recipes.checks.faster import TOLERANCE
from protorl.recipes.checks.finding import Verdict
from protorl.recipes.checks.learning import owned
from protorl.recipes.checks.training import Training


def off_policy(recipe: Any) -> bool:
    return {"per_alpha", "n_step"} <= {field.name for field in dataclasses.fields(recipe)}


def weights_count(training: Training) -> Verdict:
    """Two batches that differ only in an example of weight 0 lead to the same parameters; the loss is linear in weights."""
    agent, batch = training.agent, training.batch
    if batch is None or not off_policy(training.recipe):
        return None, "the recipe has no per_alpha and n_step"
    contents = Contents(agent, "agent")
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in contents.objects.values()):
        return None, "batch normalisation mixes the examples of a batch"
    before, start = contents.frozen(), rng.Randomness.now()
    mine = owned(contents)
    network = {id(parameter) for parameter in agent.network.parameters()}
    weight = torch.ones_like(batch.weight)
    weight[0] = 0.0
    silent = batch.replace(weight=weight)
    rewards = by_example(batch, batch.reward).reshape(len(batch), -1)
    far = int((rewards - rewards[0]).abs().amax(1).argmax()) or len(batch) // 2
    reward = batch.reward.clone()
    by_example(batch, reward)[0] += 10.0
    row = {
        name: tree_map(partial(row_from, batch, far), column)
        for name, column in silent.columns.items()
        if name not in ("weight", "index")
    }

    def after(number: int, variant: Batch) -> tuple[dict[str, Any], Update]:
        put(Contents(agent, "agent").leaves, before)
        start.put_back()
        for _ in range(number):  # a delayed actor learns at every second update
            agent.update(copy.deepcopy(batch))
        update = agent.update(copy.deepcopy(variant))
        return Contents(agent, "agent").frozen(), update

    moving = {path for path, leaf in contents.leaves.items() if id(leaf.value) in mine}
    for number in (0, 1):
        plain, _ = after(number, silent)
        for other, which in ((silent.replace(reward=reward), mine), (silent.replace(**row), mine & network)):
            changed, _ = after(number, other)
            names = [path for path in moving if id(contents.leaves[path].value) in which]
            worst, path = farthest({name: plain[name] for name in names}, {name: changed[name] for name in names})
            if worst > 1e-8:  # what is multiplied by 0 adds exactly 0
                return False, f"an example of weight 0 moves {path} ({worst:.1g}): multiply each example's loss by batch.weight"
    losses = [after(0, batch.replace(weight=torch.full_like(weight, w)))[1].metrics.get("loss") for w in (1.0, 2.0, 3.0)]
    put(Contents(agent, "agent").leaves, before)
    one, two, three = (math.nan if loss is None else float(loss) for loss in losses)
    if abs((three - two) - (two - one)) > 1e-3 * max(abs(three), abs(one), 1e-6):
        return False, f"the loss is not linear in the weights: {one:.4g}, {two:.4g}, {three:.4g} with all at 1, 2, 3"
    return True, "its reward, or another row in its place, changes no parameter" + (
        f"; the loss is {one:.4g}, {two:.4g}, {three:.4g} with all weights at 1, 2, 3" if three == three else ""
    )


def row_from(batch: Batch, row: int, column: Tensor) -> Tensor:
    """The column with another example in the place of the first."""
    column = column.clone()
    by_example(batch, column)[0] = by_example(batch, column)[row]
    return column


def by_example(batch: Batch, column: Tensor) -> Tensor:
    """The column with its examples first: a view, where a batch of sequences has time first."""
    mask = batch.columns.get("mask")
    return column if mask is None or column.shape[:2] != mask.shape else column.transpose(0, 1)


def priorities_count(recipe: Any, updates: int, draws: int = 64) -> Verdict:
    """Each example has a priority of its own, which prioritized replay follows; with alpha = 0 it is uniform."""
    if not off_policy(recipe):
        return None, "the recipe has no per_alpha and n_step"
    with closing(Training(dataclasses.replace(recipe, per_alpha=0.6)).train(updates)) as run:
        for priority in run.priorities:
            size = len(run.batch) if run.batch is not None else 0
            if priority.shape != (size,):
                return False, f"`learn` returns a priority of shape {tuple(priority.shape)} for {size} examples"
            if not bool(torch.isfinite(priority).all()) or bool((priority < 0).any()):
                return False, "`learn` returns priorities that are negative or not finite"
        if size > 4 and all(float(priority.max() - priority.min()) == 0.0 for priority in run.priorities):
            return False, f"all {size} examples of a batch get the same priority: it must be each example's own"
        weights = run.memory.sample().weight
        if float(weights.max() - weights.min()) == 0.0:
            return False, "per_alpha=0.6 draws as uniform replay does: priorities reach no sampler"
    with closing(Training(dataclasses.replace(recipe, per_alpha=1e-9)).train(updates)) as run:
        batches = [run.memory.sample() for _ in range(draws)]
        off = max(float((batch.weight - 1).abs().max()) for batch in batches)
        if off > TOLERANCE:
            return False, f"with per_alpha = 0 weights are not 1 but up to {off:.2g} away"
        drawn = np.unique(np.concatenate([np.asarray(batch.index) for batch in batches]), return_counts=True)[1]
        many, expected = len(run.memory), sum(map(len, batches)) / len(run.memory)
        spread = (((drawn - expected) ** 2).sum() + (many - len(drawn)) * expected**2) / (expected * many)
        if spread > 1.5:
            return False, f"with per_alpha = 0 draws are not uniform (variance {spread:.2f} of what chance gives)"
    return True, f"priorities are each example's own; alpha = 0 draws {many:,} examples evenly, with weights 1"


def n_steps_count(recipe: Any, draws: int = 4) -> Verdict:
    """n = 1 is one step, and n = 3 the discounted sum of three, to the end of the episode at most: held against the steps. A
    recipe may refuse more than one."""
    if not off_policy(recipe):
        return None, "the recipe has no per_alpha and n_step"
    seen = 0
    for n in (1, 3):
        try:
            made = Training(dataclasses.replace(recipe, n_step=n))
        except ProtoRLError as error:
            if n == 1 or "n_step" not in str(error):
                raise
            return True, f"{seen} examples have the rewards, discounts and successors of their steps; {error}"
        with closing(made.train(1)) as run:
            if not isinstance(getattr(run.memory, "view", None), NStep | Sequence):
                return None, "the recipe's memory has a view of its own"
            for _ in range(draws):
                batch = run.memory.sample()
                for row, told, obs in transitions(run.memory, batch):
                    right, next_obs = n_step(run, row, n)
                    if not np.allclose(told, right, rtol=1e-4, atol=1e-5):
                        *reward, discount = (f"{number:.5g}" for number in told)
                        steps = f"its steps say {', '.join(f'{number:.5g}' for number in right)}"
                        return False, f"at n_step={n} an example has reward {', '.join(reward)}, discount {discount}; {steps}"
                    if not all(map(np.array_equal, obs, tree_leaves(next_obs))):
                        return False, f"at n_step={n} an example's next_obs is not the observation after its steps"
                    seen += 1
    return True, f"{seen} examples of n_step 1 and 3 have the rewards, discounts and successors of their steps"


def transitions(memory: Replay, batch: Batch) -> Iterator[tuple[int, list[float], list[Array]]]:
    """The transitions in a batch: the row (serial * lanes + lane) at which each begins, its reward (of each agent, in a team)
    and discount, and what its successor shows. Of a sequence these are its trained rows, in which it has returns to its last
    row at most."""
    if isinstance(memory.view, NStep):
        for i, row in enumerate(batch.index.tolist()):
            shown = [leaf[i].cpu().numpy() for leaf in tree_leaves(batch.next_obs)]
            yield row, [*batch.reward[i].reshape(-1).tolist(), float(batch.discount[i])], shown
        return
    window, lanes = memory.window, memory.storage.lanes
    starts = window.begins(window.slots(batch.index.numpy()))
    newest = memory.storage.counts[starts // window.ring] - 1
    serials = newest - (newest - starts) % window.ring
    for t, i in batch.mask.bool().nonzero().tolist():
        shown = [leaf[batch.successor[t, i], i].cpu().numpy() for leaf in tree_leaves(batch.seen.obs)]
        row = (int(serials[i]) + t - memory.view.burn_in) * lanes + int(starts[i]) // window.ring  # type: ignore[attr-defined]
        yield row, [*batch.reward[t, i].reshape(-1).tolist(), float(batch.discount[t, i])], shown


def n_step(run: Training, row: int, n: int) -> tuple[list[float], Any]:
    """Reward and discount, and the successor, of the example that begins at a row (serial * lanes + lane), from the steps
    themselves."""
    recipe, lanes = run.recipe, run.env.num_envs
    lane, serial = row % lanes, row // lanes
    steps = [step for step in run.history if step.valid[lane]][serial : serial + n]
    clip = getattr(recipe, "clip_reward", None)
    clip, scale = math.inf if clip is None else clip, getattr(recipe, "reward_scale", 1.0)
    total, discount = np.zeros(1), 1.0
    for step in steps:
        total = total + discount * scale * np.clip(step.reward[lane], -clip, clip)
        gamma = recipe.gamma if "gamma" not in step.extras else float(step.extras["gamma"][lane])
        discount *= gamma * float(step.discount[lane])
        if step.ended[lane] or discount == 0.0:
            break
    return [*total.tolist(), discount], tree_map(lambda array: array[lane], step.next_obs)
