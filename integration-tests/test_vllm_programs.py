"""Programs written for vLLM: with the import changed, and unchanged under ``plait_vllm``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plait import EngineArgs, LLMEngine, LoRARequest, RequestOutput, SamplingParams
from plait.demo.model import adapter_path
from plait.demo.questions import prompts

HERE = Path(__file__).parent
PROGRAMS = HERE / "vllm-programs"
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def create_test_prompts() -> list[tuple[str, SamplingParams, LoRARequest | None]]:
    """The multi-LoRA example's requests: base and two adapters, each way of sampling."""
    sql, as_json = (
        LoRARequest(name, i, str(adapter_path(name))) for i, name in ((1, "sql"), (2, "json"))
    )
    plain = SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=1, max_tokens=128)
    drawn = SamplingParams(temperature=0.8, top_k=5, presence_penalty=0.2, max_tokens=128)
    several = SamplingParams(
        temperature=0.8, n=3, logprobs=1, stop_token_ids=[32003], max_tokens=128, seed=1
    )
    return [
        ("A robot may not injure a human being", plain, None),
        ("To be or not to be,", drawn, None),
        (prompts()[0], plain, sql),
        (prompts()[1], several, sql),
        (prompts()[0], plain, as_json),
        (prompts()[1], several, as_json),
    ]


@pytest.fixture(scope="module")
def finished(model_path: Path) -> dict[str, RequestOutput]:
    engine_args = EngineArgs(
        model=str(model_path),
        enable_lora=True,
        max_loras=1,
        max_lora_rank=8,
        max_cpu_loras=2,
        max_num_seqs=256,
        max_model_len=1024,
        enforce_eager=True,
    )
    engine = LLMEngine.from_engine_args(engine_args)
    test_prompts = create_test_prompts()
    request_id = 0
    done: dict[str, RequestOutput] = {}
    while test_prompts or engine.has_unfinished_requests():
        if test_prompts:
            prompt, params, lora_request = test_prompts.pop(0)
            engine.add_request(str(request_id), prompt, params, lora_request=lora_request)
            request_id += 1
        for output in engine.step():
            if output.finished:
                done[output.request_id] = output
    assert engine.list_loras() == {1, 2}
    return done


def test_every_request_finishes(finished: dict[str, RequestOutput]) -> None:
    assert sorted(finished) == [str(i) for i in range(6)]
    assert [len(finished[str(i)].outputs) for i in range(6)] == [1, 1, 1, 3, 1, 3]
    for output in finished.values():
        assert output.error is None
        for completion in output.outputs:
            assert completion.finish_reason in ("stop", "length")
            assert len(completion.token_ids) <= 128
            assert completion.finished()
        assert output.metrics is not None
        assert output.metrics.first_token_ts is not None


def test_each_adapter_answers_in_its_way(finished: dict[str, RequestOutput]) -> None:
    assert finished["2"].outputs[0].text.strip().startswith("SELECT")
    assert isinstance(json.loads(finished["4"].outputs[0].text.split("[/assistant]")[0]), dict)


def test_logprobs_are_there_where_they_were_asked_for(
    finished: dict[str, RequestOutput],
) -> None:
    for name in ("0", "2", "4"):
        output = finished[name]
        assert output.prompt_logprobs is not None
        assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
        assert output.prompt_logprobs[0] is None
        completion = output.outputs[0]
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.token_ids)
        for token, entry in zip(completion.token_ids, completion.logprobs, strict=True):
            assert entry[token].rank == 1, "greedy takes the best"
        total = sum(
            e[t].logprob for t, e in zip(completion.token_ids, completion.logprobs, strict=True)
        )
        assert completion.cumulative_logprob == pytest.approx(total)
    assert finished["1"].outputs[0].logprobs is None


def test_completions_of_one_prompt_differ(finished: dict[str, RequestOutput]) -> None:
    for name in ("3", "5"):
        assert [c.index for c in finished[name].outputs] == [0, 1, 2]
    texts = {c.text for name in ("3", "5") for c in finished[name].outputs}
    assert len(texts) > 2


