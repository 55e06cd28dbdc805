"""Philox4x32-10 (see ``plait_kernels.ops.philox``) on int64 tensors that hold 32-bit words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.ops.philox import KEY_INCREMENTS, MULTIPLIERS, ROUNDS, WORD

if TYPE_CHECKING:
    import torch


def philox4x32(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    key: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the random words of each counter under its key.

    Parameters
    ----------
    counter : tuple of four Tensors, int64 [n]
    key : tuple of two Tensors, int64 [n]
        Words from 0 to 2³² - 1.

    Returns
    -------
    tuple of four Tensors, int64 [n]
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & WORD, (k1 + KEY_INCREMENTS[1]) & WORD
    return c0, c1, c2, c3


def _multiply(word: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and low words of a product of two 32-bit words.

    The product has 64 bits unsigned and wraps around in int64. Its bits are right; the shift to
    the right copies the sign bit, which the mask takes away.
    """
    product = word * multiplier
    return (product >> 32) & WORD, product & WORD


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return the number in [0, 1) of each seed and position.

    Parameters
    ----------
    seed, position : Tensor, int64 [n]

    Returns
    -------
    Tensor, float64 [n]
    """
    zero = position.new_zeros(position.shape)
    counter = (position & WORD, (position >> 32) & WORD, zero, zero)
    word0, word1, _, _ = philox4x32(counter, (seed & WORD, (seed >> 32) & WORD))
    return ((word0 << 21) + (word1 >> 11)).double() * 2.0**-53
