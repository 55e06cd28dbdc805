"""Prompts: the accepted forms, and an error that names the fault for every other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait.prompts import (
    ParsedPrompt,
    TextPrompt,
    TokensPrompt,
    parse_prompt,
    split_prompts,
    validate_token_ids,
)
from plait_kernels.errors import InputError


@pytest.mark.parametrize(
    ("prompts", "parsed"),
    [
        ("hello", [ParsedPrompt(text="hello")]),
        ([3, 1, 2], [ParsedPrompt(token_ids=[3, 1, 2])]),
        ((3, np.int64(1)), [ParsedPrompt(token_ids=[3, 1])]),
        ({"prompt": "a"}, [ParsedPrompt(text="a")]),
        (TextPrompt(prompt="a", cache_salt="s"), [ParsedPrompt(text="a", cache_salt="s")]),
        (TokensPrompt(prompt_token_ids=[4]), [ParsedPrompt(token_ids=[4])]),
        ({"prompt": "a", "prompt_token_ids": [4, 5]}, [ParsedPrompt("a", [4, 5])]),
        ({"prompt": "", "prompt_token_ids": [4]}, [ParsedPrompt("", [4])]),
        ({"prompt": "a", "prompt_token_ids": None}, [ParsedPrompt(text="a")]),
        ({"prompt": None, "prompt_token_ids": [4]}, [ParsedPrompt(token_ids=[4])]),
        ({"prompt": "a", "multi_modal_data": None}, [ParsedPrompt(text="a")]),
        ({"prompt": "a", "multi_modal_data": {}, "cache_salt": None}, [ParsedPrompt(text="a")]),
        (
            {"prompt": "a", "mm_processor_kwargs": None, "multi_modal_uuids": {}},
            [ParsedPrompt(text="a")],
        ),
        ({"type": "token", "prompt_token_ids": [1]}, [ParsedPrompt(token_ids=[1])]),
        (["a", "b"], [ParsedPrompt(text="a"), ParsedPrompt(text="b")]),
        ([[1, 2], [3]], [ParsedPrompt(token_ids=[1, 2]), ParsedPrompt(token_ids=[3])]),
        (
            ["a", [1], {"prompt": "b"}, {"prompt_token_ids": (2,)}],
            [
                ParsedPrompt(text="a"),
                ParsedPrompt(token_ids=[1]),
                ParsedPrompt(text="b"),
                ParsedPrompt(token_ids=[2]),
            ],
        ),
        ([], []),
    ],
)
def test_forms(prompts: Any, parsed: list[ParsedPrompt]) -> None:
    assert [parse_prompt(prompt) for prompt in split_prompts(prompts)] == parsed


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "the prompt is empty"),
        ({"prompt": ""}, "the prompt is empty"),
        ([["a"]], r"token 0 of the prompt is not a whole number: got 'a'"),
        (["a", ""], r"the prompt is empty"),
        ([[1], []], r"the prompt is empty"),
        ({"prompt_token_ids": []}, "the prompt is empty"),
        (7, "prompts has the wrong type: got int"),
        (None, "prompts has the wrong type: got NoneType"),
        (b"bytes", "prompts has the wrong type: got bytes"),
        (["a", 3.5], r"the prompt has the wrong type: got float"),
        ([1, "a"], r"token 1 of the prompt is not a whole number: got 'a'"),
        ([1, True], r"token 1 of the prompt is not a whole number: got True"),
        ({"prompt": [1]}, "the prompt has the wrong type: got list"),
        ({"prompt_token_ids": "12"}, "the prompt has the wrong type: got str"),
        ({"cache_salt": "s"}, "needs one of .*: got neither"),
        ({}, "needs one of .*: got neither"),
        ({"prompt": None, "prompt_token_ids": None}, "needs one of .*: got neither"),
        ({"prompt": 3, "prompt_token_ids": [1]}, "the prompt has the wrong type: got int"),
        ({"prompt": "a", "prompt_token_ids": []}, "the prompt is empty"),
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, "'multi_modal_data': .*text models"),
        ({"prompt": "a", "multi_modal_data": []}, "'multi_modal_data': .*text models"),
        ({"prompt": "a", "mm_processor_kwargs": {"a": 1}}, "'mm_processor_kwargs': .*text models"),
        ({"prompt": "a", "token_type_ids": [0]}, "'token_type_ids': no served architecture"),
        ({"prompt_embeds": [[1.0]]}, "'prompt_embeds': .*not embeddings"),
        ({"encoder_prompt": "a", "decoder_prompt": None}, "'encoder_prompt': encoder-decoder"),
        ({"data": "a", "data_format": "b"}, r"'data': .*\(DataPrompt\) are not served"),
        ({"type": "embeds", "prompt": "a"}, "a key that is not served here: got 'type'"),
        ({"prompt": "a", "promt": "b"}, "a key that is not served here: got 'promt'"),
        ({"prompt": "a", 7: "b"}, "a key that is not served here: got 7"),
        ({"prompt": "a", "x" * 10_000: 1}, r"^.{1,400}$"),
        ({"prompt": "a", "cache_salt": ""}, "cache_salt of the prompt must be a str"),
    ],
)
def test_other_forms_are_refused(prompts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        [parse_prompt(prompt) for prompt in split_prompts(prompts)]


def test_token_ids_of_a_model() -> None:
    validate_token_ids([0, 9], vocab_size=10, max_model_len=3)
    for ids, message in (
        ([], "the prompt is empty"),
        ([0, 9, 10], "position 2 is outside the vocabulary: got 10, allowed: 0 to 9"),
        ([-1, 9], "position 0 is outside the vocabulary: got -1"),
    ):
        with pytest.raises(InputError, match=message):
            validate_token_ids(ids, vocab_size=10, max_model_len=100)
    with pytest.raises(InputError, match="too long: got 3 tokens, allowed: at most 2"):
        validate_token_ids([0, 1, 2], vocab_size=10, max_model_len=3)


@pytest.mark.parametrize(
    "prompt",
    [
        [1, "x" * 10**6],
        range(10**12),
        range(10**30),
        {"prompt": "x", "cache_salt": 10**5000},
        {"prompt": "x", 10**5000: 1},
        {"prompt": "x", "y" * 10**6: 1},
    ],
    ids=["token", "range", "huge range", "salt", "number as key", "long key"],
)
def test_what_is_refused_is_quoted_shortly(prompt: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse_prompt(prompt)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("token", [10**5000, -(10**5000)], ids=["plus", "minus"])
def test_a_token_of_any_size_is_refused(token: int) -> None:
    with pytest.raises(InputError, match="outside the vocabulary: got an int of about"):
        validate_token_ids([1, token], 10, 100)