def test_the_seed_program() -> None:
    """Runs from another directory, as a user's program does."""
    run = subprocess.run(
        [sys.executable, str(HERE / "seed_program.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("SELECT") == 3


def test_vllm_import_paths() -> None:
    from plait.lora.request import LoRARequest as Moved

    assert Moved is LoRARequest


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer: one token a byte, and a chat template."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    rust = Tokenizer(models.BPE(letters | {"</s>": 256}, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>")
    tokenizer.chat_template = CHAT
    path = tmp_path_factory.mktemp("tiny-with-text")
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=256,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("adapter")
    options: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"], "r": 8}
    lora = LoraConfig(init_lora_weights=False, **options)
    torch.manual_seed(1)
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny), lora).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def home(tiny: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the hub's library in which both are downloaded already."""
    home = tmp_path_factory.mktemp("home")
    for name, folder in (("tiny", tiny), ("adapter", adapter)):
        repository = home / "hub" / f"models--owner--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("a" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    return home


@pytest.fixture(scope="module")
def printed(home: Path) -> dict[str, list[str]]:
    """What each program prints, all of them in one process under ``python -m plait_vllm``."""
    limits = ["--max_num_seqs", "8", "--num-gpu-blocks-override=64"]
    calls: list[tuple[str, ...]] = [
        ("command_line.py", *limits, "--max-tokens", "7", "--temperature", "0", "--seed=3"),
        ("chats.py",),
        ("engine_loop.py", "--model", "owner/tiny", *limits, "--enforce-eager"),
        ("adapters.py",),
        ("streaming.py",),
        ("counting.py",),
    ]
    names = {program.name for program in PROGRAMS.glob("*.py")} - {"run_several.py"}
    assert {call[0] for call in calls} == names
    command = (sys.executable, "-m", "plait_vllm", "run_several.py", json.dumps(calls))
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=PROGRAMS, env=environment
    )
    assert done.returncode == 0, done.stderr
    output: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return {name: text.splitlines() for name, text in output.items()}


@pytest.fixture(scope="module")
def oracle_tokens(tiny: Path, adapter: Path) -> Callable[..., list[int]]:
    """Greedy tokens of transformers and peft."""
    from peft import PeftModel

    base = LlamaForCausalLM.from_pretrained(tiny).eval()
    with_adapter = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny), str(adapter))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny)

    def greedy(prompt: str, length: int, *, adapted: bool = False) -> list[int]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        model: Any = with_adapter.eval() if adapted else base
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=False,
                pad_token_id=0,
            )
        answer: list[int] = made[0, ids.shape[1] :].tolist()
        return answer

    return greedy


def test_a_program_with_vllms_command_line(
    printed: dict[str, list[str]], oracle_tokens: Callable[..., list[int]]
) -> None:
    prompts = ["Hello, my name is", "The future of AI is"]
    expected = [f"{i} {prompt!r} {oracle_tokens(prompt, 7)}" for i, prompt in enumerate(prompts)]
    assert printed["command_line.py"] == expected


def test_a_program_that_chats(printed: dict[str, list[str]]) -> None:
    whole = "<user>Hello<assistant>Yes?<user>Go on.<assistant>"
    other = "user: Hello\nassistant: Yes?\nuser: Go on.\n"
    assert printed["chats.py"] == [
        f"0 {whole!r} 3",
        f"1 {whole!r} 3",
        f"2 {'<user>Hello<assistant>'!r} 3",
        f"3 {other!r} 3",
    ]


def test_a_program_that_steps(printed: dict[str, list[str]]) -> None:
    *lines, unfinished = printed["engine_loop.py"]
    assert unfinished == "0"
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in sorted(lines)}
    assert list(found) == ["0", "1", "2"]
    assert re.fullmatch(r"\[\d+\] True", found["0"])
    assert re.fullmatch(r"\[\d+\] False", found["1"])
    assert re.fullmatch(r"\[\d+, \d+\] False", found["2"])


def test_a_program_with_adapters(
    printed: dict[str, list[str]], oracle_tokens: Callable[..., list[int]]
) -> None:
    base, adapted = (oracle_tokens("Name the", 8, adapted=wanted) for wanted in (False, True))
    assert base != adapted
    expected = [f"0 None {base}", f"1 sql {adapted}", f"2 sql2 {adapted}"]
    assert sorted(printed["adapters.py"]) == expected


def test_a_program_that_streams(
    printed: dict[str, list[str]], oracle_tokens: Callable[..., list[int]]
) -> None:
    assert printed["streaming.py"] == [
        f"stream-0 {oracle_tokens('The future of', 6)}",
        f"stream-1 {oracle_tokens('In a galaxy', 6)}",
        "done while paused: False",
        f"paused {oracle_tokens('The key', 6)}",
    ]


def test_a_program_that_counts(printed: dict[str, list[str]]) -> None:
    same, *metrics = printed["counting.py"]
    assert same == "the same: True"
    assert "vllm:num_requests_running (gauge) = 0.0" in metrics
    assert "vllm:generation_tokens (counter) = 16" in metrics
    # One or two blocks of 16 are found for 35 to 42 tokens: the first prompt's.
    found = re.findall(r"vllm:prefix_cache_hits \(counter\) = (\d+)", "\n".join(metrics))
    assert len(found) == 1
    assert int(found[0]) >= 3 * 16


def test_what_the_page_says_of_it_runs(
    tiny: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (HERE.parent / "docs" / "how-to" / "run-a-vllm-program.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    code = code.replace("path/to/model", str(tiny)).replace("path/to/adapter", str(adapter))
    exec(code.replace("max_model_len=1024", "max_model_len=256"), {"__name__": "page"})
    assert capsys.readouterr().out.strip()
