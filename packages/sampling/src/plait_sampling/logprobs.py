"""Logprobs from raw logits: the k best tokens of each row, and the chosen token with its rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.transfer import Download
from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ALL",
    "LogprobsDownload",
    "SampledLogprobs",
    "TokenLogprobs",
    "gather_logprobs",
    "prompt_logprobs",
]

ALL = -1
"""As k: the whole vocabulary."""


class LogprobsDownload:
    """Logprobs of some tokens on their way to the host.

    Parameters
    ----------
    token_ids : Tensor, int64 [n, k + 1]
        The token itself first, then the k best.
    logprobs : Tensor, float32 [n, k + 1]
    ranks : Tensor, int64 [n]
    """

    def __init__(
        self, token_ids: torch.Tensor, logprobs: torch.Tensor, ranks: torch.Tensor
    ) -> None:
        self._token_ids = Download(token_ids.to(torch.int32))
        self._logprobs = Download(logprobs)
        self._ranks = Download(ranks.to(torch.int32))

    def wait(self) -> TokenLogprobs:
        """Wait until they are there."""
        return TokenLogprobs(self._token_ids.wait(), self._logprobs.wait(), self._ranks.wait())


@dataclass(frozen=True, eq=False)
class SampledLogprobs:
    """Logprobs of the rows of a batch that asked for them, on their way to the host.

    Attributes
    ----------
    download : LogprobsDownload
        One token an entry; k is the largest that a row asked for.
    places : tuple[int, ...]
        Which row of the batch each entry is.
    counts : tuple[int, ...]
        The k of each entry; ``ALL`` for the whole vocabulary.
    """

    download: LogprobsDownload
    places: tuple[int, ...]
    counts: tuple[int, ...]

    def wait(self) -> dict[int, TokenLogprobs]:
        """Wait until they are there, and cut each entry to its own k.

        Returns
        -------
        dict[int, TokenLogprobs]
            Of one token each, by row of the batch.
        """
        of_all = self.download.wait()
        widest = of_all.token_ids.shape[1]
        widths = (widest if count == ALL else min(count + 1, widest) for count in self.counts)
        # Copies, so that one kept token does not keep the whole batch alive.
        return {
            place: TokenLogprobs(
                of_all.token_ids[entry : entry + 1, :width].copy(),
                of_all.logprobs[entry : entry + 1, :width].copy(),
                of_all.ranks[entry : entry + 1].copy(),
            )
            for entry, (place, width) in enumerate(zip(self.places, widths, strict=True))
        }


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
) -> SampledLogprobs:
    """Work out the logprobs of the rows of a batch that asked for them.

    Parameters
    ----------
    logits : Tensor, float32 [asked, vocab]
        Raw logits of the rows that asked.
    token_ids : Tensor, int64 [asked]
        What was drawn for them.
    places, counts : Sequence[int]
        As in SampledLogprobs.
    """
    k = ALL if ALL in counts else max(counts)
    download = LogprobsDownload(*gather_logprobs(logits, token_ids, k))
    return SampledLogprobs(download, tuple(places), tuple(counts))


def prompt_logprobs(logits: torch.Tensor, next_token_ids: torch.Tensor, k: int) -> LogprobsDownload:
    """Work out the logprobs of prompt tokens.

    Parameters
    ----------
    logits : Tensor, float32 [positions, vocab]
        Raw logits at the positions before those tokens; their logprobs take as much memory.
    next_token_ids : Tensor, int64 [positions]
        The prompt token that follows each position.
    k : int
        How many of the best tokens to return; ``ALL`` = the whole vocabulary.

    Returns
    -------
    LogprobsDownload
        Of ``next_token_ids``.
    """
    return LogprobsDownload(*gather_logprobs(logits, next_token_ids, k))
