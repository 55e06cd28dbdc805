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
        ({"prompt": "a", "prompt_token_ids": [1]}, "needs one of .*: got both"),
        ({"cache_salt": "s"}, "needs one of .*: got neither"),
        ({}, "needs one of .*: got neither"),
        ({"prompt": "a", "multi_modal_data": {}}, "'multi_modal_data', allowed: prompt, "),
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
