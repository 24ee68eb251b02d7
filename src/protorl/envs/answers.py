"""What environments answer, field by field: taken where it is unambiguous, refused in words where it is not."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from protorl.data import MASK, Array, ArraySpec, Obs, ObsSpec, ProtoRLError

NUMBERS = frozenset({float, int, np.float64, np.float32, np.int64})
FLAGS = frozenset({bool, np.bool_})
NUMERIC = "biuf"
"""Kinds of dtypes that are real numbers."""
MEND = "mend the environment's observation_space, or what it returns"


class Refused(ProtoRLError):  # noqa: N818 - it says what happened
    """What a field holds and what it must hold; `failed` adds whose field it is."""


def number(name: str, value: object) -> float:
    """One number: Python's, NumPy's, or an array of one element. Raises Refused for anything else."""
    if type(value) in NUMBERS:
        return float(value)  # type: ignore[arg-type]
    one = element(value)
    if one is None:
        refuse(name, value, "one number")
    return float(one)


def flag(name: str, value: object) -> bool:
    """True or False: Python's, NumPy's, an array of one, or the numbers 1 and 0. Raises Refused for anything else."""
    if type(value) in FLAGS:
        return bool(value)
    one = element(value)
    if one is None or one not in (0, 1):
        refuse(name, value, "True or False")
    return bool(one)


def element(value: Any) -> float | None:
    """The number that a number, or an array of one element, is; None for anything else, such as a list."""
    if not isinstance(value, int | float) and not hasattr(value, "__array__"):
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in NUMERIC:
        return None
    one: float = array.item()
    return one


def checked_info(value: Any) -> dict[str, Any]:
    """The info as it is. Raises Refused unless it is a dict."""
    if not isinstance(value, dict):
        refuse("info", value, "a dict")
    return value


def numbers(name: str, value: Any, rows: range) -> Array:
    """[N] float64: a number for each of these rows. Raises Refused for anything else."""
    array = per_row(name, value, rows)
    if array.dtype.kind in NUMERIC:
        return np.asarray(array, np.float64)
    return np.array([number(f"{name} of row {row}", one) for row, one in zip(rows, array)])


def flags(name: str, value: Any, rows: range) -> Array:
    """[N] bool: True or False for each of these rows. Raises Refused for anything else."""
    array = per_row(name, value, rows)
    if array.dtype.kind == "b":
        return array
    return np.array([flag(f"{name} of row {row}", one) for row, one in zip(rows, array)])


def per_row(name: str, value: Any, rows: range) -> Array:
    array = as_array(value)
    if array is None or array.shape != (len(rows),):
        refuse(name, value, f"an array of shape ({len(rows)},), one per environment")
    return array


def observation(spec: ObsSpec, value: Any, *rows: int) -> Obs:
    """An observation as its space says, an array or a dict of arrays; `rows`: N of them, for N environments.

    Raises:
        Refused: another shape, a dtype that cannot hold what is seen, or no array at all.
    """
    if isinstance(spec, ArraySpec):
        return _array(spec, value, rows, "observation")
    if not isinstance(value, Mapping) or not spec.keys() <= value.keys():
        refuse("observation", value, f"a dict with {', '.join(spec)}")
    return {key: _array(leaf, value[key], rows, f"observation[{key!r}]") for key, leaf in spec.items()}


def _array(spec: ArraySpec, value: Any, rows: tuple[int, ...], name: str) -> Array:
    array, shape = as_array(value), (*rows, *spec.shape)
    if array is None or array.dtype.kind not in NUMERIC:
        refuse(name, value, f"numbers of shape {shape}")
    if array.shape != shape:
        raise Refused(f"{name} has shape {array.shape} where its space says {shape}: {MEND}")
    if array.dtype.char not in fitting(spec.dtype) and (array.dtype.kind == "f" or array.min() < 0 or array.max() > 255):
        raise Refused(f"{name} is {array.dtype} where its space says {spec.dtype}: {MEND}")
    return array


def available(whose: str, mask: Any, count: int, n: int) -> Array:
    """[n] uint8: which actions may be taken. A mask of zeros, as some environments give it where nothing can be chosen (the
    game is over, or it is another's turn), forbids nothing. Raises: Refused unless there is a number for each action."""
    array = as_array(mask)
    if array is None or array.shape != (count,) or array.dtype.kind not in NUMERIC:
        refuse(f"{MASK} of {whose}", mask, f"0 or 1 for each of {count} actions")
    may = np.zeros(n, np.uint8)
    may[:count] = array != 0
    if not may.any():
        may[:count] = 1
    return may


def fitting(dtype: np.dtype[np.generic]) -> str:
    """The characters of the dtypes whose numbers this one, uint8 or float32, can hold but for rounding."""
    return "?B" if dtype == np.uint8 else "?bBhHiIlLqQefdg"


def as_array(value: Any) -> Array | None:
    """As an array; None where NumPy makes none of it (a ragged list, say)."""
    if type(value) is np.ndarray:
        return value
    try:
        return np.asarray(value)
    except Exception:
        return None


def refuse(name: str, value: object, wanted: str) -> NoReturn:
    raise Refused(f"{name} is {brief(value)}, and must be {wanted}")


def brief(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray) and value.size > 1:
        return f"an array of {value.dtype}, shape {value.shape}"
    return reprlib.repr(value)
