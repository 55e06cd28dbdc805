"""SamplingParams: defaults, ranges, names, and what it becomes as data."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import plait_sampling
from plait_kernels.errors import InputError
from plait_sampling import RequestOutputKind, SamplingParams

DEFAULTS: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "seed": None,
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": False,
    "max_tokens": 16,
    "min_tokens": 0,
    "logprobs": None,
    "prompt_logprobs": None,
    "detokenize": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "output_kind": RequestOutputKind.CUMULATIVE,
    "structured_outputs": None,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "extra_args": None,
}

UNTYPED: Any = SamplingParams
"""The class, for calls that a type checker would refuse."""

OUT_OF_RANGE: dict[str, list[Any]] = {
    "n": [0, -1, 1.5, True, "2", None],
    "presence_penalty": [-2.01, 2.01, math.nan, "1", None],
    "frequency_penalty": [-2.01, 2.01, math.inf],
    "repetition_penalty": [0, -1, math.inf, math.nan],
    "temperature": [-0.1, 2.1, math.nan, math.inf, "hot", None, True],
    "top_p": [0, -0.1, 1.01, None],
    "top_k": [-2, 1.5, None],
    "min_p": [-0.1, 1.1],
    "seed": [1.5, "7", 2**63, -(2**63) - 1, True],
    "stop": ["", ["a", ""], [1], 3],
    "stop_token_ids": ["12", 3, [-1], [1.5], [True]],
    "ignore_eos": [1, None],
    "max_tokens": [0, -1, 1.5],
    "min_tokens": [-1, None],
    "logprobs": [-2, 1.5, "3"],
    "prompt_logprobs": [-2],
    "detokenize": [0],
    "skip_special_tokens": ["yes"],
    "spaces_between_special_tokens": [None],
    "include_stop_str_in_output": [1],
    "output_kind": ["delta", 3, None],
    "structured_outputs": [{"json": {}}],
    "logit_bias": [[1], {"a": 1.0}, {-1: 1.0}, {1: math.nan}, {1: math.inf}, {1: "x"}],
    "allowed_token_ids": [[], [-1], "12"],
    "bad_words": [["damn"]],
    "extra_args": [{"a": 1}],
}


def test_defaults() -> None:
    params = SamplingParams()
    assert {name: getattr(params, name) for name in DEFAULTS} == DEFAULTS
    assert list(params.__dataclass_fields__) == list(DEFAULTS)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        SamplingParams(**{name: value})
    params = SamplingParams()
    with pytest.raises(InputError, match=name):
        setattr(params, name, value)
    assert params == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("n", np.int64(3), 3),
        ("temperature", 9e-6, 0.0),
        ("temperature", 1e-5, 1e-5),
        ("temperature", 0, 0.0),
        ("temperature", np.float32(0.5), 0.5),
        ("presence_penalty", -2, -2.0),
        ("repetition_penalty", 1e-3, 1e-3),
        ("top_p", 1, 1.0),
        ("top_k", -1, 0),
        ("top_k", 5, 5),
        ("seed", -1, None),
        ("seed", 0, 0),
        ("stop", "end", ["end"]),
        ("stop", ("a", "b"), ["a", "b"]),
        ("stop", None, []),
        ("stop_token_ids", (2, 1), [2, 1]),
        ("max_tokens", None, None),
        ("logprobs", -1, -1),
        ("logprobs", 0, 0),
        ("logprobs", True, 1),
        ("output_kind", 1, RequestOutputKind.DELTA),
        ("logit_bias", {"7": 2}, {7: 2.0}),
        ("logit_bias", {}, None),
        ("allowed_token_ids", [5, 3, 5], [3, 5]),
        ("bad_words", [], None),
    ],
)
def test_a_value_is_kept_in_one_form(name: str, value: Any, kept: Any) -> None:
    params = SamplingParams(**{name: value})
    assert getattr(params, name) == kept
    assert type(getattr(params, name)) is type(kept)


def test_an_unknown_name_is_told_its_neighbour() -> None:
    with pytest.raises(InputError, match="did you mean temperature"):
        UNTYPED(temprature=0)
    params = UNTYPED()
    with pytest.raises(InputError, match="did you mean max_tokens"):
        params.max_token = 3
    with pytest.raises(InputError, match=r"xyzzy.*allowed: n, "):
        UNTYPED(xyzzy=0)


def test_a_name_that_others_know_is_refused_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"does not support best_of\. Ask for n"):
        UNTYPED(best_of=2)


def test_n_may_be_given_by_place() -> None:
    assert SamplingParams(3).n == 3
    with pytest.raises(TypeError):
        UNTYPED(1, 0.5)


def test_fields_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="stop needs detokenize"):
        SamplingParams(stop="x", detokenize=False)
    with pytest.raises(InputError, match="min_tokens is above max_tokens"):
        SamplingParams(min_tokens=3, max_tokens=2)
    assert SamplingParams(min_tokens=30, max_tokens=None).min_tokens == 30
    params = SamplingParams(max_tokens=4)
    params.min_tokens = 5
    with pytest.raises(InputError, match="min_tokens is above max_tokens"):
        params.validate()


def test_token_ids_are_checked_against_the_model() -> None:
    SamplingParams(logit_bias={9: 1.0}, allowed_token_ids=[9]).validate_tokens(10)
    SamplingParams(stop_token_ids=[32003]).validate_tokens(10)
    with pytest.raises(InputError, match=r"logit_bias cannot be 10; allowed: .* 0 to 9"):
        SamplingParams(logit_bias={10: 1.0}).validate_tokens(10)
    with pytest.raises(InputError, match="allowed_token_ids cannot be 12"):
        SamplingParams(allowed_token_ids=[1, 12]).validate_tokens(10)
    both = SamplingParams(allowed_token_ids=[2, 3], stop_token_ids=[3], min_tokens=1)
    both.validate_tokens(10, eos_token_ids=[1])
    with pytest.raises(InputError, match=r"allowed_token_ids=\[2, 3\].*min_tokens=1"):
        both.validate_tokens(10, eos_token_ids=[2])


def test_data_and_back() -> None:
    params = SamplingParams(
        2,
        temperature=0.5,
        stop=["a", "b"],
        output_kind=RequestOutputKind.DELTA,
        logit_bias={3: -1.0},
        max_tokens=None,
    )
    plain = params.to_dict()
    assert plain == {
        "n": 2,
        "temperature": 0.5,
        "stop": ["a", "b"],
        "output_kind": 1,
        "logit_bias": {3: -1.0},
        "max_tokens": None,
    }
    assert SamplingParams.from_dict(plain) == params
    assert pickle.loads(pickle.dumps(params)) == params
    assert params.clone() == params
    copy = params.clone()
    copy.temperature = 1.0
    assert params.temperature == 0.5
    assert copy.stop is not params.stop


def test_generation_config_of_a_model() -> None:
    config = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": None,
        "max_new_tokens": 99,
        "eos_token_id": 2,
        "repetition_penalty": 1.05,
    }
    assert SamplingParams.from_generation_config(config).to_dict() == {
        "temperature": 0.6,
        "top_k": 20,
        "max_tokens": 99,
        "repetition_penalty": 1.05,
    }
    assert SamplingParams.from_generation_config({}) == SamplingParams()


def test_the_signature_names_what_is_documented() -> None:
    documented = inspect.getdoc(SamplingParams) or ""
    for name in DEFAULTS:
        assert name in documented


def test_params_import_no_torch() -> None:
    code = (
        "import sys; from plait_sampling import SamplingParams, TokenLogprobs; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_exports_exactly_what_it_says() -> None:
    for name in plait_sampling.__all__:
        assert getattr(plait_sampling, name).__name__ == name
    with pytest.raises(AttributeError, match="Samplr"):
        _ = plait_sampling.Samplr
