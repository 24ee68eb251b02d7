"""Words into a command. What was mistyped gets one sentence here; the rest goes to tyro, a recipe's fields as settings."""

from __future__ import annotations

import types
import typing
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import tyro

from protorl.cli.arguments import COMMANDS, Command, Train
from protorl.words import listed, meant, whole

EXAMPLES = {"set": "lr=1e-3", "env": "CartPole-v1", "run_dir": "runs/mine", "out": "curve.png", "metric": "loss"}
"""Values to show where one is missing."""
OPERANDS = {"recipe": "a recipe, such as `protorl {} dqn`", "run_dir": "a run folder, such as `protorl {} runs/mine`"}


ALSO = {"actors": "workers"}
"""Options that have another name than their field."""


class Misuse(Exception):  # noqa: N818 - it is no failure of anything
    """A command line that says nothing that can be done, and what would."""


def parse(argv: Sequence[str]) -> Command:
    """The command that `argv` describes; exits after help. Raises: Misuse."""
    if {"-h", "--help"} & set(argv):
        words = [word for word in argv[:1] if word in COMMANDS] + ["--help"]
        if argv[0] == "train" and len(argv) > 1 and not argv[1].startswith("-"):
            Train.__doc__ = describe(list(argv[1:]))
    else:
        words = spelled(argv)
    command: Command = tyro.extras.subcommand_cli_from_dict(
        dict(COMMANDS),
        prog="protorl",
        description="Reproduce a reinforcement-learning paper. Try: protorl train dqn --env CartPole-v1",
        args=words,
    )
    return command


def spelled(argv: Sequence[str]) -> list[str]:
    """The words as tyro takes them: `train RECIPE --lr 1e-3 --steps 1e6` is `train RECIPE --set lr=1e-3 --steps 1000000`, for
    every field of the recipe that is no option. Raises: Misuse, for all that is none."""
    if not argv:
        raise Misuse(f"no command was given: use {listed(COMMANDS)}, such as `protorl train dqn --env CartPole-v1`")
    name, words = argv[0], deque(argv[1:])
    if name not in COMMANDS:
        near = f"--{name}" if name in ("help", "version") else meant(name, COMMANDS)
        hint = f"did you mean `protorl {near}`?" if near else f"use {listed(COMMANDS)}"
        raise Misuse(f"there is no command {name!r}: {hint}")
    kinds = typing.get_type_hints(COMMANDS[name])
    operand, *options = kinds if kinds else [""]
    operands: list[str] = []
    given: list[tuple[str, str, str | None]] = []  # of each option: its flag, its name, its value
    while words:
        word = words.popleft()
        if not word.startswith("-") or whole(word) is not None:
            operands.append(word)
            continue
        flag, equals, typed = word.partition("=")
        key = flag.lstrip("-").replace("-", "_")
        key = ALSO.get(key, key)
        value = typed if equals else None
        alone = kinds.get(key.removeprefix("no_")) is bool  # an option that is a word by itself
        if value is None and not alone and words and not words[0].startswith("--"):
            value = words.popleft()
        given.append((flag, key, value))
    check_operands(name, operand, operands, kinds)
    fields = Fields(operands[0] if operands and operand == "recipe" and "set" in options else None)
    found = [name, *operands]
    for flag, key, value in given:
        if flag.startswith("--") and kinds.get(key.removeprefix("no_")) is bool:
            if value is not None:
                raise Misuse(f"{flag} takes no value: {flag} alone, or --no-{key.removeprefix('no_')}")
            found.append(flag)
        elif flag.startswith("--") and key in options:
            found += [flag, checked(flag, key, value, kinds[key])]
        elif flag.startswith("--") and key in fields.known():
            if value is None and fields.known()[key] is not bool:
                raise Misuse(f"{flag} needs a value: write {flag} VALUE")
            found += ["--set", f"{key}={'true' if value is None else value}"]  # a flag alone means true
        else:
            raise Misuse(unknown(name, operands, flag, key, options, list(fields.known())))
    return found


class Fields:
    """The fields of the recipe that a command is about, once somebody asks: it imports the recipes."""

    def __init__(self, recipe: str | None) -> None:
        self.recipe = recipe
        self.kinds: dict[str, object] | None = None

    def known(self) -> dict[str, object]:
        """Their types by name; none for commands that take no settings."""
        if self.recipe is None:
            return {}
        if self.kinds is None:
            from dataclasses import fields

            from protorl.recipes.fields import hints
            from protorl.recipes.find import find_recipe

            cls = find_recipe(self.recipe)
            kinds = hints(cls)
            self.kinds = {field.name: kinds[field.name] for field in fields(cls)}
        return self.kinds


