"""How many digits a figure is shown with: as many as its spread makes meaningful."""

from __future__ import annotations

import math


def decimals(value: float, spread: float | None) -> int:
    """Decimals of a figure whose interval, or standard deviation, is `spread`: down to the spread's second significant digit,
    none where that is not a decimal; one where the spread is unknown, or 0 but for the rounding of floats."""
    if spread is None or not 1e-9 * abs(value) < spread < math.inf:
        return 1
    return max(1 - int(f"{spread:.1e}".partition("e")[2]), 0)  # as it rounds: 0.0996 is 0.10


def figure(value: float, spread: float | None) -> str:
    """`0.881` where the spread is 0.054, `1234` where it is 56."""
    return f"{value:.{decimals(value, spread)}f}"


def plus_minus(value: float, spread: float | None) -> str:
    """`0.881 ± 0.054`, `500.0 ± 0.0`, `1234 ± 56`; the value alone where the spread is unknown."""
    return figure(value, spread) if spread is None else f"{figure(value, spread)} ± {spread:.{decimals(value, spread)}f}"


def interval(mean: float, low: float, high: float) -> tuple[str, str, str]:
    """A mean and the ends of its interval, with the digits that half of the interval's width has."""
    digits = decimals(mean, (high - low) / 2)
    return f"{mean:.{digits}f}", f"{low:.{digits}f}", f"{high:.{digits}f}"
