"""Prompts: the forms they may have, and checks of their tokens."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NotRequired, TypeAlias, TypedDict

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError


class TextPrompt(TypedDict):
    """A prompt as text.

    Attributes
    ----------
    prompt : str
    cache_salt : str, optional
        Requests share cached prefixes only within one salt.
    """

    prompt: str
    cache_salt: NotRequired[str | None]


class TokensPrompt(TypedDict):
    """A prompt as token ids.

    Attributes
    ----------
    prompt_token_ids : list[int]
    prompt : str, optional
        The text that they stand for. It is kept for the output, and not read.
    cache_salt : str, optional
        Requests share cached prefixes only within one salt.
    """

    prompt_token_ids: list[int]
    prompt: NotRequired[str | None]
    cache_salt: NotRequired[str | None]


Prompt: TypeAlias = str | list[int] | TextPrompt | TokensPrompt
"""The forms of one prompt."""

PromptType = Prompt
"""vLLM's name for the forms of one prompt."""

_KEYS = ("prompt", "prompt_token_ids", "cache_salt")
_ONE = "the prompt"
_FORMS = 'a str, a list of token ids, {"prompt": str} or {"prompt_token_ids": list of ids}'

_MOST_TOKENS = 2**24
"""No sequence is longer; a sequence that is not a list may name far more than memory holds."""

_TEXT_ONLY = "plait serves text models only"
_IDLE: Mapping[str, str] = MappingProxyType(
    {
        "media_io_kwargs": _TEXT_ONLY,
        "mm_processor_kwargs": _TEXT_ONLY,
        "multi_modal_data": _TEXT_ONLY,
        "multi_modal_uuids": _TEXT_ONLY,
        "token_type_ids": "no served architecture reads token types",
    }
)
"""Keys of vLLM's prompts that may be there as long as they hold nothing."""

_REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "data": "prompts for plug-ins (DataPrompt) are not served",
        "data_format": "prompts for plug-ins (DataPrompt) are not served",
        "decoder_prompt": "encoder-decoder models are not served",
        "encoder_prompt": "encoder-decoder models are not served",
        "prompt_embeds": "a prompt is text or token ids, not embeddings",
    }
)

_SILENT = ("prompt_token_offsets",)
"""They say more about the same tokens."""


@dataclass(frozen=True)
class ParsedPrompt:
    """One prompt: ``text``, ``token_ids``, or the text with its tokens.

    Attributes
    ----------
    text : str | None
        Not empty, unless there are tokens, too.
    token_ids : list[int] | None
        Not empty; not yet checked against a model.
    cache_salt : str | None
    """

    text: str | None = None
    token_ids: list[int] | None = None
    cache_salt: str | None = None


def split_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    """Tell one prompt from several, without looking into each.

    Parameters
    ----------
    prompts : Prompt | Sequence[Prompt]
        A list of whole numbers is one prompt of token ids; any other list is several prompts.

    Returns
    -------
    list
        The prompts in the same order, for ``parse_prompt``.

    Raises
    ------
    InputError
        ``prompts`` is neither.
    """
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        msg = "prompts"
        raise _wrong_form(msg, prompts)
    return [prompts] if _is_token(next(iter(prompts), None)) else list(prompts)


def parse_prompt(prompt: Any) -> ParsedPrompt:
    """Bring one prompt into one form.

    Parameters
    ----------
    prompt : Prompt

    Raises
    ------
    InputError
        The prompt is empty or of another form.
    """
    if isinstance(prompt, Mapping):
        return _parse_mapping(prompt)
    if isinstance(prompt, str):
        return ParsedPrompt(text=_text(prompt))
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        return ParsedPrompt(token_ids=_tokens(prompt))
    raise _wrong_form(_ONE, prompt)


