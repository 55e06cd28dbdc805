"""EngineArgs: names, defaults, checks, and the places that repeat them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait import LLM, AsyncEngineArgs, AsyncLLMEngine, EngineArgs, LLMEngine
from plait.argument_options import descriptions
from plait.chat_template_file import read_chat_template
from plait_kernels.errors import InputError

UNTYPED: Any = EngineArgs
FIELDS = {field.name: field for field in dataclasses.fields(EngineArgs)}
HUGE = 10**5000
"""Python refuses to write it."""

NO_COUNT: list[Any] = [
    0,
    -2,
    True,
    1.5,
    "many",
    math.nan,
    math.inf,
    HUGE,
    2**63,
    [1],
    np.bool_(True),
]
NO_FLAG: list[Any] = [0, 1, "false", "yes", math.nan]
NO_TEXT: list[Any] = ["", "a\0b", "\ud800", 7, True, b"x", ["x"], "x" * 10_000_000]
NO_DTYPE: list[Any] = [HUGE, {1: HUGE}, "int8", "fp8", 7, "", "x" * 10_000_000, torch.int8]

WRONG: dict[str, list[Any]] = {
    "model": [None, *NO_TEXT],
    "tokenizer": NO_TEXT,
    "skip_tokenizer_init": NO_FLAG,
    "trust_remote_code": NO_FLAG,
    "revision": NO_TEXT,
    "tokenizer_revision": NO_TEXT,
    "hf_token": [7, b"secret"],
    "download_dir": NO_TEXT,
    "dtype": NO_DTYPE,
    "device": ["tpu", 0, "", torch.device("cpu")],
    "load_format": ["pt", "npcache", 1, ""],
    "generation_config": NO_TEXT,
    "override_generation_config": [
        "x",
        [1],
        {"temprature": 1},
        {"do_sample": False},
        {"x" * 10_000_000: 1},
        {7: 1},
    ],
    "seed": [1.5, True, "7", 2**63, HUGE],
    "max_model_len": ["4k", *NO_COUNT],
    "max_num_seqs": [10**9, *NO_COUNT],
    "max_num_batched_tokens": [10**9, *NO_COUNT],
    "max_logprobs": [-2, True, 1.5, "20", HUGE],
    "block_size": [10**6, *NO_COUNT],
    "enable_prefix_caching": NO_FLAG,
    "kv_cache_memory_bytes": NO_COUNT,
    "kv_cache_dtype": NO_DTYPE,
    "gpu_memory_utilization": [0, -0.5, 1.01, 90, True, "0.5", math.nan, HUGE],
    "enforce_eager": NO_FLAG,
    "num_gpu_blocks_override": NO_COUNT,
    "enable_lora": NO_FLAG,
    "max_loras": NO_COUNT,
    "max_lora_rank": NO_COUNT,
    "max_cpu_loras": NO_COUNT,
    "lora_dtype": NO_DTYPE,
    "lora_memory_bytes": NO_COUNT,
    "lora_target_modules": ["q_proj", 7, [7], [""]],
    "kernels": [7, ["lora=torch"], {"lora": 7}],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InputError, match=name) as caught:
            UNTYPED(**({"model": "model"} | {name: value}))
        assert len(str(caught.value)) < 1000
        assert "secret" not in str(caught.value)


def test_a_value_is_checked_when_it_is_set_afterwards() -> None:
    args: Any = EngineArgs("model")
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(InputError, match=name):
                setattr(args, name, value)
    with pytest.raises(InputError, match="did you mean 'max_loras'"):
        args.max_lora = 1
    with pytest.raises(InputError, match="one device"):
        args.tensor_parallel_size = 2
    assert args == EngineArgs("model")
    args.max_num_seqs, args.dtype, args.seed = np.int64(4), torch.float16, None
    args.disable_log_stats = True
    assert args == EngineArgs("model", max_num_seqs=4, dtype="half")
    args.kv_cache_dtype = "float32"
    with pytest.raises(InputError, match="kv_cache_dtype"):
        LLMEngine.from_engine_args(args)


def test_copies_are_equal() -> None:
    args = EngineArgs("model", max_num_seqs=4, lora_target_modules=["q_proj"])
    assert copy.deepcopy(args) == pickle.loads(pickle.dumps(args)) == args
    assert dataclasses.replace(args, max_num_seqs=5) != args
    assert EngineArgs(**vars(args)) == args


def test_every_argument_has_wrong_values() -> None:
    assert WRONG.keys() == FIELDS.keys()


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("model", Path("models/tiny"), "models/tiny"),
        ("dtype", torch.bfloat16, "bfloat16"),
        ("dtype", "half", "float16"),
        ("lora_dtype", "float", "float32"),
        ("max_num_seqs", np.int32(7), 7),
        ("seed", np.int64(-3), -3),
        ("enforce_eager", np.bool_(True), True),
        ("gpu_memory_utilization", np.float32(0.5), 0.5),
        ("gpu_memory_utilization", 1, 1.0),
        ("max_model_len", "auto", -1),
        ("max_model_len", -1, -1),
        ("max_logprobs", 0, 0),
        ("lora_target_modules", ("q_proj", "v_proj"), ["q_proj", "v_proj"]),
        ("kv_cache_dtype", "bfloat16", "bfloat16"),
        ("override_generation_config", {"temperature": None, "do_sample": True}, None),
    ],
)
def test_a_value_is_kept_in_one_form(name: str, value: Any, kept: Any) -> None:
    found = getattr(UNTYPED(**({"model": "model"} | {name: value})), name)
    assert found == (value if kept is None else kept)
    assert type(found) is type(value if kept is None else kept)


def test_arguments_that_contradict_each_other() -> None:
    with pytest.raises(InputError, match="max_cpu_loras=2 is less than max_loras=4"):
        EngineArgs("model", max_loras=4, max_cpu_loras=2)
    with pytest.raises(InputError, match=r"kv_cache_dtype='float16'.*'bfloat16'"):
        EngineArgs("model", dtype="bfloat16", kv_cache_dtype="float16")
    assert EngineArgs("model", dtype="half", kv_cache_dtype="float16").dtype == "float16"


def test_the_token_is_not_written() -> None:
    assert "secret" not in repr(EngineArgs("model", hf_token="secret"))


def test_fields_and_signatures_are_in_step() -> None:
    """What an editor shows: names, defaults and types, of EngineArgs and of LLM alike."""
    own = inspect.signature(EngineArgs).parameters
    assert list(own) == [*FIELDS, "others"]
    for name, field in FIELDS.items():
        default = inspect.Parameter.empty if name == "model" else field.default
        assert own[name].default == default, name
        longer = "int | str | None" if name == "max_model_len" else field.type
        assert own[name].annotation == longer, name
    llm = inspect.signature(LLM).parameters
    assert list(llm) == [*FIELDS, "chat_template", "others"]
    for name, parameter in own.items():
        assert (llm[name].default, llm[name].annotation) == (
            parameter.default,
            parameter.annotation,
        )
        assert llm[name].kind == parameter.kind
    assert inspect.signature(AsyncEngineArgs) == inspect.signature(EngineArgs)


def test_every_argument_is_described_in_the_order_of_the_fields() -> None:
    described = descriptions(EngineArgs)
    assert list(described) == list(FIELDS)
    assert all(described.values())


@pytest.mark.parametrize("engine", [LLMEngine, AsyncLLMEngine, LLM])
def test_engines_are_made_from_engine_args_alone(engine: Any) -> None:
    args = EngineArgs("no/such/model/anywhere")
    with pytest.raises(TypeError, match="usage_contxt"):
        engine.from_engine_args(args, usage_contxt=None)
    with pytest.raises(InputError, match="EngineArgs"):
        engine.from_engine_args({"model": "model"})
    if engine is not LLM:
        with pytest.raises(InputError, match="stat_loggers"):
            engine.from_engine_args(args, stat_loggers=[print])


def test_a_chat_template_is_a_file_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("\ufeff{{ messages }}", encoding="utf-8")
    assert read_chat_template(None) is None
    assert read_chat_template("{{ messages }}") == "{{ messages }}"
    assert read_chat_template(file) == read_chat_template(str(file)) == "{{ messages }}"
    wrong: list[Any] = ["no-such-file", tmp_path, 7, "", "a\0b", b"{{ x }}", "x" * 10_000_000]
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(10**12)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for given in [*wrong, tmp_path / "huge", tmp_path / "binary"]:
        with pytest.raises(InputError, match="chat_template=") as caught:
            read_chat_template(given)
        assert len(str(caught.value)) < 1000


def test_weights_that_are_asked_for_as_hf_are_safetensors() -> None:
    assert EngineArgs("m", load_format="hf").load_format == "safetensors"
