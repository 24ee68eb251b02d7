"""Is what is bound for speed the same as the plain methods?"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from protorl import rng
from protorl.accelerate import SETTLED, accelerate
from protorl.accelerate.ahead_of_time import compiler
from protorl.data import Array, Update, written
from protorl.recipes.checks.contents import SMALL, Contents, apart, difference, farthest, put, shown, told
from protorl.recipes.checks.finding import Verdict
from protorl.recipes.checks.learning import owned
from protorl.recipes.checks.saving import played
from protorl.recipes.checks.training import Training, rebound, seed_everything

TOLERANCE = 1e-4
"""Relative, between a plain method and its faster equal, in float32."""
METRIC = 0.1
"""Metrics below this are compared as if they were as large: some are sums that cancel."""
CHAOS = 10.0
"""How many times as far as rounding alone drives two plain trainings a fast one may be from them."""
COMPARED = 200
"""Updates in which the fastest mode is held against eager."""
SEAM = ("act", "annotate", "observe", "prepare", "update")
"""What is called of an agent from outside."""


def fastest() -> str:
    """The mode to hold against eager on the processor: without a C++ compiler, there is but NumPy's acting."""
    return "aot" if compiler() else "auto"


class Notes(logging.Handler):
    """What the library says about methods that stay as they are."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "stays" in record.getMessage():
            self.kept.append(record.getMessage())


@contextmanager
def noted() -> Iterator[list[str]]:
    """Inside, sentences about what stays plain are collected."""
    logger, notes = logging.getLogger("protorl"), Notes()
    level = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield notes.kept
    finally:
        logger.removeHandler(notes)
        logger.setLevel(level)


def acting_agrees(one: Training, updates: int, end: Mapping[str, Any], steps: int = 500) -> Verdict:
    """An equal training, its inference bound to NumPy where that is offered, acts as plain torch does."""
    with closing(Training(one.recipe).train(updates)) as two:
        two.actors.rebuild(two.steps)  # as when `one` was saved
        two.train(updates)
        if end and (path := difference(end, two.everything())):
            return False, f"two trainings from one seed differ, first in {path}: nothing can be held against each other"
        plain, fast = one.agent, two.agent
        outputs: dict[int, list[Any]] = {id(plain): [], id(fast): []}
        actions: dict[int, list[Any]] = {id(plain): [], id(fast): []}

        def inferring(agent: Any, infer: Callable[..., Any], *given: Any, **options: Any) -> Any:
            out = infer(*given, **options)
            outputs[id(agent)].append(Contents(out, "output").frozen())
            return out

        def acting(act: Callable[..., Any], *given: Any, **options: Any) -> Any:
            theirs, start = copy.deepcopy((given, options)), rng.Randomness.now()
            mine = act(*given, **options)
            after = rng.Randomness.now()
            start.put_back()
            other = fast.act(*theirs[0], **theirs[1])
            after.put_back()
            for agent, answer in ((plain, mine), (fast, other)):
                actions[id(agent)].append(np.array(answer.action))
            return mine

        with noted() as kept, closing(one.recipe.make_eval_env(2)) as env:
            accelerate(fast, "auto")
            fast.infer = partial(inferring, fast, fast.infer)
            bound = {"act": partial(acting, plain.act), "infer": partial(inferring, plain, plain.infer)}
            with rebound(plain, **bound):
                played(plain, env, rng.integer(one.recipe.seed, "eval"), steps)
        return compared_acting(outputs[id(plain)], outputs[id(fast)], actions[id(plain)], actions[id(fast)], kept)


def compared_acting(
    out: list[Any], fast_out: list[Any], action: list[Array], fast_action: list[Array], kept: list[str]
) -> Verdict:
    """Outputs within the tolerance, and the same actions but for a few. kept: what was said to stay eager."""
    shared = [(a, b) for a, b in zip(out, fast_out) if a and b]
    seen = [(apart(a[path], b[path]), path, a[path], b[path]) for a, b in shared for path in a if path in b]
    worst, path, one, two = max(seen, default=(0.0, "", None, None), key=lambda row: row[0])
    if worst > TOLERANCE:
        values = f"{shown(one)} by plain torch and {shown(two)} as bound for speed, {worst:.2g} apart"
        return False, f"over {len(shared)} calls on real observations {path} is {values}"
    many = len(action)
    if len(fast_out) not in (0, len(out)) and not kept:
        return False, f"acting asks `infer` {len(out)} times plainly and {len(fast_out)} times as bound"
    choices = all(np.issubdtype(row.dtype, np.integer) for row in action)
    wrong = sum(not np.array_equal(x, y) if choices else apart(x, y) > TOLERANCE for x, y in zip(action, fast_action))
    if wrong > 0.01 * many:
        return False, f"{wrong} of {many} actions on real observations differ between plain torch and what is bound for speed"
    return True, f"{many} actions on real observations are the same, outputs {worst:.0e} apart{why(kept)}"


def why(kept: list[str]) -> str:
    """What stays plain, behind a sentence."""
    return f" ({'; '.join(dict.fromkeys(kept))})" if kept else ""


class Lockstep:
    """A plain agent that trains, a changed one that is told the same, and a plain one set to the changed one's tensors before
    every update: the first two show how far they drift apart, the last two how far one update does."""

    def __init__(self, recipe: Any, change: Callable[[Any], None], each: Callable[[Any], None] = lambda _: None) -> None:
        self.lead = Training(recipe)
        self.other, self.beside = (self.build(recipe) for _ in range(2))
        change(self.other)
        self.each = each
        self.inside = False
        self.worst: tuple[float, str, int, str, str] = (0.0, "", 0, "", "")
        self.loss: Any = None
        for name in SEAM:
            if written(self.lead.agent, name):
                setattr(self.lead.agent, name, partial(self.call, name, getattr(self.lead.agent, name)))

    def build(self, recipe: Any) -> Any:
        seed_everything(recipe.seed)
        return recipe.build_agent(self.lead.env.spec)

    def call(self, name: str, plain: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """All three, on copies of the same arguments, with the same random numbers."""
        if self.inside:  # one of the agent's own calls
            return plain(*given, **options)
        self.inside = True
        copies = [copy.deepcopy((given, options)) for _ in range(2)]
        start = rng.Randomness.now()
        if name == "update":
            put(Contents(self.beside, "agent").leaves, Contents(self.other, "agent").frozen(), numbers=False)
            self.each(self.other)
            start.put_back()
        answer = plain(*given, **options)
        after, answers = rng.Randomness.now(), []
        for agent, (args, named) in zip((self.beside, self.other), copies):
            start.put_back()
            answers.append(getattr(agent, name)(*args, **named))
        after.put_back()
        if name == "update":
            self.compare(*answers)
        self.inside = False
        return answer

    def compare(self, plain: Update, other: Update) -> None:
        """After one update from the same state."""
        for name, small, things in (("agent", SMALL, (self.beside, self.other)), ("update", METRIC, (plain, other))):
            one, two = (Contents(thing, name).frozen() for thing in things)
            far, path = farthest(one, two, small)
            if far > self.worst[0]:
                self.worst = (far, path, self.lead.updates + 1, told(one, path), told(two, path))
        self.loss = other.metrics.get("loss", self.loss)

    def drift(self) -> tuple[float, str, str, str]:
        """How far the two that learned by themselves are apart."""
        one, two = (Contents(agent, "agent").frozen() for agent in (self.lead.agent, self.other))
        far, path = farthest(one, two)
        return far, path, told(one, path), told(two, path)

    def close(self) -> None:
        self.lead.close()


def nudge(agent: Any) -> None:
    """Moves every parameter that learns by about a rounding error."""
    contents = Contents(agent, "agent")
    mine = owned(contents)
    with rng.untouched(), torch.no_grad():
        for _, _, tensor in contents.leaves.values():
            if id(tensor) in mine:
                tensor.mul_(1 + 1e-7 * torch.randn_like(tensor))


def learning_agrees(recipe: Any, mode: str | None = None, updates: int = COMPARED, seconds: float = 25.0) -> Verdict:
    """Updates in the fastest mode do what eager ones do: each from the same state, and all of them in a row."""
    mode = fastest() if mode is None else mode
    with noted() as kept, closing(Lockstep(recipe, lambda agent: accelerate(agent, mode))) as run:
        run.lead.train(min(4 * SETTLED, updates))  # compiles, also what is called at every tenth update only
        run.lead.deadline = time.process_time() + seconds
        if run.lead.updates < updates:
            run.lead.train(updates - run.lead.updates)
        drift, path, a, b = run.drift()
        step, made = run.worst, run.lead.updates
        losses = f"loss {run.lead.losses[-1]:.5g} eager, {float(run.loss):.5g} with {mode}" if run.loss is not None else ""
    allowed = allowed_step = TOLERANCE
    if max(drift, step[0]) > TOLERANCE:  # so far apart as rounding alone drives them?
        with closing(Lockstep(recipe, lambda agent: None, nudge)) as control:
            control.lead.train(made)
            allowed = max(allowed, CHAOS * control.drift()[0])
            allowed_step = max(allowed_step, CHAOS * control.worst[0])
    if step[0] > allowed_step:
        far, path, update, a, b = step
        return False, (
            f"update {update}, from the same state: {path} is {a} eager and {b} with {mode}, {far:.2g} apart; "
            f"after {made} updates {losses}"
        )
    if drift > allowed:
        return False, f"after {made} updates {path} is {a} eager and {b} with {mode}, {drift:.2g} apart; {losses}"
    seen = f"{step[0]:.0e} apart after one from the same state, {drift:.0e} after all in a row"
    rounding = f" (rounding alone: {allowed / CHAOS:.0e})" if allowed > TOLERANCE else ""
    return True, f"{made} updates with {mode}: {seen}{rounding}; {losses}{why(kept)}"
