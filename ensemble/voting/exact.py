"""Exact sums of floats, as whole numbers.

Every finite float is a whole multiple of 2**-1074, the smallest one (IEEE 754 binary64), so sums and products of
floats are whole numbers of such units: no rounding, hence no order of summation that could show, and far faster than
fractions.
"""

from __future__ import annotations

from functools import lru_cache

ONE = 1 << 1074
"""The number 1.0 in units; a product of two numbers counts units of ``ONE * ONE``."""


def exact(number: float) -> int:
    """Give a finite float in units of 2**-1074."""
    numerator, denominator = number.as_integer_ratio()
    return numerator * (ONE // denominator)


@lru_cache(maxsize=4096)
def exact_weight(weight: float) -> int:
    """Give ``exact(weight)``, remembered: a panel votes with the same few weights again and again."""
    return exact(weight)
