"""Detokenization against decoding everything at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from plait.detokenizer import Detokenizer, TokenDecoder

SPECIAL = ["<s>", "</s>"]


@cache
def byte_level() -> Any:
    """A vocabulary of single bytes and a few merges, as GPT-2's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: place for place, piece in enumerate([*alphabet, "Ġt", "he", "ðŁ"])}
    rust = Tokenizer(models.BPE(vocab, [("Ġ", "t"), ("h", "e"), ("ð", "Ł")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(SPECIAL)
    rust.add_tokens([AddedToken("<tool>")])
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")


@cache
def byte_fallback() -> Any:
    """Pieces with a word mark, and bytes for the rest, as Llama 2's."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "b", "▁▁", "é", "日"]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    rust = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    rust.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")


@cache
def word_piece() -> Any:
    """Pieces joined by ## and spaces, as BERT's."""
    pieces = ["[UNK]", "the", "##re", "cat", "!", "'", "s", "##s"]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    rust = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    rust.decoder = decoders.WordPiece()
    rust.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")


FAMILIES = [byte_level, byte_fallback, word_piece]


@st.composite
def tokens(draw: st.DrawFn) -> tuple[Any, list[int]]:
    tokenizer = draw(st.sampled_from(FAMILIES))()
    # Long runs of likely trouble: the high bytes are where characters span tokens.
    ids = draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
    text = draw(st.text(max_size=6))
    return tokenizer, ids + tokenizer(text, add_special_tokens=False).input_ids


def whole(tokenizer: Any, ids: list[int], skip: bool) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    return text


def byte_ids(*values: int) -> list[int]:
    return [1 + value for value in values]


@given(tokens(), st.booleans())
@example((byte_fallback(), byte_ids(0x41, 0xFF)), True)
@example((byte_fallback(), byte_ids(0xE6, 0x97, 0xA5, 0xE6, 0x97)), True)
@example((byte_fallback(), [257, 257, 258, 260, 257]), False)
def test_the_pieces_join_to_the_whole(case: tuple[Any, list[int]], skip: bool) -> None:
    tokenizer, ids = case
    detokenizer = Detokenizer(TokenDecoder(tokenizer), skip_special_tokens=skip)
    joined = ""
    for token in ids:
        joined += detokenizer.push(token)
        assert whole(tokenizer, ids, skip).startswith(joined)
    assert joined + detokenizer.finish() == whole(tokenizer, ids, skip)
    assert detokenizer.finish() == ""


@given(st.text(min_size=1, max_size=8), st.text(max_size=12), st.sampled_from(FAMILIES[:2]))
def test_a_completion_continues_its_prompt(prompt: str, answer: str, family: Any) -> None:
    tokenizer = family()
    before, after = (
        tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer)
    )
    detokenizer = Detokenizer(TokenDecoder(tokenizer), before)
    text = "".join(detokenizer.push(token) for token in after) + detokenizer.finish()
    assert whole(tokenizer, before, True) + text == whole(tokenizer, before + after, True)


def test_a_leading_space_depends_on_what_stands_before() -> None:
    tokenizer = byte_fallback()
    word = tokenizer.convert_tokens_to_ids("▁a")
    decoder = TokenDecoder(tokenizer)
    assert Detokenizer(decoder).push(word) == "a"
    assert Detokenizer(decoder, [word]).push(word) == " a"
    assert Detokenizer(decoder, [tokenizer.convert_tokens_to_ids("<s>")]).push(word) == "a"


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = byte_level()
    detokenizer = Detokenizer(TokenDecoder(tokenizer))
    ids = tokenizer("a🙂b").input_ids
    assert [detokenizer.push(token) for token in ids] == ["a", "", "", "🙂", "b"]


def test_the_replacement_character_itself_is_text() -> None:
    tokenizer = byte_level()
    detokenizer = Detokenizer(TokenDecoder(tokenizer))
    ids = tokenizer("a\ufffdb").input_ids
    assert "".join(detokenizer.push(token) for token in ids) == "a\ufffdb"


@pytest.mark.parametrize("skip", [True, False])
def test_special_tokens_are_skipped_or_shown(skip: bool) -> None:
    tokenizer = byte_level()
    end, tool, letter = tokenizer.convert_tokens_to_ids(["</s>", "<tool>", "a"])
    detokenizer = Detokenizer(TokenDecoder(tokenizer), skip_special_tokens=skip)
    text = "".join(detokenizer.push(token) for token in (letter, end, tool, letter))
    assert text == ("a<tool>a" if skip else "a</s><tool>a")


def test_a_long_run_of_skipped_tokens_is_not_decoded_again_and_again() -> None:
    tokenizer = byte_level()

    class Counting(TokenDecoder):
        decoded = 0

        def decode(self, ids: Any, **keywords: Any) -> str:
            self.decoded += len(ids)
            return super().decode(ids, **keywords)

    decoder = Counting(tokenizer)
    detokenizer = Detokenizer(decoder)
    for _ in range(500):
        detokenizer.push(tokenizer.eos_token_id)
    assert decoder.decoded == 0


class SlowTokenizer:
    """Decodes as a Python tokenizer does: through ``decode`` with both switches."""

    is_fast = False
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012 - a double's constant
    all_special_ids = (0,)
    words = ("<s>", "x", "y", "<0xC3>", "<0xA9>")

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return self.words[token_id]

    def decode(
        self,
        ids: list[int],
        *,
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str:
        assert not clean_up_tokenization_spaces
        kept = [i for i in ids if not (skip_special_tokens and i == 0)]
        raw = b""
        for place, i in enumerate(kept):
            word = self.words[i]
            if i == 0 and place and spaces_between_special_tokens:
                raw += b" "
            raw += bytes([int(word[3:5], 16)]) if i > 2 else word.encode()
        return raw.decode(errors="replace")


@given(st.lists(st.integers(0, 4), max_size=20), st.booleans(), st.booleans())
def test_a_slow_tokenizer_is_asked_itself(ids: list[int], skip: bool, spaces: bool) -> None:
    tokenizer: Any = SlowTokenizer()
    detokenizer = Detokenizer(
        TokenDecoder(tokenizer), skip_special_tokens=skip, spaces_between_special_tokens=spaces
    )
    text = "".join(detokenizer.push(token) for token in ids) + detokenizer.finish()
    assert text == tokenizer.decode(
        ids,
        skip_special_tokens=skip,
        spaces_between_special_tokens=spaces,
        clean_up_tokenization_spaces=False,
    )


def test_a_token_alone_has_a_text() -> None:
    decoder = TokenDecoder(byte_level())
    ids = byte_level()("the</s>").input_ids
    assert [decoder.text_of(token) for token in ids] == ["t", "he", "</s>"]