def check_operands(name: str, operand: str, operands: list[str], kinds: dict[str, object]) -> None:
    """Raises: Misuse where a recipe or run folder is missing, or something is there beside it."""
    kind = kinds.get(operand)
    if typing.get_origin(kind) is tuple:
        if not operands:
            raise Misuse(f"`protorl {name}` needs at least one run folder, such as `protorl {name} runs/mine`")
        return
    if not operands and operand and name != "doctor":
        raise Misuse(f"`protorl {name}` needs {OPERANDS[operand].format(name)}")
    if len(operands) > bool(operand):
        word = operands[bool(operand)]
        takes = f"takes one {operand.replace('_dir', ' folder')}" if operand else "takes nothing"
        if "set" in kinds and "=" in word:
            takes += f": write --set {word}"
        elif "set" in kinds and "-v" in word:
            takes += f": write --env {word}"
        elif "set" in kinds:
            takes += "; fields are --KEY VALUE, several values are joined by commas"
        raise Misuse(f"{word!r} is one word too many: `protorl {name}` {takes}")


def unknown(name: str, operands: list[str], flag: str, key: str, options: list[str], fields: list[str]) -> str:
    """The sentence for an option that is none."""
    names = [*options, *(field for field in fields if field not in options)]
    near = meant(key, names)
    command = " ".join(["protorl", name, *(operands[:1] if fields else [])])
    if fields and key in ALSO.values():
        return f"{operands[0]} learns from what it just did itself: {flag} is for recipes with a replay memory (dqn, sac, ...)"
    if near is not None:
        return f"`{command}` has no option {flag}: did you mean --{near.replace('_', '-')}?"
    if not names:
        return f"`{command}` has no option {flag}: it has none but --help"
    return f"`{command}` has no option {flag}: it has {listed(('--' + each.replace('_', '-') for each in names), 'and')}"


def checked(flag: str, key: str, value: str | None, kind: object) -> str:
    """The value of an option as its type wants it. Raises: Misuse."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    choices = [choice for one in options if typing.get_origin(one) is typing.Literal for choice in typing.get_args(one)]
    if value is None:
        example = choices[0] if choices else EXAMPLES.get(key, "1000" if int in options else "0.1")
        raise Misuse(f"{flag} needs a value, such as {flag} {example}")
    if value.lower() == "none" and type(None) in options:
        return "None"
    if choices and value not in choices:
        raise Misuse(f"{flag} {value!r} is unknown: use {listed(choices)}")
    if int in options:
        number = whole(value)
        if number is None:
            raise Misuse(f"{flag} {value!r} is no whole number: write it as 1000000, 1_000_000, 1e6 or 1M")
        return str(number)
    if float in options:
        try:
            float(value)
        except ValueError:
            raise Misuse(f"{flag} {value!r} is no number: write it as 0.001 or 1e-3") from None
    if Path in options and not value:
        raise Misuse(f"{flag} is empty: give a path, such as {EXAMPLES.get(key, 'runs/mine')}")
    return value


def describe(words: list[str]) -> str:
    """The help page of a recipe: its fields for --set, with the values they have for the environment that was typed."""
    from protorl.recipes.fields import parse_settings, table
    from protorl.recipes.find import find_recipe
    from protorl.recipes.presets import tuned_for

    cls = find_recipe(words[0])
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    typed = [f"{word[2:]}={value}" for word, value in pairwise(words) if word in ("--env", "--protocol")]
    recipe = cls(**parse_settings(cls, typed))
    rows = table(recipe)
    width = max(len(name) for name, _, _ in rows)
    lines = [f"  {name:<{width}}  {value}  - {text}" for name, value, text in rows]
    tuned = f"Tuned for {tuned_for(cls.presets)}." if cls.presets else ""
    summary = (cls.__doc__ or "").split("\n")[0]
    head = f"{summary}\n\nPaper: {cls.paper or 'none named'}. {tuned}\n\n"
    return f"{head}Fields, for --KEY VALUE or --set KEY=VALUE, with their values for {recipe.env}:\n\n" + "\n".join(lines)
