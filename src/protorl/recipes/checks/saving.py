"""Is a resumed training the same, and does an evaluation leave it alone?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from protorl import rng
from protorl.data import Array
from protorl.loops import evaluate
from protorl.recipes.checks.contents import Contents, difference, told
from protorl.recipes.checks.finding import Verdict
from protorl.recipes.checks.training import Randomness, Training, rebound


def resumes(one: Training, updates: int, folder: Path, end: Mapping[str, Any]) -> Verdict:
    """A training rebuilt from the recipe and the checkpoint learns what the uninterrupted one did, and ends where it did. What
    it holds right after loading tells which value was lost."""
    middle = one.saved
    with closing(Training(one.recipe)) as two:
        two.load(folder)
        begin, loaded = two.steps, two.everything(learned=False)
        two.train(updates)
        after = two.everything()
    if path := difference(end, after):
        if lost := difference(middle, loaded):
            values = f"was {told(middle, lost)} when saved, and is {told(loaded, lost)} when loaded"
            return False, f"{lost} {values}; {updates} updates later {path} is not what it is without the interruption"
        values = f"is {told(after, path)} where it is {told(end, path)} without the interruption"
        return False, f"all that was saved comes back, but {updates} updates later {path} {values}"
    return True, f"saved at step {begin:,}, rebuilt, trained to {one.steps:,}: {len(end):,} values are equal"


class EnoughError(Exception):
    """So much of an evaluation is enough."""


def played(agent: Any, env: Any, seed: int, steps: int) -> tuple[Any, list[Array]]:
    """An evaluation of two episodes (None: it takes more than `steps`), and all its actions."""
    actions: list[Array] = []
    plain = agent.act

    def acting(*given: Any, **options: Any) -> Any:
        act = plain(*given, **options)
        actions.append(np.array(act.action))
        return act

    def watch(_: Any) -> None:
        if len(actions) >= steps:
            raise EnoughError

    with rebound(agent, act=acting):
        try:
            return evaluate(agent, env, 2, seed=seed, watch=watch), actions
        except EnoughError:
            return None, actions


def evaluation_leaves_no_trace(training: Training, steps: int = 500) -> Verdict:
    """Training is bit for bit what it was, random streams too, and a second evaluation plays the same."""
    agent, seed = training.agent, rng.integer(training.recipe.seed, "eval")

    def everything() -> dict[str, Any]:
        return Contents(agent, "agent").frozen() | training.everything() | Contents(Randomness.now(), "process").frozen()

    before = everything()
    with closing(training.recipe.make_eval_env(2)) as env:
        first, actions = played(agent, env, seed, steps)
    if path := difference(before, after := everything()):
        return False, f"{path} was {told(before, path)} before an evaluation, and is {told(after, path)}"
    with closing(training.recipe.make_eval_env(2)) as env:
        second, again = played(agent, env, seed, steps)
    if first != second or len(actions) != len(again) or not all(map(np.array_equal, actions, again)):
        scores = f"returns {first.returns}, then {second.returns}" if first and second else "other actions"
        return False, f"two evaluations of the same weights and seed differ: {scores}"
    said = f"returns {[round(score, 2) for score in first.returns]} twice" if first else f"{steps} steps played twice the same"
    return True, f"{len(before):,} values unchanged; {said}"
