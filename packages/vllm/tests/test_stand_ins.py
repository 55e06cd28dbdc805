"""What programs import from vLLM beside the engine."""

from __future__ import annotations

import argparse
import json
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from plait_vllm.config import AttentionConfig, CompilationConfig, CompilationMode, ProfilerConfig
from plait_vllm.distributed import cleanup_dist_env_and_memory, destroy_model_parallel
from plait_vllm.logger import init_logger
from plait_vllm.platforms import current_platform
from plait_vllm.renderers.chat_utils import load_chat_template
from plait_vllm.sampling_params import StructuredOutputsParams
from plait_vllm.usage.usage_lib import UsageContext
from plait_vllm.utils import random_uuid
from plait_vllm.utils.argparse_utils import FlexibleArgumentParser
from plait_vllm.utils.counter import Counter
from plait_vllm.utils.network_utils import get_ip, get_open_port
from plait_vllm.v1.attention.backends.registry import AttentionBackendEnum

from plait import EngineArgs, SamplingParams
from plait_kernels.errors import InputError


@pytest.fixture
def parser() -> Any:
    made = FlexibleArgumentParser(prog="p")
    made.add_argument("--max-length", type=int)
    made.add_argument("--own_name")
    made.add_argument("--rope", type=json.loads)
    made.add_argument("--optimization-level", type=int)
    made.add_argument("--enable-thing", action=argparse.BooleanOptionalAction)
    made.add_argument("--old", deprecated=True)
    group = made.add_argument_group("more")
    group.add_argument("--older", deprecated=True)
    group.add_argument("-s", "--short")
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--max_length", "3"], {"max_length": 3}),
        (["--max-length=3"], {"max_length": 3}),
        (["--max_length=3", "--own-name", "a_b"], {"max_length": 3, "own_name": "a_b"}),
        (["--own_name=--x_y"], {"own_name": "--x_y"}),
        (["--rope.factor", "2"], {"rope": {"factor": 2}}),
        (
            ["--rope.a_b.c=text", "--rope.d", "[1, 2]"],
            {"rope": {"a_b": {"c": "text"}, "d": [1, 2]}},
        ),
        (["--rope.kinds+", "a,b", "--rope.kinds+=c"], {"rope": {"kinds": ["a", "b", "c"]}}),
        (["--rope", '{"a.b": 1}'], {"rope": {"a.b": 1}}),
        (["-O3"], {"optimization_level": 3}),
        (["-O", "2"], {"optimization_level": 2}),
        (["-O=1"], {"optimization_level": 1}),
        (["--enable_thing"], {"enable_thing": True}),
        (["--disable-thing"], {"enable_thing": False}),
        (["--no-enable-thing"], {"enable_thing": False}),
        (["--old", "x", "--older", "y", "-s", "z"], {"old": "x", "older": "y", "short": "z"}),
        (["--max-length", "1", "--", "--own_name"], {"max_length": 1, "rest": ["--own_name"]}),
        (["--rope.a", "1", "--", "b"], {"rope": {"a": 1}, "rest": ["b"]}),
    ],
)
def test_spellings(parser: Any, given: list[str], expected: dict[str, Any]) -> None:
    nothing = vars(parser.parse_args([]))
    assert vars(parser.parse_args(given)) == nothing | expected


