"""Arithmetic of sizes on the host.

Triton has functions of these meanings; they also work in kernels, and cost a microsecond a call.
"""

from __future__ import annotations


def ceil_div(number: int, divisor: int) -> int:
    """Return ``number / divisor``, rounded up; both at least 0, the divisor at least 1.

    >>> ceil_div(8, 4), ceil_div(9, 4)
    (2, 3)
    """
    return -(-number // divisor)


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not less than ``number``; 1 for 0.

    >>> power_of_two(8), power_of_two(9), power_of_two(0)
    (8, 16, 1)
    """
    return 1 << (number - 1).bit_length() if number > 1 else 1
