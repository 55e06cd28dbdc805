"""TextEncoder: from a prompt's text to its tokens; what cannot fit is refused before that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.text_bounds import longest_text
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from plait.tokenizer import Tokenizer


_USUAL = 16
"""Characters a token that need no thought: every vocabulary has longer tokens."""


def check_unicode(what: str, text: str) -> None:
    """Refuse text that no tokenizer can take.

    Raises
    ------
    InputError
        It has half of a surrogate pair, as JSON with a lone ``\\ud83d`` gives.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = (
            f"{what} is not Unicode text: got a lone surrogate, {text[error.start]!r}, at "
            f"character {error.start}. Decode it properly, or replace such characters."
        )
        raise InputError(message) from None


def encoding(tokenizer: Tokenizer, text: str, **options: bool) -> dict[str, list[int]]:
    """Return what a tokenizer makes of a text; the options are those of its call.

    Raises
    ------
    InputError
        The tokenizer cannot take the text.
    """
    check_unicode("the prompt", text)
    try:
        made: dict[str, list[int]] = tokenizer(text, **options)
    except Exception as error:  # whatever a tokenizer makes of text that anybody wrote
        message = f"the tokenizer cannot take the prompt: {type(error).__name__}: {error}"
        raise InputError(message[:500]) from error
    return made


def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Return the tokens of a text; errors are those of ``encoding``."""
    return encoding(tokenizer, text, add_special_tokens=add_special_tokens)["input_ids"]


class TextEncoder:
    """Encodes the prompts of one engine; for any thread.

    Parameters
    ----------
    tokenizer : Tokenizer
    max_model_len : int
        Longest sequence, in tokens.
    """

    def __init__(self, tokenizer: Tokenizer, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._longest: tuple[int, int | None] | None = None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt.

        Raises
        ------
        InputError
            It is too long whatever its tokens are, or the tokenizer cannot take it.
        """
        longest = self._longest_text() if len(text) > _USUAL * self._max_model_len else None
        if longest is not None and len(text) > longest:
            message = (
                f"the prompt is too long: got {len(text)} characters, and this tokenizer makes "
                f"more than {self._max_model_len - 1} tokens of any text above {longest} "
                f"(max_model_len={self._max_model_len}, less one token of output). "
                "Shorten the prompt or raise max_model_len."
            )
            raise InputError(message)
        return encode(self._tokenizer, text)

    def _longest_text(self) -> int | None:
        # Tokens may be added to a tokenizer at any time.
        size = len(self._tokenizer)
        if self._longest is None or self._longest[0] != size:
            self._longest = size, longest_text(self._tokenizer, self._max_model_len - 1)
        return self._longest[1]
