"""Logprobs as callers get them: a dict a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.outputs import Logprob

if TYPE_CHECKING:
    from plait.detokenizer import TokenDecoder
    from plait_sampling.logprobs import TokenLogprobs


def make_logprobs(
    logprobs: TokenLogprobs, decoder: TokenDecoder | None
) -> list[dict[int, Logprob]]:
    """Turn arrays into one dict a token.

    Parameters
    ----------
    logprobs : TokenLogprobs
    decoder : TokenDecoder | None
        None: tokens without text.

    Returns
    -------
    list[dict[int, Logprob]]
        In each the token itself first, then the best ones in falling order.
    """
    made = []
    arrays = (logprobs.token_ids, logprobs.logprobs, logprobs.ranks)
    rows = zip(*(array.tolist() for array in arrays), strict=True)
    for ids, values, rank in rows:
        entry: dict[int, Logprob] = {}
        for place, (token, value) in enumerate(zip(ids, values, strict=True)):
            if token not in entry:
                text = None if decoder is None else decoder.text_of(token)
                entry[token] = Logprob(value, place or rank, text)
        made.append(entry)
    return made
