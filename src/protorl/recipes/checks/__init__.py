"""What `protorl check` finds out about a recipe: one function for each promise that a person's own code must keep too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from protorl import rng
from protorl.recipes.checks.contents import Contents
from protorl.recipes.checks.declared import class_holds, fields_are_read, reads
from protorl.recipes.checks.faster import acting_agrees, learning_agrees
from protorl.recipes.checks.finding import Finding, found, sentence_of
from protorl.recipes.checks.learning import columns_are_used, parameters_move, targets_get_no_gradient, watch_columns
from protorl.recipes.checks.probes import probed
from protorl.recipes.checks.replay import n_steps_count, priorities_count, weights_count
from protorl.recipes.checks.saving import evaluation_leaves_no_trace, resumes
from protorl.recipes.checks.training import Training, short
from protorl.recipes.checks.workers import workers_agree
from protorl.recipes.measure import kept_threads, quiet
from protorl.recipes.recipe import Recipe

__all__ = ["Finding", "examine"]

FIRST = 40
"""Updates of a short training, before and after a checkpoint."""


def examine(recipe: Recipe, *, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """All findings, one after the other. quick: compile nothing, and train less."""
    updates = FIRST // 2 if quick else FIRST
    with kept_threads(), quiet(), rng.untouched():
        try:
            small = short(recipe, 32 if quick else None)
        except Exception as error:
            yield Finding("trains", False, sentence_of(error))
            return
        with tempfile.TemporaryDirectory() as folder:
            fine = yield from trained(small, updates, Path(folder), say)
        if not fine:  # nothing else would be seen of it
            return
        if not quick:
            say("learning in the fastest mode beside eager: compiling may take half a minute")
            yield found("learning, fast = plain", learning_agrees, small)
        say("workers in lockstep")
        yield found("workers, in lockstep = one process", workers_agree, recipe, updates)
        say("probe environments")
        yield from probed(recipe.here(), quick)


def trained(recipe: Any, updates: int, folder: Path, say: Callable[[str], None]) -> Generator[Finding, None, bool]:
    """What two equal short trainings, and one that is interrupted, tell; returns whether the recipe trains at all."""
    say("a short training")
    try:
        with reads(type(recipe)) as read:
            one = Training(recipe)
            used = watch_columns(one.agent)
            before = Contents(one.agent, "agent").frozen()
            one.train(updates)
        saved = found("kill and resume, bit for bit", one.save, folder)
        one.train(updates)
        end = one.everything() if saved.passed else {}
    except Exception as error:
        yield Finding("trains", False, sentence_of(error))
        return False
    yield Finding("trains", True, f"{one.updates} updates in {one.steps:,} agent steps of {one.env.spec.id}")
    with closing(one):
        yield found("fields reach something", fields_are_read, recipe, read)
        yield found("agent_class and agent_arguments hold", class_holds, recipe, one.agent, read)
        yield found("columns declared are those used", columns_are_used, one, used)
        yield found("every parameter moves", parameters_move, one.agent, before)
        yield found(saved.name, resumes, one, updates, folder, end) if saved.passed else saved
        yield found("evaluation leaves no trace", evaluation_leaves_no_trace, one)
        say("acting beside plain torch")
        yield found("acting, fast = plain", acting_agrees, one, updates, end)
        yield found("no gradient reaches a target", targets_get_no_gradient, one)
        yield found("an example of weight 0 teaches nothing", weights_count, one)
    say("prioritized and n-step replay")
    yield found("prioritized replay keeps its meaning", priorities_count, recipe, updates)
    yield found("n-step replay keeps its meaning", n_steps_count, recipe)
    return True
