"""The commands ``decode``, ``prefill`` and ``throughput``, on a tiny model on the CPU."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from plait.bench.__main__ import main
from plait.bench.offline_cells import DEFAULT_CELLS, OfflineCell, parse_cells
from plait.bench.offline_engines import EngineSetting
from plait.bench.workers.engine_system import System
from plait_kernels.errors import InputError

SMALL = ["--dtype", "float32", "--threads", "1", "--repeats", "2"]
SMALL += ["--prompt-tokens", "6", "--output-tokens", "3", "--max-num-seqs", "4"]
TINY = ["--shape", "tiny", *SMALL]
MEMORY = ["--llm", '{"lora_memory_bytes": 8000000}']

# What of vLLM is used, made of plait, and a file of what it was asked.
VLLM = """
    import json, os
    import plait
    from plait import SamplingParams

    __version__ = "0.0.test"

    def tell(**asked):
        with open(os.environ["ASKED"], "a") as file:
            file.write(json.dumps(asked) + "\\n")

    class EngineArgs(plait.EngineArgs):
        def __init__(self, **keywords):
            tell(keywords=keywords)
            super().__init__(**keywords)

    class LLMEngine(plait.LLMEngine):
        def add_request(self, request_id, prompt, params, lora_request):
            tell(prompt=prompt["prompt_token_ids"], path=lora_request and lora_request.lora_path)
            super().add_request(request_id, prompt, params, lora_request=lora_request)
