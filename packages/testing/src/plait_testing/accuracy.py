"""Expected: the exact result of a call, and how far from it a right one may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.ops.contract import FLOAT32_SUMS

if TYPE_CHECKING:
    from plait_kernels.ops.contract import Accuracy

LONG_ROW = 256
"""From so many elements on, a row tells the error that they share from the errors of each."""

DEVIATIONS = 5
"""How many standard deviations errors that have nothing in common may seem to share."""


@dataclass(frozen=True, eq=False)
class Expected:
    """One result of a call. See ``plait_kernels.ops.contract.Accuracy``.

    Attributes
    ----------
    exact : Tensor
        On the CPU: float64, or, where the result must be the reference's bits, as it is.
    dtype : torch.dtype
        Of a right result.
    magnitude : Tensor, float64 | None
        Of the terms that each element is the sum of; None where the bits must be equal.
    accuracy : Accuracy | None
    """

    exact: torch.Tensor
    dtype: torch.dtype
    magnitude: torch.Tensor | None = None
    accuracy: Accuracy | None = None

    def objection(self, found: torch.Tensor, *, is_cut: bool = False) -> str:
        """Say how a result of the right shape and dtype differs; empty if it is right.

        Parameters
        ----------
        found : Tensor
        is_cut : bool
            Whether digits are cut off where they should be rounded.
        """
        got = found.detach().cpu()
        if self.accuracy is None or self.magnitude is None:
            # NaN has one bit pattern here: nobody computes it.
            wrong = ~((got == self.exact) | (got.isnan() & self.exact.isnan()))
            return _describe(wrong, got, self.exact, None)
        unit = torch.finfo(self.dtype).eps / (1 if is_cut else 2)
        bound = self._bound(self.accuracy, self.magnitude, unit)
        wrong = _is_wrong(got, self.exact, bound)
        if wrong.any() or not self.accuracy.is_norm or is_cut:
            return _describe(wrong, got, self.exact, bound)
        return self._shared_error(got.double(), self.accuracy, unit)

    def _bound(self, accuracy: Accuracy, magnitude: torch.Tensor, unit: float) -> torch.Tensor:
        # Where numbers are so small that they have fewer digits; float32 may flush them to zero.
        least = max(torch.finfo(self.dtype).tiny * unit, torch.finfo(torch.float32).tiny)
        return (
            accuracy.roundings * (unit * self.exact.abs() + 2 * least)
            + (accuracy.inner * unit + FLOAT32_SUMS) * magnitude
        )

    def _shared_error(self, got: torch.Tensor, accuracy: Accuracy, unit: float) -> str:
        """Say whether the elements of a row are all too large, or all too small, by one factor."""
        if got.shape[-1] < LONG_ROW or not got.shape[0]:
            return ""
        usable = self.exact.isfinite().all(-1) & got.isfinite().all(-1)
        exact, got = self.exact[usable], got[usable]
        square = exact.square().sum(-1)
        shared = ((got - exact) * exact).sum(-1) / square
        by_chance = unit / 3**0.5 * exact.pow(4).sum(-1).sqrt() / square
        limit = accuracy.roundings * DEVIATIONS * by_chance + FLOAT32_SUMS
        # A row of zeros says nothing.
        wrong = (shared.abs() > limit) & (square > 0)
        if not wrong.any():
            return ""
        row = int(wrong.nonzero()[0])
        return (
            f"in {int(wrong.sum())} of {len(wrong)} rows all elements are off by one factor, in "
            f"row {row} by {shared[row]:+.2g} (at most {limit[row]:.2g} can be chance): the sum "
            "over a row must be float32"
        )


def _is_wrong(got: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    right = ((got.double() - exact).abs() <= bound) & exact.isfinite()
    # What is too large for the dtype is infinite, or the largest number that there is.
    most = torch.finfo(got.dtype).max
    overflows = exact.abs() + bound >= most
    right |= overflows & (got.double().abs() >= most * (1 - 2**-6)) & (got.sign() == exact.sign())
    return ~(right | (got.isnan() & exact.isnan()))


def _describe(
    wrong: torch.Tensor, got: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor | None
) -> str:
    count = int(wrong.sum())
    if not count:
        return ""
    if bound is None:
        place = tuple(wrong.nonzero()[0].tolist())
        allowed = ""
    else:
        excess = (got.double() - exact).abs() / bound
        excess[~wrong] = -1
        excess.nan_to_num_(nan=torch.inf)
        place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        allowed = f", which may be off by {bound[place]:.2g}"
    return (
        f"{count} of {wrong.numel()} elements are wrong; at {list(place)} it is "
        f"{got[place].item():.8g} instead of {exact[place].item():.8g}{allowed}"
    )
