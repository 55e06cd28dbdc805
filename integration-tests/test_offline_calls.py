"""What LLM offers beside generate and chat: queues, sleep, metrics, beam search, refusals."""

from __future__ import annotations

import functools
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM

from plait import (
    LLM,
    BeamSearchParams,
    LoRARequest,
    RequestOutput,
    SamplingParams,
    offline_requests,
)
from plait.metrics import Counter, Gauge
from plait_kernels.errors import InputError, RequestsFailed

GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
PROMPTS = [[3, 7, 11], [2, 4, 6, 8], [9, 9]]


@pytest.fixture(scope="module")
def engine(make_tiny_llm: Callable[..., LLM]) -> LLM:
    return make_tiny_llm()


@pytest.fixture
def llm(engine: LLM) -> Iterator[LLM]:
    """Each test leaves it idle and awake."""
    yield engine
    assert not engine.llm_engine.has_unfinished_requests()
    assert engine.llm_engine.get_num_unfinished_requests() == 0
    assert engine.wake_up()


def tokens(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def test_ids_are_numbered_over_the_life_of_an_llm(make_tiny_llm: Callable[..., LLM]) -> None:
    llm = make_tiny_llm()
    first = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    assert [o.request_id for o in first] == ["0", "1", "2"]
    with pytest.raises(RequestsFailed) as caught:
        llm.generate([[1], [999_999], [2]], GREEDY, use_tqdm=False)
    outputs: list[Any] = caught.value.outputs
    assert [o.request_id for o in outputs] == ["3", "4", "5"]
    assert llm.enqueue([[1], [2]], GREEDY) == ["6", "7"]
    assert [o.request_id for o in llm.wait_for_completion(use_tqdm=False)] == ["6", "7"]
    several = SamplingParams(n=3, seed=1, max_tokens=2)
    assert llm.generate([1], several, use_tqdm=False)[0].request_id == "8"
    assert llm.generate([1], GREEDY, use_tqdm=False)[0].request_id == "9"


def test_what_is_enqueued_is_what_generate_gives(
    llm: LLM, save_tiny_adapter: Callable[..., Path]
) -> None:
    adapter = LoRARequest("one", 1, str(save_tiny_adapter(seed=1)))
    expected = llm.generate(PROMPTS, GREEDY, lora_request=[None, adapter, None], use_tqdm=False)
    names = llm.enqueue(PROMPTS[:1], GREEDY)
    names += llm.enqueue(PROMPTS[1:], GREEDY, [adapter, None], [1, 0])
    assert llm.llm_engine.get_num_unfinished_requests() == 3
    # A call in between waits for its own only, and loses nothing of the others.
    assert tokens(llm.generate(PROMPTS[0], GREEDY, use_tqdm=False)) == tokens(expected[:1])
    outputs = llm.wait_for_completion(RequestOutput, use_tqdm=False)
    assert [o.request_id for o in outputs] == names
    assert tokens(outputs) == tokens(expected)
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_enqueue_queues_all_or_none(llm: LLM) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        llm.enqueue([[1], [2], []], GREEDY)
    assert llm.llm_engine.get_num_unfinished_requests() == 0
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_failures_are_told_when_they_are_waited_for(llm: LLM, tmp_path: Path) -> None:
    bad = LoRARequest("bad", 7, str(tmp_path))
    llm.enqueue(PROMPTS, GREEDY, [None, bad, None])
    with pytest.raises(RequestsFailed) as caught:
        llm.wait_for_completion(use_tqdm=False)
    assert list(caught.value.errors) == [1]
    outputs: list[Any] = caught.value.outputs
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "error", "length"]
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_an_interrupted_wait_may_be_repeated(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tokens(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    llm.enqueue(PROMPTS, GREEDY)
    step, calls = llm.llm_engine.step, iter(range(100))

    def interrupted() -> list[RequestOutput]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(llm.llm_engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.wait_for_completion(use_tqdm=False)
    assert tokens(llm.wait_for_completion(use_tqdm=False)) == expected


def test_a_request_that_somebody_else_ends_is_not_waited_for(llm: LLM) -> None:
    first, second, third = llm.enqueue(PROMPTS, GREEDY)
    llm.llm_engine.abort_request(first)
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [o.request_id for o in outputs] == [second, third]
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "length"]
    llm.enqueue(PROMPTS, GREEDY)
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()
    assert llm.wait_for_completion(use_tqdm=False) == []


def test_threads_get_their_own_outputs(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (3, 9, 6)]
    expected = tokens(llm.generate(PROMPTS, params, use_tqdm=False))

    def work(turn: int) -> bool:
        order = [(turn + i) % 3 for i in range(3)]
        outputs = llm.generate(
            [PROMPTS[i] for i in order], [params[i] for i in order], use_tqdm=False
        )
        return tokens(outputs) == [expected[i] for i in order]

    names = llm.enqueue(PROMPTS, params)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(16), timeout=60)) == [True] * 16
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [o.request_id for o in outputs] == names
    assert tokens(outputs) == expected


