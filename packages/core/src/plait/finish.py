"""Whether a request's newest token ends it, or that there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plait.messages import ErrorInfo
from plait_kernels.errors import AdapterError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.request import Request
    from plait_sampling.token_logprobs import TokenLogprobs


def finish_of(
    request: Request, tokens: Sequence[int], max_model_len: int
) -> tuple[str | None, int | None]:
    """Return (finish_reason, stop_reason) of a request that gets ``tokens``; None: it goes on.

    An end-of-sequence token gives ("stop", None), one of ``stop_token_ids`` ("stop", the token).
    """
    params = request.params
    token = tokens[-1]
    length = len(request.tokens) + len(tokens)
    generated = length - request.prompt_length
    if generated >= (params.min_tokens or 0):
        if not params.ignore_eos and token in request.message.eos_token_ids:
            return "stop", None
        if token in (params.stop_token_ids or ()):
            return "stop", token
    at_limit = params.max_tokens is not None and generated >= params.max_tokens
    if at_limit or length >= max_model_len:
        return "length", None
    return None, None


def fault_of(
    request: Request, tokens: Sequence[int], *logprobs: TokenLogprobs | None
) -> ErrorInfo | None:
    """Say why a request cannot go on after what a step gave it; None: it can.

    Parameters
    ----------
    request : Request
    tokens : Sequence[int]
        Drawn for it; −1 where none could be.
    *logprobs : TokenLogprobs | None
        Of those, and of its prompt.
    """
    drawn = min(tokens, default=0) >= 0
    asked = [part for part in logprobs if part is not None]
    if drawn and not (asked and any(map(_has_nan, asked))):
        return None
    params = request.params
    generated = len(request.tokens) - request.prompt_length
    text = f"no token can be drawn after {generated} output tokens: "
    if not drawn and (params.allowed_token_ids or params.logit_bias or params.min_tokens):
        text += (
            "the logits are not finite numbers, or allowed_token_ids, min_tokens and logit_bias "
            "leave no token. Check these parameters, and "
        )
    else:
        text += "the logits are not finite numbers (NaN or infinite). Check "
    text += "the adapter's weights and scale." if request.mix else "the model's weights and dtype."
    return ErrorInfo.of(AdapterError(text) if request.mix else InputError(text))


def _has_nan(logprobs: TokenLogprobs) -> bool:
    return bool(np.isnan(logprobs.logprobs).any())
