"""`protorl check`: a person's own recipe under test, as a table."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from protorl.data import ProtoRLError
from protorl.recipes.checks import Finding, examine
from protorl.recipes.checks.finding import sentence_of
from protorl.recipes.fields import parse_settings
from protorl.recipes.find import find_recipe

FITTING = {"discrete": "CartPole-v1", "box": "Pendulum-v1"}
"""Where the default environment has other actions than the recipe chooses."""
TEAM = "protorl/EarlyDeath-v0"
"""Where a recipe is for teams: nobody lives to the end but one."""


def check(name: str, env: str | None, settings: list[str], *, quick: bool = False) -> int:
    """Print what `examine` finds; progress goes to stderr. Returns 1 if a check failed, else 0.

    Raises: ProtoRLError where there is no such recipe, setting or environment.
    """
    from rich.console import Console

    recipe = chosen(name, env, settings)
    with Console(stderr=True).status("building") as status:
        findings = list(examine(recipe, quick=quick, say=status.update))
    show(f"{name} on {recipe.env}", findings)
    return 1 if any(finding.passed is False for finding in findings) else 0


def chosen(name: str, env: str | None, settings: list[str]) -> Any:
    """The recipe with everything that was typed, in an environment that has its kind of actions."""
    try:
        cls: Any = find_recipe(name)
        given = parse_settings(cls, settings)
        if cls.as_teams and env is None and "env" not in given:
            env = TEAM
        recipe = cls(**({} if env is None else {"env": env}), **given)
        with closing(recipe.make_env(1)) as built:
            kind = built.spec.action.kind
        if kind not in cls.actions and env is None and "env" not in given:
            fitting = next((FITTING[own] for own in cls.actions if own in FITTING), recipe.env)
            return cls(env=fitting, **given)
    except ProtoRLError:
        raise
    except Exception as error:  # a file of a person's own may raise anything
        raise ProtoRLError(f"{name} cannot be made: {sentence_of(error)}") from error
    return recipe


def show(title: str, findings: list[Finding]) -> None:
    """The findings as a table, and their sum in a sentence."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    words = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[dim]n/a[/]"}
    table = Table("check", "", "what was seen", title=title, title_justify="left", title_style="bold", box=None)
    for finding in findings:
        table.add_row(escape(finding.name), words[finding.passed], escape(finding.sentence))
    console.print(table)
    many = {result: sum(finding.passed is result for finding in findings) for result in words}
    console.print(f"{many[True]} passed, {many[False]} failed, {many[None]} do not apply", highlight=False)
