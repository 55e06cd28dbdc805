"""The command, end to end on a tiny model beside transformers + peft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plait.bench.__main__ import main
from plait.bench.worker import Worker


def test_measure_beside_peft(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    options = ["--quick", "--threads", "1", "--dtype", "float32"]
    options += ["--model", str(tiny_model), "--output", str(output)]
    assert main(["cpu", *options, "--cells", "mixed-8", "adapters-8-of-base"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["cell"], line["system"]) for line in lines] == [
        ("mixed-8", "plait, LoRA on"),
        ("mixed-8", "transformers + peft"),
        ("adapters-8-of-base", "plait, LoRA on"),
        ("adapters-8-of-base", "plait"),
    ]
    assert [(line["adapters"], line["base_rows"]) for line in lines] == [
        (8, 16),
        (8, 16),
        (8, 0),
        (0, 32),
    ]
    assert [sorted(line["versions"]) for line in lines] == [
        ["plait", "torch", "transformers"],
        ["peft", "torch", "transformers"],
        ["plait", "torch", "transformers"],
        ["plait", "torch", "transformers"],
    ]
    for line in lines:
        assert (line["requests"], line["prompt_tokens"], line["output_tokens"]) == (32, 32, 8)
        assert len(line["seconds"]) == 2
        assert min(line["seconds"]) > 0
        assert line["tokens_per_second"]["each"] == [256 / seconds for seconds in line["seconds"]]
    # Rows with a near tie among their 8 tokens may differ.
    assert lines[0]["equal_rows"] > 0.9
    assert lines[2]["equal_rows"] is None
    printed = capsys.readouterr()
    table = printed.out.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["mixed-8", "adapters-8-of-base"]
    assert "mixed-8: plait, LoRA on, float32 / transformers + peft, float32" in printed.err
    assert "pair 2 of 2: " in printed.err


def test_adapters_of_the_benchmark_change_the_answers(tiny_model: Path, tmp_path: Path) -> None:
    with Worker("the files", "transformers_system") as worker:
        folder, names = str(tmp_path), ["a", "b"]
        worker.call("make_adapters", model=str(tiny_model), folder=folder, names=names, rank=16)
        config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
        assert config["r"] == 16
        assert len(config["target_modules"]) == 7
        sizes = {"max_model_len": 32, "max_num_seqs": 3, "threads": 1, "options": {}}
        worker.call(
            "load", model=str(tiny_model), dtype="float32", lora=True, max_loras=None, **sizes
        )
        adapters = [None, str(tmp_path / "a"), str(tmp_path / "b")]
        prompts = [list(range(1, 9))] * 3
        rows = worker.call("generate", prompts=prompts, adapters=adapters, output_tokens=16).result
    assert len({tuple(row) for row in rows}) == 3
    assert {len(row) for row in rows} == {16}


def test_a_system_that_fails_is_told_and_what_was_measured_stays(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    options = ["--quick", "--pairs", "1", "--threads", "1", "--dtype", "float32"]
    options += ["--model", str(tiny_model), "--output", str(output), "--peer", "none"]
    # No adapter fits, which the base model does not mind.
    options += ["--cells", "base", "mixed-8", "--llm", '{"lora_memory_bytes": 1}']
    assert main(["cpu", *options]) == 1
    printed = capsys.readouterr()
    assert "error: the worker of plait, LoRA on, float32 failed in 'generate'" in printed.err
    (line,) = output.read_text().splitlines()
    assert json.loads(line)["cell"] == "base"
    assert [text.split()[0] for text in printed.out.split("\n\n")[1].splitlines()[2:]] == ["base"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peer", "vllm"], "--peer vllm needs --peer-python"),
        (["--cells", "nonsense"], "unknown cell 'nonsense'"),
    ],
)
def test_options_that_cannot_be_served(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cpu", *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "0"], "'0' is not a number of at least 1"),
        (["--threads", "two"], "'two' is not a number of at least 1"),
        (["--llm", "[1]"], "'[1]' is not a JSON object"),
        (["--peer-llm", "{"], "'{' is not a JSON object"),
        (["--peer-env", "NAME"], "'NAME' is not NAME=VALUE"),
        (["--peer", "nobody"], "invalid choice: 'nobody'"),
        (["--dtype", "float64"], "invalid choice: 'float64'"),
    ],
)
def test_options_that_cannot_be_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["cpu", *options])
    told = capsys.readouterr().err
    assert f"argument {options[0]}: " in told
    assert message in told
