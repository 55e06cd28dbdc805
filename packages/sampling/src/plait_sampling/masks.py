"""Logits processing that few rows ask for: allowed tokens, tokens held back, biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_kernels.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    pairs = [(place, token) for place in limited for token in extras[place].allowed or ()]
    places, tokens = _to_device(pairs, logits.device)
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
    pairs = [
        (place, token)
        for place, extra in enumerate(extras)
        for token in extra.ending
        if 0 <= token < vocab
    ]
    if not pairs:
        return
    places, tokens = _to_device(pairs, logits.device)
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
    pairs = [(place, token) for place, extra in enumerate(extras) for token in extra.logit_bias]
    if not pairs:
        return
    places, tokens = _to_device(pairs, logits.device)
    amounts = [amount for extra in extras for amount in extra.logit_bias.values()]
    logits[places, tokens] += to_device(torch.tensor(amounts, dtype=logits.dtype), logits.device)


def _to_device(
    pairs: Sequence[tuple[int, int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    places, tokens = to_device(
        torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous(), device
    )
    return places, tokens
