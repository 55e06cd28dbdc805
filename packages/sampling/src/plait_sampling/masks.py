"""Logits processing that few rows ask for: allowed tokens, tokens held back, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.transfer import to_device, upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from plait_sampling.rows import RowExtras


def apply_allowed(logits: torch.Tensor, extras: Sequence[RowExtras]) -> None:
    """Set every token that its row does not allow to -inf.

    Parameters
    ----------
    logits : Tensor, float32 [rows, vocab]
        Modified in place; rows that allow everything are not touched.
    extras : Sequence[RowExtras]
        One a row.
    """
    limited = [place for place, extra in enumerate(extras) if extra.allowed is not None]
    if not limited:
        return
    places, tokens = _to_device(
        [(place, allowed) for place in limited if (allowed := extras[place].allowed) is not None],
        logits.device,
    )
    kept = logits[places, tokens]
    # Not by assignment: its value would be copied to the device, which is waited for.
    logits.index_fill_(0, to_device(torch.tensor(limited), logits.device), -torch.inf)
    logits[places, tokens] = kept


def hold_back(logits: torch.Tensor, extras: Sequence[RowExtras], num_output: torch.Tensor) -> None:
    """Set the tokens that would end a row before its ``min_tokens`` to -inf.

    Parameters
    ----------
    logits : Tensor, float32 [rows, vocab]
        Modified in place.
    extras : Sequence[RowExtras]
        One a row.
    num_output : Tensor, integer [rows]
        Output tokens that each row has; read on the device.
    """
    vocab = logits.shape[-1]
    # A stop token that the model does not have is legal, and never drawn.
    held_back = [
        (place, extra.ending[(extra.ending >= 0) & (extra.ending < vocab)])
        for place, extra in enumerate(extras)
        if len(extra.ending)
    ]
    if not any(len(tokens) for _, tokens in held_back):
        return
    places, tokens = _to_device(held_back, logits.device)
    least = to_device(torch.tensor([extra.min_tokens for extra in extras]), logits.device)
    short = (num_output < least)[places]
    logits[places, tokens] = logits[places, tokens].masked_fill(short, -torch.inf)


def apply_bias(logits: torch.Tensor, extras: Sequence[RowExtras]) -> None:
    """Add each row's ``logit_bias``.

    Parameters
    ----------
    logits : Tensor, float32 [rows, vocab]
        Modified in place; rows without a bias are not touched.
    extras : Sequence[RowExtras]
        One a row.
    """
    biased = [(place, extra.biased) for place, extra in enumerate(extras) if len(extra.biased)]
    if not biased:
        return
    places, tokens = _to_device(biased, logits.device)
    amounts = np.concatenate([extra.bias for extra in extras])
    logits[places, tokens] += upload(amounts, logits.device)


def replace_rows_without_a_best(logits: torch.Tensor) -> torch.Tensor:
    """Give rows of which no token can be drawn other logits: kernels promise nothing for them.

    Parameters
    ----------
    logits : Tensor, float32 [rows, vocab]
        Rows whose largest value is NaN or infinite are set to 0 in place.

    Returns
    -------
    Tensor, bool [rows]
        Which rows these are.
    """
    best = logits.amax(dim=-1)
    # Infinity less infinity is NaN, as is what NaN takes part in.
    cannot = best - best != 0
    # On a CPU looking costs nothing, and there are hardly ever any; a GPU is not waited for.
    if logits.device.type != "cpu" or bool(cannot.any()):
        logits.masked_fill_(cannot[:, None], 0.0)
    return cannot


def _to_device(
    rows: Sequence[tuple[int, npt.NDArray[np.int64]]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (place, token) of every token of some rows, int64 each."""
    tokens = [tokens for _, tokens in rows]
    places = np.repeat([place for place, _ in rows], [len(some) for some in tokens])
    both = upload(np.stack([places.astype(np.int64), np.concatenate(tokens)]), device)
    return both[0], both[1]
