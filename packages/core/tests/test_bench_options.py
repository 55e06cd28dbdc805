"""Options of the benchmarks are spelt alike: a list has commas, spaces, or both."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from plait.bench import cpu, offline

CPU: tuple[Any, ...] = (cpu.add_options, ["--cells", "--dtype"], [], {})
OFFLINE: tuple[Any, ...] = (
    lambda parser: offline.add_options(parser, "decode"),
    ["--cells", "--ranks", "--target-modules"],
    ["--shape", "llama-3.1-8b"],
    {"--ranks": [8, 16]},
)
TWO: dict[str, list[str]] = {
    "--cells": ["D:4:0", "D:4:8"],
    "--dtype": ["float32", "bfloat16"],
    "--ranks": ["8", "16"],
    "--target-modules": ["q_proj", "v_proj"],
}


def parse(add_options: Any, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(("add_options", "options", "needed", "read"), [CPU, OFFLINE])
def test_a_list_is_written_with_commas_or_spaces(
    add_options: Any, options: list[str], needed: list[str], read: dict[str, Any]
) -> None:
    for option in options:
        one, two = TWO[option]
        for written in ([f"{one},{two}"], [one, two], [f"{one},", two], [f" {one} , {two}"]):
            found = parse(add_options, [*needed, option, *written])
            name = option[2:].replace("-", "_")
            assert getattr(found, name) == read.get(option, [one, two])


@pytest.mark.parametrize(
    ("add_options", "arguments", "said"),
    [
        (
            CPU[0],
            ["--dtype", "float32,int8"],
            "invalid choice: 'int8' (choose from float32, bfloat16)",
        ),
        (CPU[0], ["--cells", ","], "the list is empty"),
        (OFFLINE[0], [*OFFLINE[2], "--ranks", "8,none"], "'none' is not a number"),
    ],
)
def test_a_wrong_item_is_named(
    add_options: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(add_options, arguments)
    assert said in capsys.readouterr().err
