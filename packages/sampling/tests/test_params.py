"""SamplingParams: defaults, ranges, names, and what it becomes as data."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import plait_sampling
from plait_kernels.errors import InputError
from plait_sampling import RequestOutputKind, SamplingParams
from plait_sampling.keywords import ELSEWHERE

DEFAULTS: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "watermarking": None,
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
    "prompt_logprob_token_ids": None,
    "prompt_logprob_start": None,
    "logprob_token_ids": None,
    "flat_logprobs": False,
    "detokenize": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "output_kind": RequestOutputKind.CUMULATIVE,
    "stream_interval": None,
    "skip_clone": False,
    "structured_outputs": None,
    "logit_bias": None,
    "allowed_token_ids": None,
    "extra_args": None,
    "bad_words": None,
    "skip_reading_prefix_cache": None,
    "thinking_token_budget": None,
    "repetition_detection": None,
    "routed_experts_prompt_start": 0,
    "trace_decode_token_ids": None,
}
"""Fields of vLLM 0.33's SamplingParams, in its order."""

UNTYPED: Any = SamplingParams
"""The class, for calls that a type checker would refuse."""

HUGE = 10**400
"""Too large for a float, let alone an int64."""
WRITTEN_LONG = 10**5000
"""Python refuses to write it."""
NO_INTEGER: list[Any] = [
    1.5,
    "2",
    True,
    math.nan,
    math.inf,
    HUGE,
    WRITTEN_LONG,
    np.bool_(True),
    [1],
]
NO_NUMBER: list[Any] = ["1", True, math.nan, math.inf, -math.inf, HUGE, WRITTEN_LONG, 1j, [1.0]]
NO_FLAG: list[Any] = [0, 1, None, "yes", math.nan]
NO_IDS: list[Any] = [
    "12",
    b"12",
    3,
    [-1],
    [2**63],
    [1.5],
    [True],
    {1: 2},
    [HUGE],
    np.array(1),
    range(2**20 + 1),
]

OUT_OF_RANGE: dict[str, list[Any]] = {
    "n": [0, -1, None, 16385, 10**8, *NO_INTEGER],
    "presence_penalty": [-2.01, 2.01, None, *NO_NUMBER],
    "frequency_penalty": [-2.01, 2.01, *NO_NUMBER],
    "repetition_penalty": [0, -1, 1e-40, 1e-300, 1e30, 5e-324, *NO_NUMBER],
    "temperature": [-0.1, 2.1, -5e-324, "hot", None, *NO_NUMBER],
    "top_p": [0, -0.1, 1.01, None, *NO_NUMBER],
    "top_k": [-2, None, 2**63, *NO_INTEGER],
    "min_p": [-0.1, 1.1, None, *NO_NUMBER],
    "seed": [2**63, -(2**63) - 1, np.array([1, 2]), *NO_INTEGER],
    "stop": ["", ["a", ""], [1], 3, b"end", {"a": 1}, ["x"] * 20_000, "x" * (2**20 + 1)],
    "stop_token_ids": NO_IDS,
    "ignore_eos": NO_FLAG,
    "max_tokens": [0, -1, 2**63, *NO_INTEGER],
    "min_tokens": [-1, None, 2**70, *NO_INTEGER],
    "logprobs": [-2, 1.5, "3", 2**63, HUGE, math.nan],
    "prompt_logprobs": [-2, 1.5, 2**63, HUGE, math.inf],
    "detokenize": NO_FLAG,
    "skip_special_tokens": NO_FLAG,
    "spaces_between_special_tokens": NO_FLAG,
    "include_stop_str_in_output": NO_FLAG,
    "output_kind": ["delta", 3, None, True, [], HUGE],
    "logit_bias": [
        [1],
        {"a": 1.0},
        {"9" * 6000: 1.0},
        {-1: 1.0},
        {2**63: 1.0},
        {1.5: 1.0},
        {1: math.nan},
        {1: math.inf},
        {1: "x"},
        {1: HUGE},
        {1: 1e30},
        dict.fromkeys(range(2**20 + 1), 0.0),
    ],
    "allowed_token_ids": [[], *NO_IDS],
    "skip_clone": NO_FLAG,
    # Known, and not served.
    "watermarking": [True],
    "prompt_logprob_token_ids": [[[1]], np.ones((1, 1), int)],
    "prompt_logprob_start": [0, 1],
    "logprob_token_ids": [[1]],
    "flat_logprobs": [True],
    "stream_interval": [2, 0],
    "structured_outputs": [{"json": {}}, object()],
    "extra_args": [{"a": 1}],
    "bad_words": [["damn"], "damn"],
    "skip_reading_prefix_cache": [True],
    "thinking_token_budget": [0, 5],
    "repetition_detection": [{"max_pattern_size": 3}],
    "routed_experts_prompt_start": [1],
    "trace_decode_token_ids": [[1]],
}