"""


def cells(texts: str) -> list[OfflineCell]:
    return parse_cells(texts, prompt_tokens=None, output_tokens=None)


def test_cells_as_they_are_asked_for() -> None:
    assert cells("D:64:8, P:64:idle,T:512:0") == [
        OfflineCell("D", 64, 8, True, 128, 129),
        OfflineCell("P", 64, 0, True, 128, 1),
        OfflineCell("T", 512, 0, False, 256, 128),
    ]
    for kind, texts in DEFAULT_CELLS.items():
        assert {cell.kind for cell in cells(texts)} == {kind}
        assert ",".join(cell.name for cell in cells(texts)) == texts
    assert cells("D:5:2")[0].rows() == [0, 1, 0, 1, 0]
    assert cells("D:2:idle")[0].rows() == [None, None]
    assert cells("D:2:idle")[0].name == "D:2:idle"
    steady = cells("S:64:3")[0]
    assert (steady.prompt_tokens, steady.output_tokens, steady.arrivals) == (128, 128, 0.5)
    assert steady.rows() == [0, 1, 2] * 43
    assert len(steady.prompts(0, 0, 9)) == steady.all_requests == 129


def test_prompts_differ_by_repetition_and_by_nothing_else() -> None:
    one, same = (cells(text)[0].prompts(5, 0, 50) for text in ("D:3:0", "P:3:2"))
    other = cells("D:3:0")[0].prompts(5, 1, 50)
    assert one == same != other
    assert [len(prompt) for prompt in one] == [128] * 3
    assert {token for prompt in one + other for token in prompt} == set(range(50))


@pytest.mark.parametrize(
    "text", ["", "D", "D:4", "X:4:0", "D:0:0", "D:4:5", "D:4:x", "D:-4:0", "D:4:0:1", "D:4:0,"]
)
def test_what_is_no_cell(text: str) -> None:
    with pytest.raises(InputError, match=r"is not KIND:REQUESTS:ADAPTERS .* write D:64:8"):
        cells(text)


def test_a_cell_twice() -> None:
    with pytest.raises(InputError, match="names a cell twice"):
        cells("D:4:0,D:4:0")


def test_vllm_has_slots_for_the_adapters() -> None:
    setting = EngineSetting("vllm", "python", {}, {"dtype": "bfloat16"}, {"max_loras": 9})
    assert setting.all_keywords([], lora=False) == {
        "dtype": "bfloat16",
        "enable_lora": False,
        "max_loras": 9,
    }
    slots = {"max_loras": 9, "max_cpu_loras": 3, "max_lora_rank": 64}
    assert setting.all_keywords([8, 40, 16], lora=True).items() >= slots.items()
    idle = {"max_cpu_loras": 1, "max_lora_rank": 8}
    assert setting.all_keywords([], lora=True).items() >= idle.items()


def test_what_an_engine_has_given_after_each_step(tiny_model: Path) -> None:
    system = System()
    versions = system.load(
        "plait",
        {
            "model": str(tiny_model),
            "skip_tokenizer_init": True,
            "max_model_len": 32,
            "max_num_seqs": 3,
            # The third prompt does not fit beside the first two.
            "max_num_batched_tokens": 10,
        },
    )
    assert {"plait", "torch", "transformers"} <= set(versions)
    moments = system.run([[5, 9, 2, 7], [3, 1, 4, 1], [8, 1, 4, 4]], [None] * 3, 4)
    times = [seconds for seconds, *_ in moments]
    assert times == sorted(times)
    assert times[0] > 0
    # A step may return nothing.
    counts = list(dict.fromkeys(tuple(rest) for _, *rest in moments if rest[0]))
    assert counts == [(2, 2, 0), (5, 3, 0), (8, 3, 0), (11, 3, 2), (12, 3, 3)]


def test_requests_come_one_after_the_other(tiny_model: Path) -> None:
    system = System()
    limits = {"max_model_len": 32, "max_num_seqs": 3}
    system.load("plait", {"model": str(tiny_model), "skip_tokenizer_init": True, **limits})
    moments = system.run([[5, 9, 2, 7]] * 5, [None] * 5, output_tokens=4, arrivals=0.5)
    # One comes with every second step, and gives a token a step from then on.
    counts = [tuple(rest) for _, *rest in moments]
    assert counts[:6] == [(1, 1, 0), (2, 1, 0), (4, 2, 0), (6, 2, 1), (8, 3, 1), (10, 3, 2)]
    assert counts[-1] == (20, 5, 5)
    # Nobody has to wait for another one.
    alone = system.run([[5, 9, 2, 7]] * 2, [None] * 2, output_tokens=2, arrivals=0.25)
    assert tuple(alone[-1][1:]) == (4, 2, 2)


def test_the_command_beside_a_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "environment" / "vllm"
    (package / "lora").mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(VLLM))
    (package / "lora" / "request.py").write_text("from plait import LoRARequest\n")
    asked = tmp_path / "asked"
    peer = ["--peer", "vllm", "--peer-python", sys.executable, "--peer-llm", MEMORY[1]]
    peer += ["--peer-env", f"PYTHONPATH={package.parent}", f"ASKED={asked}"]
    output = tmp_path / "out.jsonl"
    options = [*TINY, *MEMORY, *peer, "--json", str(output), "--ranks", "4,8", "--warmup", "0"]
    options += ["--target-modules", "q_proj,down_proj"]
    assert main(["decode", *options, "--cells", "D:3:2,P:3:idle,S:3:1,T:6:2"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    names = ["D:3:2", "P:3:idle", "S:3:1", "T:6:2"]
    assert [(line["system"], line["cell"]) for line in lines] == [
        (system, name) for system in ("plait", "vLLM") for name in names
    ]
    assert [line["kind"] for line in lines[:4]] == ["decode", "prefill", "steady", "throughput"]
    assert [line["steps"] for line in lines] == [3, None, 4, None] * 2
    tokens = [3, 3 * 6, 3, 6 * 3]
    for line, done in zip(lines, tokens * 2, strict=True):
        seconds = line["seconds"]
        assert len(seconds["each"]) == 2
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        assert line["tokens_per_second"] == pytest.approx(done / seconds["median"])
        least = line["roofline"]["seconds"]
        assert line["of_roofline"] == pytest.approx(seconds["median"] / least)
        assert (line["model"], line["max_num_seqs"], line["max_num_batched_tokens"]) == (
            *("tiny", 4, 8192),
        )
        assert (line["ranks"], line["target_modules"]) == ([4, 8], ["q_proj", "down_proj"])
    assert [line["of_plait"] for line in lines[:4]] == [None] * 4
    for ours, other in zip(lines[:4], lines[4:], strict=True):
        ratio = other["seconds"]["median"] / ours["seconds"]["median"]
        assert other["of_plait"] == pytest.approx(ratio)
        assert "plait" in ours["versions"]
        assert other["versions"]["vllm"] == "0.0.test"
    told = [json.loads(line) for line in asked.read_text().splitlines()]
    expected = {"max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 8, "enable_lora": True}
    expected |= {"max_num_seqs": 4, "max_num_batched_tokens": 8192, "enable_prefix_caching": False}
    assert told[0]["keywords"].items() >= expected.items()
    decode = parse_cells("D:3:2", prompt_tokens=6, output_tokens=3)[0]
    prompts = [prompt for repetition in (0, 1) for prompt in decode.prompts(0, repetition, 512)]
    assert [line["prompt"] for line in told[1:7]] == prompts
    paths = [Path(line["path"]).name for line in told[1:7]]
    assert paths == ["adapter-0", "adapter-1", "adapter-0"] * 2
    assert all(line["path"] is None for line in told[7:13])
    printed = capsys.readouterr().out
    assert "tiny, float32, max_num_seqs 4, max_num_batched_tokens 8192" in printed
    table = [line.split() for line in printed.splitlines()[-8:]]
    assert [line[:2] for line in table] == [
        [name, system] for name in names for system in ("plait", "vLLM")
    ]


def test_what_was_measured_stays_when_an_engine_fails(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    # No adapter fits, which requests for the base model do not mind.
    options = [*SMALL, "--model", str(tiny_model), "--json", str(output)]
    options += ["--llm", '{"lora_memory_bytes": 1}']
    assert main(["prefill", *options, "--cells", "P:2:idle,P:2:1"]) == 1
    assert [json.loads(line)["cell"] for line in output.read_text().splitlines()] == ["P:2:idle"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("P:2:idle")
    assert "error: the worker of plait, LoRA on failed in " in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cells", "D:5:0"], "'D:5:0' runs 5 requests at the same time, but --max-num-seqs is 4"),
        (["--target-modules", "query"], "not distinct names of linears"),
        (["--peer", "vllm"], "--peer vllm needs --peer-python"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", *TINY, "--cells", "D:4:0", *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--ranks", "8,0"],
        ["--gpu-memory-utilization", "1.5"],
        ["--gpu-memory-utilization", "all"],
        ["--model", "somewhere"],
    ],
)
def test_malformed_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["decode", *TINY, *options])
    assert options[0] in capsys.readouterr().err
