"""Incremental detokenization: token ids in, text out as soon as it cannot change any more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.tokenizer import Tokenizer

DetokenizerState: TypeAlias = tuple[tuple[int, ...], int, str]

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"

CONTEXT = 6
"""Prompt tokens that a completion's first token is decoded with."""


class TokenDecoder:
    """What detokenization needs to know of a tokenizer, worked out once.

    Parameters
    ----------
    tokenizer : Tokenizer
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The wrapper's own decode costs several times what the Rust one does, on every token.
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        added = tokenizer.added_tokens_decoder
        named = () if tokenizer.is_fast else tokenizer.all_special_ids
        self._special = frozenset(named) | {i for i, token in added.items() if token.special}
        self._pieces: dict[int, str | None] = {}
        self._texts: dict[int, str] = {}

    def decode(self, ids: Sequence[int], *, skip_special: bool, spaces: bool = True) -> str:
        """Decode token ids as ``tokenizer.decode`` does, without cleaning up spaces.

        Parameters
        ----------
        ids : Sequence[int]
        skip_special : bool
            Leave special tokens out.
        spaces : bool
            Spaces between special tokens; a fast tokenizer has no such choice.
        """
        if self._backend is not None:
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        else:
            text = self._tokenizer.decode(
                list(ids),
                skip_special_tokens=skip_special,
                spaces_between_special_tokens=spaces,
                clean_up_tokenization_spaces=False,
            )
        return text

    def is_special(self, token_id: int) -> bool:
        """Whether skipping special tokens leaves the token out."""
        return token_id in self._special

    def is_byte(self, token_id: int) -> bool:
        """Whether the token stands for one byte that the vocabulary has no piece for."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self._tokenizer.convert_ids_to_tokens(token_id)
        piece = self._pieces[token_id]
        return piece is not None and _BYTE_TOKEN.fullmatch(piece) is not None

    def text_of(self, token_id: int) -> str:
        """Return a token alone as text."""
        if token_id not in self._texts:
            self._texts[token_id] = self.decode([token_id], skip_special=False)
        return self._texts[token_id]


class Detokenizer:
    """Text of one completion, token by token.

    The pieces that ``push`` and ``finish`` return, joined, are what decoding prompt and output
    together adds to the decoded prompt. Text is returned once no further token can change it: a
    character whose bytes are spread over tokens comes with its last one, and bytes outside the
    vocabulary's pieces come with the end of their run, as one wrong byte spoils all of a run.

    Only the tokens since the last text, and those before that gave it, are decoded again.

    Parameters
    ----------
    decoder : TokenDecoder
    prompt_token_ids : Sequence[int]
        Its last few tokens are context: they decide whether the text starts with a space.
    skip_special_tokens, spaces_between_special_tokens : bool, default True
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        prompt_token_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._decoder = decoder
        self._skip_special = skip_special_tokens
        self._spaces = spaces_between_special_tokens
        start = max(0, len(prompt_token_ids) - CONTEXT)
        # Half of a run of bytes would be decoded to other text than the whole.
        while start > 0 and decoder.is_byte(prompt_token_ids[start]):
            start -= 1
        self._window = [i for i in prompt_token_ids[start:] if not self._is_skipped(i)]
        self._known = len(self._window)
        self._known_text = self._decode(self._window)

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is certain now, often empty.

        Parameters
        ----------
        token_id : int
        """
        # Kept in the window, a long run of skipped tokens would be decoded again and again.
        if self._is_skipped(token_id):
            return ""
        self._window.append(token_id)
        if self._decoder.is_byte(token_id):
            return ""
        text = self._decode(self._window)
        if len(text) <= len(self._known_text) or text.endswith(_INCOMPLETE):
            return ""
        new = text[len(self._known_text) :]
        del self._window[: self._known]
        self._known = len(self._window)
        self._known_text = self._decode(self._window)
        return new

    def finish(self) -> str:
        """Return the text that was held back; no token may follow."""
        text = self._decode(self._window)
        new = text[len(self._known_text) :]
        self._known_text = text
        return new

    def state(self) -> DetokenizerState:
        """Return where it is, for ``restore``."""
        return tuple(self._window), self._known, self._known_text

    def restore(self, state: DetokenizerState) -> None:
        """Go back to where it was."""
        window, self._known, self._known_text = state
        self._window = list(window)

    def _is_skipped(self, token_id: int) -> bool:
        return self._skip_special and self._decoder.is_special(token_id)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(ids, skip_special=self._skip_special, spaces=self._spaces)
