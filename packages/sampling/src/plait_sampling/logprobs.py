"""Logprobs from raw logits: the k best tokens of each row, and the chosen token with its rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALL", "LogprobsTensors", "TokenLogprobs", "gather_logprobs", "prompt_logprobs"]

ALL = -1
"""As k: the whole vocabulary."""

CHUNK = 256
"""Rows of a prompt whose logprobs are worked out at a time: bounds the float32 temporaries."""


@dataclass(frozen=True, eq=False)
class LogprobsTensors:
    """Logprobs of some rows of a batch, still on the device.

    Attributes
    ----------
    token_ids : Tensor, int64 [asked, k + 1]
        The row's token first, then the k best; k is the largest that a row asked for.
    logprobs : Tensor, float32 [asked, k + 1]
    ranks : Tensor, int64 [asked]
    places : tuple[int, ...]
        Which row of the batch each entry is.
    counts : tuple[int, ...]
        The k of each entry; ``ALL`` for the whole vocabulary.
    """

    token_ids: torch.Tensor
    logprobs: torch.Tensor
    ranks: torch.Tensor
    places: tuple[int, ...]
    counts: tuple[int, ...]

    def to_host(self, rows: int) -> list[TokenLogprobs | None]:
        """Copy to the host and cut each entry to its own k.

        Parameters
        ----------
        rows : int
            Rows of the batch.

        Returns
        -------
        list[TokenLogprobs | None]
            One a row, of one token; None for rows that did not ask.
        """
        token_ids = self.token_ids.to("cpu", torch.int32).numpy()
        logprobs = self.logprobs.cpu().numpy()
        ranks = self.ranks.to("cpu", torch.int32).numpy()
        by_row: list[TokenLogprobs | None] = [None] * rows
        for entry, (place, count) in enumerate(zip(self.places, self.counts, strict=True)):
            one = slice(entry, entry + 1)
            width = token_ids.shape[1] if count == ALL else min(count + 1, token_ids.shape[1])
            # Copies, so that one kept token does not keep the whole batch alive.
            by_row[place] = TokenLogprobs(
                token_ids[one, :width].copy(), logprobs[one, :width].copy(), ranks[one].copy()
            )
        return by_row


def gather_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Work out the logprobs of one token a row and of the k best.

    Parameters
    ----------
    logits : Tensor, float32 [rows, vocab]
        Raw logits, not modified.
    token_ids : Tensor, int64 [rows]
        The token of each row.
    k : int
        0..vocab, or ``ALL``.

    Returns
    -------
    token_ids : Tensor, int64 [rows, k + 1]
        The row's token first, then the k best in falling order.
    logprobs : Tensor, float32 [rows, k + 1]
    ranks : Tensor, int64 [rows]
        1 + the number of tokens with a strictly larger logprob.
    """
    vocab = logits.shape[-1]
    k = vocab if k == ALL else min(k, vocab)
    logprobs = logits.float().log_softmax(dim=-1)
    token_column = token_ids.to(torch.int64).unsqueeze(-1)  # [rows, 1]
    chosen = logprobs.gather(-1, token_column)  # [rows, 1]
    ranks = 1 + (logprobs > chosen).sum(dim=-1)
    if k == 0:
        return token_column, chosen, ranks
    best, best_ids = logprobs.topk(k, dim=-1)  # [rows, k]
    return torch.cat([token_column, best_ids], -1), torch.cat([chosen, best], -1), ranks


def sampled_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, places: Sequence[int], counts: Sequence[int]
) -> LogprobsTensors:
    """Work out the logprobs of the rows of a batch that asked for them.

    Parameters
    ----------
    logits : Tensor, float32 [asked, vocab]
        Raw logits of the rows that asked.
    token_ids : Tensor, int64 [asked]
        What was drawn for them.
    places, counts : Sequence[int]
        As in LogprobsTensors.
    """
    k = ALL if ALL in counts else max(counts)
    ids, logprobs, ranks = gather_logprobs(logits, token_ids, k)
    return LogprobsTensors(ids, logprobs, ranks, tuple(places), tuple(counts))


def prompt_logprobs(logits: torch.Tensor, next_token_ids: torch.Tensor, k: int) -> TokenLogprobs:
    """Work out the logprobs of prompt tokens.

    Parameters
    ----------
    logits : Tensor, float32 [positions, vocab]
        Raw logits at the positions before those tokens.
    next_token_ids : Tensor, int64 [positions]
        The prompt token that follows each position.
    k : int
        How many of the best tokens to return; ``ALL`` = the whole vocabulary.

    Returns
    -------
    TokenLogprobs
        Of ``next_token_ids``, on the host.
    """
    width = logits.shape[-1] if k == ALL else min(k, logits.shape[-1])
    parts = [_empty(width)]
    for start in range(0, len(logits), CHUNK):
        chunk = slice(start, start + CHUNK)
        ids, logprobs, ranks = gather_logprobs(logits[chunk], next_token_ids[chunk], k)
        parts.append(
            TokenLogprobs(
                ids.to("cpu", torch.int32).numpy(),
                logprobs.cpu().numpy(),
                ranks.to("cpu", torch.int32).numpy(),
            )
        )
    return TokenLogprobs.concatenate(parts)


def _empty(k: int) -> TokenLogprobs:
    shape = (0, k + 1)
    return TokenLogprobs(
        np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(0, np.int32)
    )
