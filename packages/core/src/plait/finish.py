"""Whether a request's newest token ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait.request import Request


def finish_of(request: Request, max_model_len: int) -> tuple[str | None, int | None]:
    """Return (finish_reason, stop_reason) after a token was appended, (None, None) to go on.

    An end-of-sequence token gives ("stop", None), one of ``stop_token_ids`` ("stop", the token).
    """
    params = request.params
    token = request.tokens[-1]
    generated = len(request.tokens) - request.prompt_length
    if generated >= (params.min_tokens or 0):
        if not params.ignore_eos and token in request.message.eos_token_ids:
            return "stop", None
        if token in (params.stop_token_ids or ()):
            return "stop", token
    at_limit = params.max_tokens is not None and generated >= params.max_tokens
    if at_limit or len(request.tokens) >= max_model_len:
        return "length", None
    return None, None
