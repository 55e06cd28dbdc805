"""What a request may take before it is one."""

from __future__ import annotations

import pytest

from plait import SamplingParams
from plait.engine_core import CoreInfo
from plait.new_request import RequestMaker
from plait_kernels.errors import InputError


def test_completions_times_prompt_are_bounded() -> None:
    maker = RequestMaker(None, CoreInfo(vocab_size=10, max_model_len=1 << 20), ())
    prompt = [1] * 100_000
    with pytest.raises(InputError, match=r"n=16384 completions of a prompt of 100000 tokens"):
        maker.make("r", prompt, SamplingParams(n=16384, temperature=1.0), None, None, 0)
    for n, tokens in ((1, prompt), (16384, prompt[:100])):
        made = maker.make("r", tokens, SamplingParams(n=n, temperature=1.0), None, None, 0)
        assert len(made.token_ids) == len(tokens)
