"""Prompts as text: what cannot fit is refused before it is tokenized, and only that."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plait.text_bounds import longest_text
from plait.text_encoder import TextEncoder, encode
from plait_kernels.errors import InputError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
COMPOSED = "\u1f82"
LIGATURE = "\ufdfa"


def bpe(
    pieces: list[str], merges: list[tuple[str, str]] | None = None, **options: Any
) -> Tokenizer:
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return Tokenizer(models.BPE(vocab, merges or [], **options))


def byte_level(normalizer: Any = None) -> Tokenizer:
    merges: list[tuple[str, str]] = [("a", "b"), ("ab", "ab"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ")]
    rust = bpe([*ALPHABET, "ab", "abab", "ĠĠ", "ĠĠĠĠ"], merges)
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    if normalizer is not None:
        rust.normalizer = normalizer
    return rust


def sentencepiece(**options: Any) -> Tokenizer:
    pieces = [*BYTES, "<unk>", "▁", "a", "b", "▁a", "▁ab", COMPOSED]
    merges = [("▁", "a"), ("▁a", "b")]
    settings = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    rust = bpe(pieces, merges, **(settings | options))
    rust.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return rust


def composing(kind: Any) -> Tokenizer:
    """Four characters may become one, which is one token."""
    rust = bpe([*BYTES, COMPOSED, "a", " "], byte_fallback=True, unk_token="a")
    rust.normalizer = kind
    return rust


BOUNDED: dict[str, Callable[[], Tokenizer]] = {
    "bytes": byte_level,
    "bytes, NFC": lambda: byte_level(normalizers.NFC()),
    "sentencepiece": sentencepiece,
    "unknown characters one by one": lambda: sentencepiece(byte_fallback=False, fuse_unk=False),
    "NFC": lambda: composing(normalizers.NFC()),
    "NFKC": lambda: composing(normalizers.NFKC()),
    "NFD": lambda: composing(normalizers.NFD()),
    "lower case": lambda: composing(normalizers.Lowercase()),
}


def fast(rust: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=rust)


TEXT = st.text(
    st.one_of(
        st.sampled_from(["a", "b", " ", "\n", "1", "é", "e\u0301", "漢", "😀", LIGATURE, COMPOSED]),
        st.just(unicodedata.normalize("NFD", COMPOSED)),
        st.characters(exclude_categories=["Cs"]),
    ).filter(lambda piece: len(piece) == 1)
    | st.characters(exclude_categories=["Cs"]),
    max_size=40,
)
PIECES = st.lists(
    st.sampled_from(["ab", "abab", "    ", unicodedata.normalize("NFD", COMPOSED), "İ", "12", "x"])
    | TEXT,
    max_size=12,
).map("".join)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_is_longer_than_the_bound_for_its_tokens(name: str) -> None:
    tokenizer = fast(BOUNDED[name]())

    @settings(max_examples=40, deadline=None)
    @given(PIECES)
    def check(text: str) -> None:
        count = len(tokenizer(text).input_ids)
        longest = longest_text(tokenizer, count)
        assert longest is not None
        assert len(text) <= longest

    check()
    for text in (unicodedata.normalize("NFD", COMPOSED) * 50, " " * 200, "ab" * 200, "İ" * 50):
        count = len(tokenizer(text).input_ids)
        longest = longest_text(tokenizer, count)
        assert longest is not None
        assert len(text) <= longest


def with_added(token: AddedToken) -> Tokenizer:
    rust = byte_level()
    rust.add_special_tokens([token])
    return rust


def with_pre_tokenizer(step: Any) -> Tokenizer:
    rust = sentencepiece()
    rust.pre_tokenizer = step
    return rust


UNBOUNDED: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "words": (lambda: Tokenizer(models.WordLevel({"w": 0, "?": 1}, unk_token="?")), "x" * 500),
    "wordpiece": (
        lambda: Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
        "x" * 500,
    ),
    "strip": (lambda: byte_level(normalizers.Strip()), " " * 500),
    "shortening": (lambda: byte_level(normalizers.Replace("abc", "a")), "abc" * 500),
    "accents": (lambda: byte_level(normalizers.StripAccents()), "\u0301" * 500),
    "fused": (lambda: sentencepiece(byte_fallback=False), "漢" * 500),
    "lost": (lambda: bpe(["a", "b"]), "漢" * 500),
    "whitespace left out": (
        lambda: with_pre_tokenizer(pre_tokenizers.WhitespaceSplit()),
        " " * 500,
    ),
    "delimiter left out": (
        lambda: with_pre_tokenizer(pre_tokenizers.Split("x", "removed")),
        "x" * 500,
    ),
    "whitespace beside a special token": (
        lambda: with_added(AddedToken("<mask>", lstrip=True, special=True)),
        " " * 500 + "<mask>",
    ),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_where_text_may_vanish_there_is_no_bound(name: str) -> None:
    make, text = UNBOUNDED[name]
    tokenizer = fast(make())
    assert longest_text(tokenizer, 10) is None
    ids = TextEncoder(tokenizer, 8).encode(text)
    assert ids == tokenizer(text).input_ids


def test_text_that_cannot_fit_is_refused_without_tokenizing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = fast(byte_level())
    encoder = TextEncoder(tokenizer, 101)
    assert len(encoder.encode("ab" * 200)) == 100
    asked: list[str] = []
    call = type(tokenizer).__call__

    def record(self: Any, text: str, **keywords: Any) -> Any:
        asked.append(text)
        return call(self, text, **keywords)

    monkeypatch.setattr(type(tokenizer), "__call__", record)
    with pytest.raises(InputError, match="too long: got 4000000 characters") as caught:
        encoder.encode("ab" * 2_000_000)
    assert len(str(caught.value)) < 1000
    assert not asked
    # As long as it can be: whether it is too long only its tokens say.
    encoder.encode(" " * 400)
    assert asked == [" " * 400]


def test_a_token_that_is_added_later_counts() -> None:
    tokenizer = fast(byte_level())
    encoder = TextEncoder(tokenizer, 11)
    text = "x" * 1000
    with pytest.raises(InputError, match="too long"):
        encoder.encode(text)
    tokenizer.add_tokens(["x" * 100])
    assert len(encoder.encode(text)) == 10


@pytest.mark.parametrize("text", ["\ud83d", "a\udc80b", "ab" * 1000 + "\udfff"])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"surrogate.*at character {len(text) - 1}|character 1"):
        encode(fast(byte_level()), text)


def test_whatever_a_tokenizer_raises_is_an_input_error() -> None:
    def broken(text: str, **keywords: Any) -> Any:
        message = "x" * 10**6
        raise TypeError(message)

    with pytest.raises(InputError, match="TypeError") as caught:
        encode(broken, "a")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1000
