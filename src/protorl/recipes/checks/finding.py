"""What a check says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from protorl.data import ProtoRLError


class Finding(NamedTuple):
    """What a check found: `passed` is None where it does not apply; the sentence says what was seen, and where."""

    name: str
    passed: bool | None
    sentence: str


Verdict = tuple[bool | None, str]


def sentence_of(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["without a word"])[0]
    return line if isinstance(error, ProtoRLError) else f"{type(error).__name__}: {line}"


def found(name: str, check: Callable[..., Verdict], *arguments: Any) -> Finding:
    """A check's finding; whatever it raises is a failure of one sentence."""
    try:
        return Finding(name, *check(*arguments))
    except Exception as error:
        return Finding(name, False, sentence_of(error))


def listed(names: list[str]) -> str:
    """Names in a sentence, the first few."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