def test_defaults() -> None:
    params = SamplingParams()
    assert {name: getattr(params, name) for name in DEFAULTS} == DEFAULTS
    assert list(params.__dataclass_fields__) == list(DEFAULTS)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_name(name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(InputError, match=name) as refused:
            SamplingParams(**{name: value})
        assert len(str(refused.value)) < 1000
        params = SamplingParams()
        with pytest.raises(InputError, match=name):
            setattr(params, name, value)
        assert params == SamplingParams()


def test_every_field_has_values_out_of_range() -> None:
    assert OUT_OF_RANGE.keys() == DEFAULTS.keys()


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
        ("repetition_penalty", 1e-6, 1e-6),
        ("top_p", 1e-320, float(np.finfo(np.float32).tiny)),
        ("temperature", Fraction(1, 2), 0.5),
        ("ignore_eos", np.bool_(True), True),
        ("max_tokens", np.uint8(7), 7),
        ("max_tokens", 2**63 - 1, 2**63 - 1),
        ("seed", np.int64(-1), None),
        ("stop_token_ids", np.array([3, 1, 3]), [3, 1]),
        ("logit_bias", {np.int32(7): np.float32(2)}, {7: 2.0}),
        ("logit_bias", {7: -1e20}, {7: -1e20}),
        ("skip_clone", True, True),
        ("watermarking", False, None),
        ("flat_logprobs", None, False),
        ("stream_interval", 1, None),
        ("extra_args", {}, None),
        ("thinking_token_budget", -1, None),
        ("routed_experts_prompt_start", 0, 0),
        ("top_p", 1, 1.0),
        ("top_k", -1, 0),
        ("top_k", 5, 5),
        ("seed", -1, None),
        ("seed", 0, 0),
        ("stop", "end", ["end"]),
        ("stop", ("a", "b"), ["a", "b"]),
        ("stop", None, []),
        ("stop_token_ids", (2, 1, 2), [2, 1]),
        ("max_tokens", None, None),
        ("logprobs", -1, -1),
        ("logprobs", 0, 0),
        ("logprobs", True, 1),
        ("output_kind", 1, RequestOutputKind.DELTA),
        ("logit_bias", {"7": 2}, {7: 2.0}),
        ("logit_bias", {}, None),
        ("allowed_token_ids", [5, 3, 5], [3, 5]),
        ("bad_words", (), None),
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
    with pytest.raises(InputError, match=r"does not support best_of: got 2.*Ask for n"):
        UNTYPED(best_of=2)
    params = UNTYPED()
    with pytest.raises(InputError, match="use_beam_search"):
        params.use_beam_search = True


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_others_know_may_ask_for_nothing(name: str) -> None:
    for value in (None, False, [], *ELSEWHERE[name].neutral):
        params = UNTYPED(3, temperature=0.5, **{name: value})
        setattr(params, name, value)
        assert params == SamplingParams(3, temperature=0.5)


def test_fields_may_be_given_by_place_in_vllms_order() -> None:
    assert SamplingParams(3).n == 3
    first = list(DEFAULTS)[: list(DEFAULTS).index("skip_clone") + 1]
    by_place = SamplingParams(*(DEFAULTS[name] for name in first))
    assert by_place == SamplingParams()
    params = SamplingParams(2, 0.1, 0.2, 1.1, 0.5, None, 0.9, 7)
    assert (params.repetition_penalty, params.temperature) == (1.1, 0.5)
    assert (params.top_p, params.top_k) == (0.9, 7)
    with pytest.raises(TypeError):
        UNTYPED(*DEFAULTS.values())


def test_the_signature_says_names_and_defaults() -> None:
    parameters = inspect.signature(SamplingParams).parameters
    assert list(parameters) == list(DEFAULTS)
    for name, parameter in parameters.items():
        assert parameter.default == (DEFAULTS[name] or parameter.default)


def test_greedy_parameters_take_the_whole_distribution() -> None:
    params = SamplingParams(temperature=0, top_p=0.5, top_k=7, min_p=0.1)
    assert (params.top_p, params.top_k, params.min_p) == (1.0, 0, 0.0)
    params = SamplingParams(temperature=9e-6, top_p=0.5)
    assert (params.greedy, params.top_p) == (True, 1.0)
    assert SamplingParams(temperature=0.1, top_p=0.5).top_p == 0.5


def test_from_optional_takes_none_for_what_was_left_out() -> None:
    nothing = dict.fromkeys(DEFAULTS)
    assert SamplingParams.from_optional(**nothing) == SamplingParams(max_tokens=None)
    given = SamplingParams.from_optional(n=2, temperature=None, logit_bias={"7": 1e25, 8: -3})
    assert given == SamplingParams(n=2, logit_bias={7: 100.0, 8: -3.0})
    with pytest.raises(InputError, match="logit_bias"):
        SamplingParams.from_optional(logit_bias={7: math.nan})
    with pytest.raises(InputError, match="did you mean temperature"):
        SamplingParams.from_optional(temprature=None)


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


@pytest.mark.parametrize("token_ids", [range(10), [*range(10), 77], [*range(8)]])
def test_min_tokens_leave_a_token_to_draw(token_ids: Any) -> None:
    params = SamplingParams(stop_token_ids=token_ids, min_tokens=2)
    with pytest.raises(InputError, match=r"the model's 10 tokens .* min_tokens=2"):
        params.validate_tokens(10, eos_token_ids=[8, 9])
    params.validate_tokens(11, eos_token_ids=[8, 9])
    SamplingParams(stop_token_ids=token_ids).validate_tokens(10, eos_token_ids=[8, 9])


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_an_engine_may_cap_the_logprobs(name: str) -> None:
    params = UNTYPED(**{name: 7})
    params.validate_tokens(10)
    params.validate_tokens(10, max_logprobs=7)
    with pytest.raises(InputError, match=f"{name} cannot be 7; allowed: at most 6.*max_logprobs"):
        params.validate_tokens(10, max_logprobs=6)
    every = UNTYPED(**{name: -1})
    every.validate_tokens(10, max_logprobs=10)
    with pytest.raises(InputError, match=f"{name} cannot be -1; allowed: at most 9"):
        every.validate_tokens(10, max_logprobs=9)
    UNTYPED(**{name: 0}).validate_tokens(10, max_logprobs=0)


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
        "presence_penalty": 0.5,
        "skip_special_tokens": False,
    }
    assert SamplingParams.from_generation_config(config).to_dict() == {
        "temperature": 0.6,
        "top_k": 20,
        "max_tokens": 99,
        "repetition_penalty": 1.05,
        "presence_penalty": 0.5,
        "skip_special_tokens": False,
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
