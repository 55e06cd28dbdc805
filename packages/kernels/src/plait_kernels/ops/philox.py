"""Philox4x32-10 in plain integers: the random numbers that ``sample`` draws from.

A counter-based generator: the number for (seed, position) needs no state, so any backend, batch
and replay gets the same one. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""Of words 0 and 2 of the counter, in each round."""

KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
"""Added to the two words of the key after each round: the golden ratio and √3 - 1."""

ROUNDS = 10

WORD = 0xFFFFFFFF
"""Mask of one 32-bit word."""


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the four random words of a counter under a key, all of them 32 bits unsigned."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & WORD,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & WORD, (k1 + KEY_INCREMENTS[1]) & WORD
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1), a multiple of 2⁻⁵³, of a seed and a position.

    Parameters
    ----------
    seed, position : int
        Signed or unsigned 64 bits; a negative number is taken as its two's complement.
    """
    key = (seed & WORD, seed >> 32 & WORD)
    counter = (position & WORD, position >> 32 & WORD, 0, 0)
    word0, word1, _, _ = philox4x32(counter, key)
    return float((word0 << 21) + (word1 >> 11)) * 2.0**-53
