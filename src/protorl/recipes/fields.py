"""Fields of a recipe: a hyperparameter with its meaning, its unit, its range, and the paper's value."""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

from protorl.data import ProtoRLError
from protorl.words import meant, whole

BEYOND = 10**18
"""Whole numbers from here on would not fit into what counts them."""
Fields: TypeAlias = dict[str, dataclasses.Field[Any]]
NOT_OF_PAPERS = {"steps", "protocol", "threads", "eval_every", "eval_epsilon", "checkpoint_every"}
"""Fields in which a preset is our own choice."""


class Dataclass(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[Fields]


def hp(
    default: object,
    help: str,
    *,
    unit: str = "",
    paper: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    tunable: bool = False,
) -> Any:
    """A dataclass field that documents itself: meaning, unit, the paper's value, and the range [low, high] or choices.
    tunable: a resumed training may have another value (`protorl.recipes.changes` says it of our own fields)."""
    metadata = {"help": help, "unit": unit, "paper": paper, "low": low, "high": high, "choices": choices, "tunable": tunable}
    return hp_field(default, metadata)


def hp_field(default: object, metadata: Mapping[str, object]) -> Any:
    """A dataclass field with this default, of which every instance gets its own copy where it can be changed."""
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(recipe: Dataclass) -> None:
    """Every field of a recipe against its type, range and choices. Raises: ProtoRLError naming field, value and way out."""
    kinds = hints(type(recipe))
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        converted = coerce(field.name, value, kinds[field.name])
        object.__setattr__(recipe, field.name, converted)
        if converted is None:
            continue
        low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
        for number in converted if isinstance(converted, tuple) else (converted,):
            if isinstance(number, str):  # a word in the place of a number
                continue
            if (low is not None and number < low) or (high is not None and number > high):
                allowed = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
                allowed = f"{low}" if low == high else allowed
                raise ProtoRLError(
                    f"{field.name} {number} is out of range: it must be {allowed} {field.metadata['unit']}".rstrip()
                )
        for choice in converted if isinstance(converted, tuple) else (converted,):
            if choices and choice not in choices:
                raise ProtoRLError(f"{field.name} {choice!r} is unknown: choose one of {', '.join(choices)}")


def hints(recipe: type) -> dict[str, object]:
    """Field types of a recipe class, resolved."""
    return typing.get_type_hints(recipe)


def coerce(name: str, value: object, kind: object) -> Any:
    """`value` as the type of a field: 1e5 is an integer where it is whole; lists become tuples."""
    if isinstance(value, int) and abs(value) >= BEYOND:
        raise ProtoRLError(f"{name} is out of range: a whole number may have 18 digits")
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    options = typing.get_args(kind) if union else (kind,)
    for option in options:
        origin = typing.get_origin(option)
        if option is type(None):
            if value is None:
                return None
        elif option is bool:
            if isinstance(value, bool):
                return value
        elif option is int:
            if not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
                return int(value)
        elif option is float:
            if not isinstance(value, bool) and isinstance(value, int | float) and value == value:
                return float(value)
        elif origin is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif origin is tuple:
            if isinstance(value, list | tuple):
                return tuple(coerce(name, item, typing.get_args(option)[0]) for item in value)
        elif isinstance(value, origin or option):
            return value
    wanted = " or ".join(called(option) for option in options)
    raise ProtoRLError(f"{name} {value!r} has the wrong type: it must be {wanted}")


def called(option: Any) -> str:
    """A type, as a sentence names it."""
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(option)))
    return "nothing (None)" if option is type(None) else getattr(option, "__name__", str(option))


def parse_settings(recipe: type[Dataclass], settings: list[str]) -> dict[str, object]:
    """`["lr=1e-3", "widths=256,256"]` as keyword arguments of a recipe; a field that holds names may come several times.
    Raises: ProtoRLError for an unknown field."""
    kinds = hints(recipe)
    known = [field.name for field in dataclasses.fields(recipe)]
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ProtoRLError(f"--set {setting!r} is not key=value, such as lr=1e-3")
        if name not in known:
            raise unknown_field(name, known)
        value = parse_value(name, text.strip(), kinds[name])
        repeated = name in parsed and names_several(kinds[name])
        parsed[name] = (*parsed[name], *value) if repeated else value
    return parsed


def unknown_field(name: str, known: list[str]) -> ProtoRLError:
    """The sentence for a field that is none: the one that was probably meant, or all there are."""
    near = meant(name, known)
    return ProtoRLError(
        f"{name!r} is no field of this recipe: " + (f"did you mean {near!r}?" if near else f"its fields are {', '.join(known)}")
    )


def parse_value(name: str, text: str, kind: object) -> Any:
    """What a person typed, as the field's type."""
    words = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf}
    value: object
    if names_several(kind):
        return tuple(apart(text))
    if text.lower() in words:
        value = words[text.lower()]
    elif typing.get_origin(kind) is not tuple and int in (kind, *typing.get_args(kind)) and (number := whole(text)) is not None:
        value = number
    else:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    if kind is str and not isinstance(value, str):
        value = text
    if "tuple" in str(kind) and not isinstance(value, list | tuple | None):
        value = (value,)
    return coerce(name, value, kind)


def names_several(kind: object) -> bool:
    """Whether a field holds names: as many strings as one likes."""
    return typing.get_origin(kind) is tuple and typing.get_args(kind)[0] is str


def apart(text: str) -> list[str]:
    """The parts between commas, but for those inside brackets: "a:A,b:B(x=1, y=2)" has two."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def table(recipe: Dataclass) -> list[tuple[str, str, str]]:
    """Rows (name, value, description with unit, choices and the paper's value) of a recipe, for a help page."""
    rows = []
    for field in dataclasses.fields(recipe):
        about = field.metadata
        unit = f" [{about['unit']}]" if about.get("unit") else ""
        choices = f" ({'|'.join(about['choices'])})" if about.get("choices") else ""
        text = f"{about.get('help', '')}{unit}{choices}{cited(type(recipe), field)}"
        rows.append((field.name, str(getattr(recipe, field.name)), text))
    return rows


def cited(recipe: Any, field: dataclasses.Field[Any]) -> str:
    """The value of a field in the recipe's paper, or in the one that it was inherited from, named."""
    text, block = field.metadata.get("paper"), vars(recipe).get("presets", {}).get(recipe.paper_preset, {})
    declared = [base for base in recipe.__mro__ if stated(base, field.name) == field.metadata]
    whose = vars(declared[-1]).get("numbers", declared[-1].__dict__.get("name", ""))
    if text and whose == recipe.name:
        return f"; paper: {text}"
    if field.name in block and field.name not in NOT_OF_PAPERS:
        return f"; paper: {written(block[field.name])}"
    if not text or (not whose and recipe.__module__.split(".")[0] != "protorl"):
        return ""
    return f"; {whose or 'paper'}: {text}"


def stated(cls: Any, name: str) -> Mapping[str, object] | None:
    """What a class says of a field."""
    found = vars(cls).get("__dataclass_fields__", {}).get(name)
    return None if found is None else found.metadata


def written(value: object) -> str:
    """A value as papers write it: 2 500, 2.5e-4, none."""
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "yes", False: "no"}[value]
    return (
        f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    )
