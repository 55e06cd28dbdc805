"""Options of a command line: vLLM's spelling, numbers with units, and what they become."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

from plait import AsyncEngineArgs, EngineArgs
from plait.argument_options import length, whole_number
from plait.keyword_tables import RULES, SUBJECTS
from plait_kernels.errors import InputError


def parse(line: str, cls: type[EngineArgs] = EngineArgs) -> EngineArgs:
    parser = cls.add_cli_args(argparse.ArgumentParser())
    return cls.from_cli_args(parser.parse_args(line.split()))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4096", 4096),
        (" 7 ", 7),
        ("-3", -3),
        ("1k", 1000),
        ("1K", 1024),
        ("25.6k", 25_600),
        ("0.001k", 1),
        ("2m", 2_000_000),
        ("2M", 2 * 2**20),
        ("1.5g", 1_500_000_000),
        ("3G", 3 * 2**30),
        ("1t", 10**12),
        ("1T", 2**40),
    ],
)
def test_a_number_may_have_a_unit(text: str, number: int) -> None:
    assert whole_number(text) == number
    assert length(text) == number


@pytest.mark.parametrize(
    "text", ["", "k", "1.5", "1.5K", "1kk", "1e3", "\u0661", "9" * 100, "x" * 999]
)
def test_what_is_no_number_is_said_so(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole number") as caught:
        whole_number(text)
    assert len(str(caught.value)) < 300


def test_every_argument_is_an_option() -> None:
    parser = argparse.ArgumentParser()
    assert EngineArgs.add_cli_args(parser) is parser
    text = parser.format_help()
    for field in dataclasses.fields(EngineArgs):
        assert f"--{field.name.replace('_', '-')} " in text.replace(",", " ")
    for name in RULES:
        assert f"--{name.replace('_', '-')} " not in text
    assert "Most requests that run at the same time." in " ".join(text.split())
    # A program may use names that vLLM has given up.
    parser.add_argument("--task")


def test_options_become_arguments() -> None:
    line = (
        "--model m --max-model-len 25.6k --max-num-seqs 8 --enable-lora --max-loras 4"
        " --no-enable-prefix-caching --gpu-memory-utilization 0.5 --kernels lora=torch"
        " --lora-target-modules q_proj v_proj --kv-cache-memory-bytes 1G --dtype half --seed -3"
        """ --override-generation-config {"temperature":0.5} --hf-token"""
    )
    assert parse(line) == EngineArgs(
        "m",
        max_model_len=25_600,
        max_num_seqs=8,
        enable_lora=True,
        max_loras=4,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.5,
        kernels="lora=torch",
        lora_target_modules=["q_proj", "v_proj"],
        kv_cache_memory_bytes=2**30,
        dtype="half",
        seed=-3,
        override_generation_config={"temperature": 0.5},
        hf_token=True,
    )
    assert parse("--model m --max-model-len auto").max_model_len == -1
    assert parse("--model m --max-model-len -1").max_model_len == -1
    assert parse("--model m") == EngineArgs("m")
    made = parse("--model m --enable-log-requests", AsyncEngineArgs)
    assert type(made) is AsyncEngineArgs


def test_vllms_other_options_are_known() -> None:
    line = (
        "--model m --tensor-parallel-size 1 --disable-log-stats --attention-backend FLASH_ATTN"
        """ --limit-mm-per-prompt {"image":0} --no-enable-expert-parallel --async-scheduling"""
    )
    assert parse(line) == EngineArgs("m")
    for wrong, named in {
        "--tensor-parallel-size 2": "one device",
        "--enable-expert-parallel": "experts",
        """--speculative-config {"method":"ngram"}""": "speculative",
    }.items():
        with pytest.raises(InputError, match=named):
            parse(f"--model m {wrong}")


def test_every_option_of_vllms_is_known() -> None:
    parser = EngineArgs.add_cli_args(argparse.ArgumentParser())
    options = {string for action in parser._actions for string in action.option_strings}
    for name in RULES.keys() - SUBJECTS["Older keywords"].keys():
        assert f"--{name.replace('_', '-')}" in options


@pytest.mark.parametrize(
    "line", ["--model m --max-model-len 1.5K", "--model m --override-generation-config [1]"]
)
def test_a_wrong_option_ends_the_program_with_a_message(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(line)
    assert "error: argument --" in capsys.readouterr().err


def test_programs_may_set_defaults_and_have_options_of_their_own() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions")
    AsyncEngineArgs.add_cli_args(parser)
    assert AsyncEngineArgs.add_cli_args(parser, async_args_only=True) is parser
    parser.set_defaults(model="m", enable_lora=True)
    args = parser.parse_args(["--questions", "7"])
    assert EngineArgs.from_cli_args(args) == EngineArgs("m", enable_lora=True)
    keywords: dict[str, Any] = vars(args)
    assert keywords.pop("questions") == "7"
    assert EngineArgs(**keywords) == EngineArgs("m", enable_lora=True)


def test_a_model_is_needed() -> None:
    with pytest.raises(InputError, match="--model"):
        parse("--max-num-seqs 8")


def test_options_that_take_several_values_do() -> None:
    args = parse("--model m --served-model-name a b --cudagraph-capture-sizes 1 2 --device-ids 0")
    assert args.model == "m"
    with pytest.raises(InputError, match=r"device_ids=\[0, 1\] is refused"):
        parse("--model m --device-ids 0 1")
    with pytest.raises(InputError, match=r"logits_processors=\['a:b', 'c:d'\]"):
        parse("--model m --logits-processors a:b c:d")
