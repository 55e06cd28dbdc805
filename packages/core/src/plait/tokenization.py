"""tokenization_kwargs: how the prompts of one call are turned into tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from plait.prompts import ParsedPrompt
from plait.text_encoder import encoding
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from plait.tokenizer import Tokenizer

_SERVED = ("add_special_tokens", "truncate_prompt_tokens", "truncation_side")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": (None, False),
    "max_length": (None,),
    "needs_detokenization": (None, False, True),
    "pad_prompt_tokens": (None,),
    "padding": (None, False, "do_not_pad"),
    "truncation": (None, False, "do_not_truncate"),
}


@dataclass(frozen=True)
class Tokenization:
    """How to make tokens of a prompt.

    Attributes
    ----------
    add_special_tokens : bool
        Let the tokenizer add its special tokens, such as the beginning of the sequence.
    truncate_prompt_tokens : int | None
        Keep so many tokens of a prompt at most; −1 = what max_model_len leaves room for.
    truncation_side : str | None
        "left" cuts the beginning off, "right" the end, whatever token is there. None: as "left",
        but the special tokens that the tokenizer adds to a text are kept.
    """

    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None

    @classmethod
    def from_keywords(
        cls, keywords: Mapping[str, Any] | None, *, add_special_tokens: bool = True
    ) -> Self:
        """Check ``tokenization_kwargs``.

        Parameters
        ----------
        keywords : Mapping[str, Any] | None
        add_special_tokens : bool
            Where the keywords do not say it.

        Raises
        ------
        InputError
            A keyword or a value is not served.
        """
        if keywords is not None and not isinstance(keywords, Mapping):
            text = f"tokenization_kwargs must be a dict or None, got {type(keywords).__name__}"
            raise InputError(text)
        given = dict(keywords or {})
        for name, value in given.items():
            if name not in _SERVED:
                _refuse_unless_neutral(name, value)
        special = given.get("add_special_tokens", add_special_tokens)
        limit, side = given.get("truncate_prompt_tokens"), given.get("truncation_side")
        if not isinstance(special, bool):
            text = f"add_special_tokens of tokenization_kwargs must be a bool, got {shown(special)}"
            raise InputError(text)
        whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and not (whole and (limit == -1 or limit >= 1)):
            text = (
                "truncate_prompt_tokens of tokenization_kwargs must be at least 1, or -1 for what "
                f"max_model_len leaves room for; got {shown(limit)}"
            )
            raise InputError(text)
        if side not in (None, "left", "right"):
            text = (
                "truncation_side of tokenization_kwargs must be 'left', 'right' or None, got "
                f"{shown(side)}"
            )
            raise InputError(text)
        return cls(special, limit, side)

    def apply(
        self, prompt: ParsedPrompt, tokenizer: Tokenizer | None, max_model_len: int
    ) -> ParsedPrompt:
        """Return the prompt with its tokens.

        Parameters
        ----------
        prompt : ParsedPrompt
            Token ids are only cut.
        tokenizer : Tokenizer | None
            Needed for a text.
        max_model_len : int

        Raises
        ------
        InputError
            There are more tokens to be kept than max_model_len leaves room for.
        """
        limit = self.truncate_prompt_tokens
        if limit == -1:
            limit = max_model_len - 1
        if limit is not None and limit >= max_model_len:
            text = (
                f"truncate_prompt_tokens={shown(limit)} of tokenization_kwargs is too much: "
                f"allowed: at most {max_model_len - 1} (max_model_len={max_model_len}, less one "
                "token of output), or -1 for that"
            )
            raise InputError(text)
        ids, first, last = self._ids(prompt, tokenizer)
        if limit is not None and len(ids) > limit:
            if self.truncation_side == "right":
                ids = ids[:limit]
            elif self.truncation_side == "left" or first + last >= limit:
                ids = ids[-limit:]
            else:
                end = len(ids) - last
                ids = ids[:first] + ids[end - (limit - first - last) : end] + ids[end:]
        return ParsedPrompt(prompt.text, ids, prompt.cache_salt)

    def _ids(self, prompt: ParsedPrompt, tokenizer: Tokenizer | None) -> tuple[list[int], int, int]:
        """Return the tokens, and how many of the first and the last ones were added to the text."""
        if prompt.token_ids is not None:
            return prompt.token_ids, 0, 0
        if tokenizer is None:
            text = (
                "a text needs a tokenizer, and the engine has none: it was made with "
                "skip_tokenizer_init=True. Pass token ids"
            )
            raise InputError(text)
        encoded = encoding(
            tokenizer,
            prompt.text or "",
            add_special_tokens=self.add_special_tokens,
            return_special_tokens_mask=True,
        )
        added: list[int] = encoded["special_tokens_mask"]
        ids: list[int] = encoded["input_ids"]
        first = next((i for i, mark in enumerate(added) if not mark), len(added))
        last = next((i for i, mark in enumerate(reversed(added)) if not mark), 0)
        return ids, first, last


def _refuse_unless_neutral(name: Any, value: Any) -> None:
    neutral = _NEUTRAL.get(name)
    if neutral is None:
        text = (
            f"tokenization_kwargs has {shown(name)}, which is not served; allowed: "
            f"{', '.join(_SERVED)}"
        )
        raise InputError(text)
    if not any(type(value) is type(item) and value == item for item in neutral):
        text = (
            f"{name}={shown(value)} of tokenization_kwargs is not served; leave it out (allowed: "
            f"{', '.join(_SERVED)})"
        )
        raise InputError(text)
