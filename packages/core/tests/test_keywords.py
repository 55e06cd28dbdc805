"""Every keyword of vLLM 0.33 is honoured, without effect or refused; anything else is a typo."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from plait import LLM, AsyncEngineArgs, EngineArgs, LoRARequest, SamplingParams
from plait.keyword_tables import RULES, SUBJECTS, WithoutEffect
from plait.keyword_tables.rules import Rule
from plait_kernels.errors import InputError
from plait_lora.request import REFUSED as LORA_REFUSED
from plait_sampling.keywords import ELSEWHERE, UNSERVED

VLLM: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vllm_keywords.json").read_text(encoding="utf-8")
)
"""Keywords of vLLM 0.33 by class; those of EngineArgs and AsyncEngineArgs with their defaults, null
where that is an object of vLLM's own."""

HONOURED = {field.name for field in dataclasses.fields(EngineArgs)}
OURS = {"device", "kernels", "lora_memory_bytes"}
"""What plait's EngineArgs have and vLLM's have not."""
UNTYPED: Any = EngineArgs

ASK: dict[str, Any] = {
    "limit_mm_per_prompt": {"image": 0, "video": 2},
    "attention_config": {"mla_prefill_backend": "CUTLASS"},
}
"""Values that ask for something, where a text or a number would not do."""


def test_every_keyword_of_an_engine_is_in_one_group() -> None:
    names = set(VLLM["EngineArgs"]) | set(VLLM["LLM"])
    assert len(VLLM["EngineArgs"]) == 260
    assert not HONOURED & RULES.keys()
    assert names - HONOURED - RULES.keys() == {"chat_template"}, "of LLM alone"
    assert HONOURED - names == OURS
    assert RULES.keys() - names == SUBJECTS["Older keywords"].keys()
    assert sum(map(len, SUBJECTS.values())) == len(RULES), "a keyword is in two tables"


def test_every_keyword_of_sampling_is_in_one_group() -> None:
    fields = [field.name for field in dataclasses.fields(SamplingParams)]
    names = VLLM["SamplingParams"]
    assert [name for name in names if name in fields] == fields, "in vLLM's order"
    assert set(names) - set(fields) <= ELSEWHERE.keys()
    assert UNSERVED.keys() < set(fields)
    assert not ELSEWHERE.keys() & set(fields)


def test_every_keyword_of_an_adapters_handle_is_in_one_group() -> None:
    fields = [field.name for field in dataclasses.fields(LoRARequest)]
    assert fields == VLLM["LoRARequest"]
    assert not LORA_REFUSED.keys() & set(fields)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_values_that_ask_for_nothing_pass(subject: str) -> None:
    for name in SUBJECTS[subject]:
        neutral: list[Any] = [None, False, "", [], (), {}, VLLM["EngineArgs"].get(name)]
        for value in neutral:
            assert UNTYPED("model", **{name: value}) == EngineArgs("model"), name


def test_none_is_the_default_of_every_keyword() -> None:
    for name in HONOURED - {"model"}:
        assert UNTYPED("model", **{name: None}) == EngineArgs("model")


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_other_value_is_refused_with_the_reason(subject: str) -> None:
    for name, rule in SUBJECTS[subject].items():
        if not isinstance(rule, WithoutEffect):
            with pytest.raises(InputError, match=name) as caught:
                UNTYPED("model", **{name: ASK.get(name, "x" * 10_000_000)})
            assert rule.why in str(caught.value)
            assert len(str(caught.value)) < 1000


WRONG_KINDS: dict[type, Any] = {
    bool: 1,
    int: 1.5,
    float: "1",
    str: 1,
    list: "text",
    dict: [1],
}
RIGHT_KINDS: dict[type, Any] = {
    bool: True,
    int: 7,
    float: 0.5,
    str: "text",
    list: [1],
    dict: {"a": 1},
    object: 1.5,
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_keyword_without_effect_takes_what_vllm_takes_and_is_logged(
    subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    idle = {n: r for n, r in SUBJECTS[subject].items() if isinstance(r, WithoutEffect)}
    for name, rule in idle.items():
        choices = isinstance(rule.kind, tuple)
        right = rule.kind[-1] if isinstance(rule.kind, tuple) else RIGHT_KINDS[rule.kind]
        caplog.clear()
        with caplog.at_level(logging.INFO, "plait"):
            assert UNTYPED("model", **{name: right}) == EngineArgs("model")
        assert caplog.messages == [f"accepted without effect: {name}"]
        if rule.kind is not object:
            wrong = "banana" if isinstance(rule.kind, tuple) else WRONG_KINDS[rule.kind]
            with pytest.raises(InputError, match=f"{name}=.*allowed") as caught:
                UNTYPED("model", **{name: wrong})
            assert choices == (repr(right) in str(caught.value))


@pytest.mark.parametrize(
    "keywords",
    [
        {"limit_mm_per_prompt": {"image": 0, "video": {"count": 0}}},
        {"attention_backend": "FLASH_ATTN"},
        {"attention_config": {"backend": "FLASH_ATTN", "flash_attn_version": 3}},
        {"device_ids": [0]},
        {"cpu_offload_gb": 0.0},
        {"distributed_executor_backend": "mp", "tensor_parallel_size": 1},
        {"disable_sliding_window": True},
        {"speculative_config": None, "compilation_config": {"mode": 3}},
    ],
)
def test_values_of_real_programs_pass(keywords: dict[str, Any]) -> None:
    assert UNTYPED("model", **keywords) == EngineArgs("model")


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"attention_backend": "FLASHMLA"}, "attention_backend='FLASHMLA'"),
        ({"attention_config": {"backend": "FLASHMLA"}}, r"attention_config\['backend'\]"),
        ({"attention_config": {"indexer_kv_dtype": "fp8"}}, "indexer_kv_dtype"),
        ({"limit_mm_per_prompt": {"image": {"count": 1}}}, "limit_mm_per_prompt"),
        ({"stream_interval": 10}, "every step"),
        ({"max_lora": 1}, "did you mean 'max_loras'"),
        ({"attention_backends": "x"}, "did you mean 'attention_backend'"),
        ({"x" * 10_000_000: 1}, "unknown keyword"),
    ],
)
def test_what_would_change_an_answer_and_typos_are_refused(
    keywords: dict[str, Any], named: str
) -> None:
    for make in (UNTYPED, AsyncEngineArgs, LLM):
        with pytest.raises(InputError, match=named) as caught:
            make("model", **keywords)
        assert len(str(caught.value)) < 1000


def test_every_rule_says_why_and_what_passes() -> None:
    for name, rule in RULES.items():
        checked: Rule = rule
        assert checked.why, name
        assert checked.allowed(), name
