"""The longest text that a number of tokens can stand for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plait.tokenizer import Tokenizer

_SHRINKS = {"NFC": 4, "NFKC": 18, "NFD": 1, "NFKD": 1, "Lowercase": 1, "Prepend": 1}
"""Normalizers, and how many characters they make one of at most.

A composed form is no shorter than the decomposed one divided by the longest decomposition of a
character, which Unicode bounds: 4 characters (U+1F82), for compatibility 18 (U+FDFA).
"""

_KEEPING = frozenset({"ByteLevel", "Metaspace", "Digits"})
"""Pre-tokenizers that cut text and leave nothing out."""

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def longest_text(tokenizer: Tokenizer, num_tokens: int) -> int | None:
    """Say how many characters a text has at most that becomes so many tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
    num_tokens : int

    Returns
    -------
    int | None
        None: nobody can say. That is so where text may vanish (whitespace that is stripped, words
        or characters that become one unknown token together), and where the tokenizer is of a
        kind that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    made: dict[str, Any] = json.loads(backend.to_str())
    shrink = _shrink(made.get("normalizer"))
    added = made.get("added_tokens") or ()
    # These take all whitespace beside them.
    greedy = any(token.get("lstrip") or token.get("rstrip") for token in added)
    if shrink is None or greedy or not _keeps_all(made.get("pre_tokenizer")):
        return None
    model = made["model"]
    if not _knows_all(model, made.get("pre_tokenizer")):
        return None
    contents = [token["content"] for token in added]
    if backend.normalizer is not None:
        contents += [backend.normalizer.normalize_str(content) for content in contents]
    longest = max(map(len, [*model["vocab"], *contents]), default=0)
    return num_tokens * longest * shrink


def _parts(step: Mapping[str, Any] | None, name: str) -> Iterable[Mapping[str, Any]]:
    if step is None:
        return ()
    return step[name] if step["type"] == "Sequence" else (step,)


def _shrink(normalizer: Mapping[str, Any] | None) -> int | None:
    shrink = 1
    for part in _parts(normalizer, "normalizers"):
        kind = part["type"]
        if kind == "Replace" and 0 < len(part["pattern"].get("String", "")) <= len(part["content"]):
            continue
        if kind not in _SHRINKS:
            return None
        shrink *= _SHRINKS[kind]
    return shrink


def _keeps_all(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    return all(
        part["type"] in _KEEPING or (part["type"] == "Split" and part["behavior"] != "Removed")
        for part in _parts(pre_tokenizer, "pretokenizers")
    )


def _knows_all(model: Mapping[str, Any], pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether every character becomes part of a token, and unknown ones do not share one."""
    if model.get("type") != "BPE":
        return False
    vocab = model["vocab"]
    kinds = {part["type"] for part in _parts(pre_tokenizer, "pretokenizers")}
    if "ByteLevel" in kinds:
        from tokenizers.pre_tokenizers import ByteLevel

        return all(character in vocab for character in ByteLevel.alphabet())
    if model.get("byte_fallback"):
        return all(byte in vocab for byte in _BYTES)
    return model.get("unk_token") is not None and not model.get("fuse_unk")