def validate_token_ids(ids: Sequence[int], vocab_size: int, max_model_len: int) -> None:
    """Check a prompt's tokens against a model.

    Parameters
    ----------
    ids : Sequence[int]
    vocab_size : int
        Ids from 0 up to this exist.
    max_model_len : int
        Tokens that prompt and output may have together; one is needed for the output.

    Raises
    ------
    InputError
        No tokens, too many, or an id outside the vocabulary.
    """
    if not ids:
        raise _empty()
    if len(ids) >= max_model_len:
        message = (
            f"the prompt is too long: got {len(ids)} tokens, allowed: at most {max_model_len - 1} "
            f"(max_model_len={max_model_len}, less one token of output). "
            "Shorten the prompt or raise max_model_len."
        )
        raise InputError(message)
    if min(ids) < 0 or max(ids) >= vocab_size:
        place, token = next(
            (place, token) for place, token in enumerate(ids) if not 0 <= token < vocab_size
        )
        message = (
            f"the prompt's token at position {place} is outside the vocabulary: got "
            f"{shown(token)}, allowed: 0 to {vocab_size - 1}. Use ids of this model's tokenizer."
        )
        raise InputError(message)


def _parse_mapping(prompt: Mapping[str, Any]) -> ParsedPrompt:
    for key, value in prompt.items():
        _check_key(key, value)
    text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    if text is None and ids is None:
        message = (
            "the prompt needs one of prompt and prompt_token_ids: got neither. Pass one of them."
        )
        raise InputError(message)
    salt = prompt.get("cache_salt")
    if salt is not None and not (isinstance(salt, str) and salt):
        message = f"cache_salt of the prompt must be a str that is not empty: got {shown(salt)}."
        raise InputError(message)
    if ids is None:
        return ParsedPrompt(text=_text(text), cache_salt=salt)
    # The tokens are what runs; the text is only told.
    if text is not None and not isinstance(text, str):
        raise _wrong_form(_ONE, text)
    return ParsedPrompt(text, _tokens(ids), salt)


def _check_key(key: Any, value: Any) -> None:
    if key in _KEYS or key in _SILENT or (key == "type" and value == "token"):
        return
    holds_nothing = value is None or (isinstance(value, Mapping) and not value)
    if key in _IDLE and holds_nothing:
        return
    reason = _IDLE.get(key) or _REFUSED.get(key)
    if reason is not None:
        message = f"the prompt has {key!r}: {reason}. Remove it (allowed: {', '.join(_KEYS)})."
        raise InputError(message)
    message = (
        f"the prompt has a key that is not served here: got {shown(key)}, allowed: "
        f"{', '.join(_KEYS)}. Remove it."
    )
    raise InputError(message)


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise _wrong_form(_ONE, text)
    if not text:
        raise _empty()
    return text


def _tokens(ids: Any) -> list[int]:
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
        raise _wrong_form(_ONE, ids)
    try:
        length = len(ids)
    except OverflowError:  # of a range
        length = sys.maxsize
    if not length:
        raise _empty()
    if length > _MOST_TOKENS:
        message = (
            f"the prompt is too long: got {length} tokens, allowed: at most {_MOST_TOKENS} in any "
            "model. Shorten the prompt."
        )
        raise InputError(message)
    if set(map(type, ids)) == {int}:
        # As good as always, and much quicker than a look at each.
        return list(ids)
    for place, token in enumerate(ids):
        if not _is_token(token):
            message = (
                f"token {place} of the prompt is not a whole number: got {shown(token)} of type "
                f"{type(token).__name__}. Allowed forms of a prompt: {_FORMS}."
            )
            raise InputError(message)
    return [int(token) for token in ids]


def _is_token(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _empty() -> InputError:
    return InputError("the prompt is empty: got no tokens, allowed: at least one. Write something.")


def _wrong_form(where: str, got: object) -> InputError:
    kind = type(got).__name__
    return InputError(
        f"{where} has the wrong type: got {kind}, allowed: {_FORMS}. Pass one of those."
    )
