"""tokenization_kwargs: what transformers' own truncation gives, and refusals by name."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from plait.prompts import ParsedPrompt
from plait.tokenization import Tokenization
from plait_kernels.errors import InputError

TEXT = "a b c d e f g"
LONGEST = 32


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; it puts <s> before a text and </s> after it."""
    vocabulary = {"<s>": 0, "</s>": 1} | {letter: i + 2 for i, letter in enumerate("abcdefg")}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def apply(tokenizer: Any, prompt: ParsedPrompt, **keywords: Any) -> list[int]:
    made = Tokenization.from_keywords(keywords).apply(prompt, tokenizer, LONGEST)
    assert made.text == prompt.text
    assert made.token_ids is not None
    return made.token_ids


@pytest.mark.parametrize("limit", range(3, 12))
@pytest.mark.parametrize("special", [True, False])
def test_by_itself_it_cuts_as_the_tokenizer_does(
    tokenizer: PreTrainedTokenizerFast, limit: int, special: bool
) -> None:
    tokenizer.truncation_side = "left"
    expected = tokenizer(
        TEXT, add_special_tokens=special, truncation=True, max_length=limit
    ).input_ids
    tokenizer.truncation_side = "right"  # The tokenizer's own setting does not count.
    prompt = ParsedPrompt(TEXT)
    given: dict[str, Any] = {"truncate_prompt_tokens": limit, "add_special_tokens": special}
    assert apply(tokenizer, prompt, **given) == expected


def test_a_side_cuts_whatever_is_there(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenizer(TEXT).input_ids
    for limit in range(1, len(whole) + 1):
        cut = {"truncate_prompt_tokens": limit}
        text = ParsedPrompt(TEXT)
        assert apply(tokenizer, text, truncation_side="left", **cut) == whole[-limit:]
        assert apply(tokenizer, text, truncation_side="right", **cut) == whole[:limit]


def test_token_ids_are_cut_and_nothing_is_added(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = ParsedPrompt("kept", [5, 6, 7])
    assert apply(tokenizer, prompt, truncate_prompt_tokens=2) == [6, 7]
    assert apply(None, prompt, truncate_prompt_tokens=2, truncation_side="right") == [5, 6]
    assert apply(tokenizer, prompt) == [5, 6, 7]


def test_what_there_is_room_for(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = ParsedPrompt(token_ids=list(range(100)))
    assert apply(tokenizer, prompt, truncate_prompt_tokens=-1) == list(range(69, 100))
    with pytest.raises(InputError, match=r"truncate_prompt_tokens=32 .*at most 31"):
        apply(tokenizer, prompt, truncate_prompt_tokens=32)


def test_values_that_ask_for_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenizer(TEXT).input_ids
    neutral = {
        "truncation": False,
        "padding": "do_not_pad",
        "max_length": None,
        "do_lower_case": False,
        "truncate_prompt_tokens": None,
    }
    assert apply(tokenizer, ParsedPrompt(TEXT), **neutral) == whole
    assert Tokenization.from_keywords(None) == Tokenization()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"padding": True}, "padding=True of tokenization_kwargs is not served"),
        ({"max_length": 5}, "max_length=5 of tokenization_kwargs is not served"),
        ({"do_lower_case": True}, "do_lower_case=True of tokenization_kwargs is not served"),
        ({"return_tensors": "pt"}, "has 'return_tensors', which is not served"),
        ({3: 1}, "has 3, which is not served"),
        ({"truncate_prompt_tokens": 0}, "must be at least 1, .*got 0"),
        ({"truncate_prompt_tokens": -2}, "must be at least 1, .*got -2"),
        ({"truncate_prompt_tokens": True}, "must be at least 1, .*got True"),
        ({"truncate_prompt_tokens": "x" * 9999}, r"^.{1,300}$"),
        ({"truncation_side": "middle"}, "must be 'left', 'right' or None, got 'middle'"),
        ({"add_special_tokens": 1}, "add_special_tokens .* must be a bool, got 1"),
        ([("a", 1)], "must be a dict or None, got list"),
    ],
)
def test_refusals(keywords: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tokenization.from_keywords(keywords)


def test_a_text_without_a_tokenizer() -> None:
    with pytest.raises(InputError, match="a text needs a tokenizer"):
        Tokenization().apply(ParsedPrompt("a"), None, LONGEST)
