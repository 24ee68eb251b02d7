"""Words into a command: what tyro parses, and a recipe's fields, which become settings. Only these import recipes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import tyro

from protorl.cli.arguments import COMMANDS, Command, Train


def fields_as_settings(argv: Sequence[str]) -> list[str]:
    """`train RECIPE --lr 1e-3` as `train RECIPE --set lr=1e-3`, for every field of the recipe that is no option of `train`."""
    options = {field.name for field in fields(Train)} | {"help"}
    words = deque(argv)
    spelled = [words.popleft() for _ in range(min(2, len(words)))]
    known: set[str] | None = None
    while words:
        word = words.popleft()
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name in options:
            spelled.append(word)
            continue
        if known is None:  # only now: it imports the recipes
            from protorl.recipes.find import find_recipe

            known = {field.name for field in fields(find_recipe(spelled[1]))}
        if name not in known:  # a mistake, for the parser to explain
            spelled.append(word)
            continue
        if not equals:  # a flag alone means true
            value = words.popleft() if words and not words[0].startswith("--") else "true"
        spelled += ["--set", f"{name}={value}"]
    return spelled


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv` describes; exits with usage where it describes none."""
    if len(argv) > 2 and argv[0] == "train" and not argv[1].startswith("-"):
        argv = fields_as_settings(argv)
        if {"-h", "--help"} & set(argv):
            Train.__doc__ = describe(list(argv[1:]))
    command: Command = tyro.extras.subcommand_cli_from_dict(
        dict(COMMANDS),
        prog="protorl",
        description="Reproduce a reinforcement-learning paper. Try: protorl train dqn --env CartPole-v1",
        args=list(argv),
    )
    return command


def describe(words: list[str]) -> str:
    """The help page of a recipe: its fields for --set, with the values they have for the environment that was typed."""
    from protorl.recipes.fields import table
    from protorl.recipes.find import find_recipe
    from protorl.recipes.presets import tuned_for

    cls = find_recipe(words[0])
    typed = {word[2:]: value for word, value in pairwise(words) if word in ("--env", "--protocol")}
    recipe = cls(**typed)
    rows = table(recipe)
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  {value}  - {text}" for name, value, text in rows]
    tuned = f"Tuned for {tuned_for(cls.presets)}." if cls.presets else ""
    summary = (cls.__doc__ or "").split("\n")[0]
    head = f"{summary}\n\nPaper: {cls.paper or 'none named'}. {tuned}\n\n"
    return f"{head}Fields, for --KEY VALUE or --set KEY=VALUE, with their values for {recipe.env}:\n\n" + "\n".join(lines)
