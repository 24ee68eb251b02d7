"""Figures have the digits that their spread makes meaningful."""

from __future__ import annotations

import math

import pytest

from protorl.digits import figure, interval, plus_minus


@pytest.mark.parametrize(
    ("value", "spread", "shown"),
    [
        (0.8812, 0.0543, "0.881 ± 0.054"),
        (500.0, 0.0, "500.0 ± 0.0"),
        (1234.4, 56.1, "1234 ± 56"),
        (123456.7, 5678.9, "123457 ± 5679"),
        (-143.47, 89.04, "-143 ± 89"),
        (0.5, 0.0996, "0.50 ± 0.10"),  # the spread decides as it rounds
        (9.96, 9.96, "10 ± 10"),
        (300.0, 1e-13, "300.0 ± 0.0"),  # what summing floats leaves is no spread
        (1e-13, 2e-13, "0.00000000000010 ± 0.00000000000020"),
        (1.25, None, "1.2"),
        (1.25, math.nan, "1.2 ± nan"),
        (math.nan, math.nan, "nan ± nan"),
    ],
)
def test_two_digits_of_the_spread(value, spread, shown):
    assert plus_minus(value, spread) == shown


def test_the_ends_of_an_interval_have_the_digits_of_half_its_width():
    assert interval(96.43, 22.81, 164.0) == ("96", "23", "164")
    assert interval(0.8812, 0.8301, 0.9376) == ("0.881", "0.830", "0.938")
    assert interval(500.0, 500.0, 500.0) == ("500.0", "500.0", "500.0")


def test_a_figure_alone():
    assert figure(409.14, 123.4) == "409"
    assert figure(-0.0123, 0.00456) == "-0.0123"