def test_sleep_without_giving_up_memory(llm: LLM) -> None:
    expected = tokens(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    llm.sleep(level=0)
    llm.enqueue(PROMPTS, GREEDY)
    for call in (llm.wait_for_completion, lambda: llm.generate([1], GREEDY)):
        with pytest.raises(InputError, match="the LLM sleeps"):
            call()
    assert not llm.wake_up(tags=["weights"])
    assert llm.wake_up(tags=["scheduling"])
    assert tokens(llm.wait_for_completion(use_tqdm=False)) == expected
    for mode, reason in (("keep", "length"), ("wait", "length"), ("abort", "abort")):
        llm.enqueue(PROMPTS[0], GREEDY)
        llm.sleep(0, mode)
        assert (llm.llm_engine.get_num_unfinished_requests() == 1) == (mode == "keep")
        llm.wake_up()
        (output,) = llm.wait_for_completion(use_tqdm=False)
        assert output.outputs[0].finish_reason == reason, mode


def metrics(llm: LLM) -> dict[str, float]:
    found = llm.get_metrics()
    assert all(isinstance(metric, Counter | Gauge) for metric in found)
    assert len({metric.name for metric in found}) == len(found)
    model = llm.model_config.model
    assert all(metric.labels == {"model_name": model, "engine": "0"} for metric in found)
    return {
        metric.name.removeprefix("vllm:"): metric.value
        for metric in found
        if isinstance(metric, Counter | Gauge)
    }


def test_metrics_count_what_happened(make_tiny_llm: Callable[..., LLM]) -> None:
    llm = make_tiny_llm()
    assert set(metrics(llm).values()) == {0}
    prompt = list(range(3, 43))  # Two full blocks of 16, and 8 tokens.
    llm.generate(prompt, GREEDY, use_tqdm=False)
    llm.generate(prompt, GREEDY, use_tqdm=False)
    now = metrics(llm)
    assert (now["prompt_tokens"], now["generation_tokens"]) == (80, 10)
    assert (now["prefix_cache_queries"], now["prefix_cache_hits"]) == (80, 32)
    assert now["num_preemptions"] == now["num_requests_running"] == now["kv_cache_usage_perc"] == 0
    llm.enqueue([prompt, prompt], GREEDY)
    assert metrics(llm)["num_requests_waiting"] == 2
    llm.llm_engine.step()
    assert metrics(llm)["num_requests_running"] == 2
    # The cached blocks are shared; each has one of its own.
    assert metrics(llm)["kv_cache_usage_perc"] == pytest.approx(4 / 64)
    assert llm.reset_prefix_cache(reset_running_requests=True)
    now = metrics(llm)
    assert (now["num_preemptions"], now["num_requests_running"]) == (2, 0)
    assert now["num_requests_waiting"] == 2
    llm.wait_for_completion(use_tqdm=False)


@pytest.mark.parametrize("ahead", [False, True])
def test_running_requests_start_over(
    make_tiny_llm: Callable[..., LLM], plan_ahead: Callable[[LLM], LLM], ahead: bool
) -> None:
    llm = make_tiny_llm()
    if ahead:
        plan_ahead(llm)
    params = [GREEDY, SamplingParams(max_tokens=6, seed=3, logprobs=1, prompt_logprobs=1), GREEDY]
    expected = llm.generate(PROMPTS, params, use_tqdm=False)
    llm.enqueue(PROMPTS, params)
    for _ in range(3):
        llm.llm_engine.step()
        assert llm.reset_prefix_cache(True) is True
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert tokens(outputs) == tokens(expected)
    assert outputs[1].prompt_logprobs is not None
    assert len(outputs[1].prompt_logprobs) == len(PROMPTS[1])
    assert not any(output.num_cached_tokens for output in outputs)


def find(
    model: LlamaForCausalLM,
    prompt: list[int],
    width: int,
    stop: int | None = None,
    penalty: float = 1.0,
    length: int = 5,
) -> list[tuple[list[int], float]]:
    """Search with transformers' logits, a beam at a time."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float]] = []

    def score(beam: tuple[list[int], float]) -> float:
        return beam[1] / len(beam[0]) ** penalty

    for _ in range(length):
        grown = []
        for new, total in beams:
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + new])).logits[0, -1]
            best = logits.double().log_softmax(-1).topk(2 * width)
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            grown += [([*new, token], total + value) for token, value in pairs]
        done += [beam for beam in grown if beam[0][-1] == stop]
        open_beams = [beam for beam in grown if beam[0][-1] != stop]
        beams = sorted(open_beams, key=score, reverse=True)[:width]
    return sorted(done + beams, key=score, reverse=True)[:width]


@pytest.mark.parametrize(("width", "penalty"), [(1, 1.0), (2, 0.0), (4, -0.5), (4, 1.0)])
def test_beam_search_finds_what_transformers_logits_say(
    llm: LLM, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, width: int, penalty: float
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_model).eval()
    # The best sequence goes through it, so it ends some of the beams.
    stop = find(model, PROMPTS[0], width)[0][0][2]
    monkeypatch.setattr(llm.llm_engine, "eos_token_ids", (stop,))
    params = BeamSearchParams(beam_width=width, max_tokens=5, length_penalty=penalty)
    outputs = llm.beam_search(PROMPTS, params, concurrency_limit=2)
    assert len(outputs) == len(PROMPTS)
    ends = set()
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        expected = find(model, prompt, width, stop, penalty)
        assert [one.tokens[len(prompt) :] for one in output.sequences] == [e[0] for e in expected]
        for one, (new, total) in zip(output.sequences, expected, strict=True):
            assert one.cum_logprob == pytest.approx(total, abs=1e-3)
            assert one.finish_reason == ("stop" if new[-1] == stop else "length")
            assert len(one.logprobs) == len(new)
            assert one.tokens[: len(prompt)] == prompt
            ends.add(one.finish_reason)
    assert penalty > 0 or ends == {"stop", "length"}, "where shorter ones are better"
    (longer,) = llm.beam_search(
        PROMPTS[:1], BeamSearchParams(beam_width=width, max_tokens=5, ignore_eos=True)
    )
    expected = find(model, PROMPTS[0], width)
    assert [one.tokens[len(PROMPTS[0]) :] for one in longer.sequences] == [e[0] for e in expected]


def test_beam_search_with_an_adapter(llm: LLM, save_tiny_adapter: Callable[..., Path]) -> None:
    adapter = LoRARequest("beam", 21, str(save_tiny_adapter(seed=4)))
    params = BeamSearchParams(beam_width=1, max_tokens=5, ignore_eos=True)
    outputs = llm.beam_search([PROMPTS[0]] * 2, params, lora_request=[adapter, None])
    found = [output.sequences[0].tokens[len(PROMPTS[0]) :] for output in outputs]
    # The best of one beam is what greedy takes.
    greedy = llm.generate([PROMPTS[0]] * 2, GREEDY, lora_request=[adapter, None], use_tqdm=False)
    assert found == tokens(greedy)
    assert found[0] != found[1]
    assert outputs[0].sequences[0].lora_request is adapter


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beam_width": 0}, "beam_width must be an integer from 1"),
        ({"beam_width": True}, "beam_width must be an integer from 1"),
        ({"max_tokens": "x" * 9999}, r"^.{1,200}$"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number"),
        ({"length_penalty": "a"}, "length_penalty must be a number"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs of a beam search is not"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids of a beam search is not served"),
        ({"watermarking": True}, "watermarking of a beam search is not served"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_beam_search_params_are_checked(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BeamSearchParams(**({"beam_width": 2, "max_tokens": 3} | keywords))


def test_beam_search_refuses_what_cannot_fit(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=126)
    with pytest.raises(InputError, match="a prompt of 3 tokens and max_tokens=126 are too long"):
        llm.beam_search(PROMPTS[:1], params)
    with pytest.raises(InputError, match="concurrency_limit must be"):
        llm.beam_search(PROMPTS[:1], BeamSearchParams(2, 3), concurrency_limit=0)
    with pytest.raises(InputError, match="priority has 1 entries for 2 prompts"):
        llm.beam_search(PROMPTS[:2], BeamSearchParams(2, 3), priority=[1])
    with pytest.raises(InputError, match="the prompt is empty"):
        llm.beam_search([[1], []], BeamSearchParams(2, 3))


def test_one_priority_for_all_and_one_each(llm: LLM) -> None:
    expected = tokens(llm.generate(PROMPTS, GREEDY, use_tqdm=False))
    for priority in (3, [2, 1, 0], None):
        outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False, priority=priority)
        assert tokens(outputs) == expected


def test_a_bar_of_ones_own(llm: LLM) -> None:
    made: list[Any] = []

    def bar(*arguments: Any, **keywords: Any) -> Any:
        made.append(tqdm(*arguments, **keywords))
        return made[-1]

    llm.generate(PROMPTS, GREEDY, use_tqdm=functools.partial(bar, leave=False))
    assert [one.n for one in made] == [3]


def test_token_ids_are_cut(llm: LLM) -> None:
    expected = tokens(llm.generate([8, 9], GREEDY, use_tqdm=False))
    cut = {"truncate_prompt_tokens": 2}
    prompt = {"prompt": "text", "prompt_token_ids": [7, 8, 9], "multi_modal_data": None}
    (output,) = llm.generate(prompt, GREEDY, use_tqdm=False, tokenization_kwargs=cut)
    assert (output.prompt, output.prompt_token_ids) == ("text", [8, 9])
    assert tokens([output]) == expected
    with pytest.raises(InputError, match="padding=True of tokenization_kwargs"):
        llm.generate([1], GREEDY, tokenization_kwargs={"padding": True})
    with pytest.raises(RequestsFailed) as caught:
        llm.generate([[1, 2, 3], []], GREEDY, use_tqdm=False, tokenization_kwargs=cut)
    assert list(caught.value.errors) == [1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("apply_model", "no torch module"),
        ("classify", "plait generates text"),
        ("collective_rpc", "no workers"),
        ("embed", "plait generates text"),
        ("encode", "plait generates text"),
        ("init_weight_transfer_engine", "not replaced"),
        ("release_kv_cache_memory", "one allocation"),
        ("reward", "plait generates text"),
        ("score", "plait generates text"),
        ("start_profile", "python -m plait.bench profile"),
        ("update_weights", "not replaced"),
    ],
)
def test_what_cannot_be_done_says_why(llm: LLM, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"{name} is not served: .*{reason}"):
        getattr(llm, name)("anything", at="all")


def test_other_refusals(llm: LLM) -> None:
    with pytest.raises(InputError, match=r"sleep\(level=1\) is not served"):
        llm.sleep()
    with pytest.raises(InputError, match="mode of sleep must be"):
        llm.sleep(0, mode="later")
    tags: Any
    for tags in (["everything"], "scheduling", 5, [10**5000]):
        with pytest.raises(InputError, match="tags of wake_up must be a list of"):
            llm.wake_up(tags=tags)
    parameters: Any = 5
    with pytest.raises(InputError, match="params must be BeamSearchParams"):
        llm.beam_search(PROMPTS, parameters)
    with pytest.raises(InputError, match="it runs nothing unless step"):
        llm.llm_engine.sleep()
    with pytest.raises(InputError, match="collective_rpc is not served"):
        llm.llm_engine.collective_rpc("anything")
    with pytest.raises(InputError, match="output_type must be RequestOutput"):
        llm.wait_for_completion(int)
    with pytest.raises(InputError, match="mm_processor_kwargs is not served"):
        llm.generate([1], GREEDY, mm_processor_kwargs={"num_crops": 4})
    assert llm.llm_engine.wake_up()
    assert not llm.llm_engine.is_sleeping()


def test_an_engine_says_what_it_is(llm: LLM, tiny_model: Path) -> None:
    config = llm.llm_engine.vllm_config
    assert config.model_config is not None
    assert config.model_config.model == llm.model_config.model == str(tiny_model)
    assert config.model_config.max_model_len == 128
    assert config.model_config.get_vocab_size() == 128
    assert config.cache_config.num_gpu_blocks == 64
    assert config.scheduler_config.max_num_seqs == 16
    assert config.parallel_config.world_size == llm.get_world_size() == 1
    assert config.lora_config is not None
    assert config.lora_config.max_loras is None
    assert llm.supported_tasks == llm.llm_engine.get_supported_tasks() == ("generate",)
    assert repr(llm) == f"LLM(model={str(tiny_model)!r})"


def test_statistics_go_to_the_log(llm: LLM, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="plait.llm_engine"):
        llm.llm_engine.do_log_stats()
    assert "vllm:num_requests_running=0" in caplog.text


def interrupted_before(line: int, call: Callable[[], Any]) -> Any:
    """Make a call, and raise KeyboardInterrupt before the given one of the lines that it runs.

    Returns
    -------
    Any
        What the call returned; None if it was interrupted.
    """
    lines = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # At these Python itself never looks for signals, and has no handler for what is raised.
        if event == "line" and not text.startswith(("try:", "finally:", "with ", "return ")):
            lines += 1
            if lines == line:
                raise KeyboardInterrupt
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        return on_line if frame.f_code.co_filename == offline_requests.__file__ else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        return call()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", ["enqueue", "wait_for_completion", "generate"])
def test_an_interrupt_at_any_line_loses_and_leaves_nothing(
    make_tiny_llm: Callable[..., LLM], name: str
) -> None:
    llm = make_tiny_llm(num_gpu_blocks_override=16)
    prompts = [[3, 7, 11], [2, 4]]
    params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
    expected = tokens(llm.generate(prompts, params, use_tqdm=False))
    calls: dict[str, Callable[[], Any]] = {
        "enqueue": lambda: llm.enqueue(prompts, params),
        "wait_for_completion": lambda: llm.wait_for_completion(use_tqdm=False),
        "generate": lambda: llm.generate(prompts, params, use_tqdm=False),
    }
    for line in itertools.count(1):
        queued = [] if name == "enqueue" else llm.enqueue(prompts, params)
        result = interrupted_before(line, calls[name])
        if name == "enqueue":
            queued = result or []
        if name != "wait_for_completion" or result is None:
            outputs = llm.wait_for_completion(use_tqdm=False)
        else:
            outputs = result
        assert [output.request_id for output in outputs] == queued, line
        assert tokens(outputs) == (expected if queued else []), line
        assert not llm.llm_engine.has_unfinished_requests(), line
        if result is not None:
            break
    assert line > 20


def test_arguments_of_a_request_stand_in_vllms_order(llm: LLM) -> None:
    engine = llm.llm_engine
    params = SamplingParams(temperature=0, max_tokens=1)
    cut = {"truncate_prompt_tokens": 2}
    engine.add_request("last", [3, 4, 5], params, None, None, cut, None, 7)
    engine.add_request("first", [3, 4, 5], params, None, None, None, {}, 0)
    found = {}
    while engine.has_unfinished_requests():
        found |= {output.request_id: output.prompt_token_ids for output in engine.step()}
    assert found == {"last": [4, 5], "first": [3, 4, 5]}
    for keywords in ({"trace_headers": {"a": "b"}}, {"prompt_text": "x"}, {"session_id": "s"}):
        (name,) = keywords
        with pytest.raises(InputError, match=name):
            engine.add_request("bad", [3], params, **keywords)
    engine.add_request("gone", [3], params)
    with pytest.raises(InputError, match="internal"):
        engine.abort_request(["gone"], internal=True)
    assert len(engine.abort_request(["gone"], internal=False)) == 1
