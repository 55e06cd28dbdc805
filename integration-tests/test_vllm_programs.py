"""Programs written for vLLM's LoRA page run with the import changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plait import EngineArgs, LLMEngine, LoRARequest, RequestOutput, SamplingParams
from plait.demo.model import adapter_path
from plait.demo.questions import prompts

HERE = Path(__file__).parent


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