def test_a_file_of_options_is_refused(parser: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", "a.yaml"])
    assert "files of options are not read" in capsys.readouterr().err
    parser.add_argument("--config")
    assert parser.parse_args(["--config", "a.yaml"]).config == "a.yaml"


def test_what_programs_read_of_options_that_plait_does_not_act_on() -> None:
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    args = parser.parse_args(["--model", "m", "--pipeline_parallel_size", "1", "-tp", "1"])
    given = vars(args)
    assert given.pop("data_parallel_size") == 1
    assert given["enable_expert_parallel"] in (None, False)
    engine_args = EngineArgs.from_cli_args(args)
    assert engine_args == EngineArgs("m")
    assert engine_args.tensor_parallel_size == engine_args.pipeline_parallel_size == 1
    assert EngineArgs(**given) == engine_args, "as LLM(**vars(args)) hands it over"
    with pytest.raises(AttributeError, match="'EngineArgs' object has no attribute 'tensor_size'"):
        _ = engine_args.tensor_size
    with pytest.raises(InputError, match="one device"):
        EngineArgs.from_cli_args(parser.parse_args(["--model", "m", "--data-parallel-size", "2"]))


def test_settings_are_judged_by_the_engine() -> None:
    config = CompilationConfig(mode=CompilationMode.VLLM_COMPILE, level=3)
    assert (config.mode, config.level) == (3, 3)
    assert config == CompilationConfig(mode=3, level=3) != ProfilerConfig(mode=3, level=3)
    assert "level=3" in repr(config)
    EngineArgs("m", compilation_config={"level": 3})
    with pytest.raises(InputError, match="profiler_config"):
        EngineArgs("m", profiler_config=ProfilerConfig(profiler="torch"))
    with pytest.raises(InputError, match="structured_outputs"):
        SamplingParams(structured_outputs=StructuredOutputsParams(choice=["a", "b"]))
    for wrong in ({}, {"regex": "a", "json": "{}"}):
        with pytest.raises(InputError, match="one kind of constraint"):
            StructuredOutputsParams(**wrong)  # type: ignore[arg-type]


def test_things_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    import transformers.utils.logging  # noqa: F401 it gives all loggers such methods

    logger: Any = init_logger("a.program")
    assert logger is init_logger("a.program") is logging.getLogger("a.program")
    with caplog.at_level("INFO", logger="a.program"):
        for number in (1, 1, 2):
            logger.info_once("number %d", number)
            logger.warning_once("a warning", scope="global")
        logger.info("number %d", 1)
    assert [record.getMessage() for record in caplog.records] == [
        "number 1",
        "a warning",
        "number 2",
        "number 1",
    ]
    assert {record.filename for record in caplog.records} == {"test_stand_ins.py"}


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert current_platform.is_cpu() == (not torch.cuda.is_available())
    assert current_platform.device_type in ("cpu", "cuda")
    assert not current_platform.is_tpu()
    assert len({random_uuid() for _ in range(9)}) == 9
    assert len(random_uuid()) == 16
    with socket.socket() as probe:
        probe.bind(("", get_open_port()))
    socket.inet_aton(get_ip())
    monkeypatch.setenv("VLLM_HOST_IP", "192.0.2.7")
    assert get_ip() == "192.0.2.7"
    cleanup_dist_env_and_memory()
    destroy_model_parallel()


def test_small_things() -> None:
    counter = Counter(3)
    assert [next(counter), next(counter)] == [3, 4]
    counter.reset()
    assert next(counter) == 0
    assert UsageContext.LLM_CLASS == "LLM_CLASS"


def test_attention_backends_are_named_by_their_enumeration() -> None:
    backend = AttentionBackendEnum["FLASH_ATTN"]
    EngineArgs("m", attention_backend=backend)
    EngineArgs("m", attention_config=AttentionConfig(backend=AttentionBackendEnum.TRITON_ATTN))
    with pytest.raises(InputError, match="attention_backend='FLASHMLA'"):
        EngineArgs("m", attention_backend="FLASHMLA")


def test_a_chat_template_is_a_file_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages }}")
    assert load_chat_template(None) is None
    assert load_chat_template(chat_template=str(file)) == "{{ messages }}"
    assert load_chat_template(file) == load_chat_template("{{ messages }}")
    assert load_chat_template("t.jinja", is_literal=True) == "t.jinja"
    with pytest.raises(InputError, match="no such file"):
        load_chat_template("t.jinja")
    with pytest.raises(TypeError, match="is a str"):
        load_chat_template(file, is_literal=True)
