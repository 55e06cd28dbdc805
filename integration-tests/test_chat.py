"""LLM.chat: what generate answers to the prompts that transformers makes of the conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plait import LLM, LoRARequest, SamplingParams
from plait.demo.model import adapter_path
from plait.demo.questions import prompts as demo_prompts
from plait_kernels.errors import InputError, RequestsFailed

GREEDY = SamplingParams(temperature=0, max_tokens=8)
CAPITAL: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]
COLOUR: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer with one word."},
    {"role": "user", "content": [{"type": "text", "text": "Which colour has the sky?"}]},
]
FLAT: list[dict[str, Any]] = [COLOUR[0], {"role": "user", "content": "Which colour has the sky?"}]


def expected(llm: LLM, conversation: Any, **options: Any) -> list[int]:
    keywords = {"add_generation_prompt": True} | options
    ids: list[int] = llm.get_tokenizer().apply_chat_template(
        conversation, tokenize=True, return_dict=False, **keywords
    )
    return ids


def test_one_conversation_and_several(llm: LLM) -> None:
    sql = LoRARequest("sql", 1, str(adapter_path("sql")))
    question: list[dict[str, Any]] = [{"role": "user", "content": demo_prompts()[0]}]
    prompts = [expected(llm, talk) for talk in (CAPITAL, FLAT, question, question)]
    loras = [None, None, None, sql]
    longer = SamplingParams(temperature=0, max_tokens=12)
    params = [GREEDY, longer, GREEDY, GREEDY]
    wanted = llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
    talks = [CAPITAL, COLOUR, question, question]
    answers = llm.chat(talks, params, lora_request=loras, use_tqdm=False)
    assert [a.prompt_token_ids for a in answers] == prompts
    assert [a.outputs[0].token_ids for a in answers] == [w.outputs[0].token_ids for w in wanted]
    assert answers[2].outputs[0].token_ids != answers[3].outputs[0].token_ids
    assert "Paris" in answers[0].outputs[0].text
    assert answers[0].prompt is not None
    assert answers[0].prompt.endswith("<|im_start|>assistant\n")
    alone = llm.chat(CAPITAL, GREEDY, use_tqdm=False)
    assert [a.outputs[0].text for a in alone] == [answers[0].outputs[0].text]


def test_a_message_is_continued(llm: LLM) -> None:
    started = [*CAPITAL, {"role": "assistant", "content": "The capital of France is"}]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    answer = llm.chat(started, GREEDY, use_tqdm=False, **options)[0]
    assert answer.prompt_token_ids == expected(llm, started, **options)
    assert answer.outputs[0].text.strip().startswith("Paris")


def test_a_bad_conversation_fails_alone(llm: LLM) -> None:
    with pytest.raises(RequestsFailed) as caught:
        llm.chat([CAPITAL, [], [{"content": "x"}], FLAT], GREEDY, use_tqdm=False)
    assert set(caught.value.errors) == {1, 2}
    assert all(isinstance(error, InputError) for error in caught.value.errors.values())
    outputs: list[Any] = caught.value.outputs
    assert "Paris" in outputs[0].outputs[0].text
    assert [o.outputs[0].finish_reason == "error" for o in outputs] == [False, True, True, False]
    with pytest.raises(InputError, match="the conversation is empty"):
        llm.chat([], GREEDY)
    with pytest.raises(InputError, match="sampling_params has 1 entries for 2 prompts"):
        llm.chat([CAPITAL, FLAT], [GREEDY])
    with pytest.raises(InputError, match="both True"):
        llm.chat(CAPITAL, GREEDY, continue_final_message=True)
    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(RequestsFailed) as caught:
        llm.chat([long, CAPITAL], GREEDY, use_tqdm=False)
    assert "too long" in str(caught.value.errors[0])
    assert "word word" in str(caught.value.outputs[0].prompt)  # type: ignore[attr-defined]


def test_an_engine_without_a_tokenizer(tiny_model: Path) -> None:
    llm = LLM(model=str(tiny_model), skip_tokenizer_init=True, num_gpu_blocks_override=16)
    with pytest.raises(InputError, match="skip_tokenizer_init=True"):
        llm.chat(CAPITAL, GREEDY)


def test_arguments_stand_where_vllm_has_them(llm: LLM) -> None:
    wanted = llm.chat([CAPITAL, FLAT], GREEDY, use_tqdm=False)
    template = llm.get_tokenizer().chat_template
    assert isinstance(template, str)
    # … use_tqdm, lora_request, priority, chat_template, its content format, add_generation_prompt
    answers = llm.chat([CAPITAL, FLAT], GREEDY, False, None, [1, 0], template, "string", True)
    assert [a.outputs[0].text for a in answers] == [w.outputs[0].text for w in wanted]
    names = llm.enqueue_chat([CAPITAL, COLOUR], GREEDY, False)
    answers = llm.wait_for_completion(use_tqdm=False)
    assert [a.request_id for a in answers] == names
    assert [a.outputs[0].text for a in answers] == [w.outputs[0].text for w in wanted]


def test_a_template_of_the_llm(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "_chat_template", "{{ messages[0].content }} It is")
    answer = llm.chat(CAPITAL, GREEDY, use_tqdm=False)[0]
    assert answer.prompt == "What is the capital of France? It is"
    other = llm.chat(CAPITAL, GREEDY, use_tqdm=False, chat_template="{{ messages[0].content }}")
    assert other[0].prompt == "What is the capital of France?"


def test_prompts_of_chats_are_cut(llm: LLM) -> None:
    whole = expected(llm, CAPITAL)
    cut = {"truncate_prompt_tokens": 5}
    (answer,) = llm.chat(CAPITAL, GREEDY, use_tqdm=False, tokenization_kwargs=cut)
    assert answer.prompt_token_ids == whole[-5:]
    text = "What is the capital of France?"
    ids = llm.get_tokenizer()(text).input_ids
    (output,) = llm.generate(text, GREEDY, use_tqdm=False, tokenization_kwargs=cut)
    assert (output.prompt, output.prompt_token_ids) == (text, ids[-5:])
