"""A request is who it is: nothing of another one of the same id reaches it, adding is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plait import LLM, EngineArgs, LoRARequest, SamplingParams
from plait.llm_engine import LLMEngine
from plait_kernels.errors import AdapterError, InputError, RequestsFailed

PROMPT = (3, 1, 4, 1, 5)
OTHER = (2, 7, 1, 8, 2)


@pytest.fixture(scope="module")
def made(engine_args: Callable[..., EngineArgs]) -> LLMEngine:
    return LLMEngine.from_engine_args(engine_args())


@pytest.fixture
def engine(
    made: LLMEngine, check_nothing_leaked: Callable[[LLMEngine], None]
) -> Iterator[LLMEngine]:
    yield made
    check_nothing_leaked(made)


def test_an_id_is_free_when_a_stop_string_has_ended_its_request(
    engine: LLMEngine, world: Any
) -> None:
    right = world.right(None, PROMPT)
    for i in range(4):
        # The first ends by a stop string, which the core does not know of.
        stop = [f"w{right[1]}"] if i % 2 == 0 else None
        prompt = PROMPT if i % 2 == 0 else OTHER
        engine.add_request("r", list(prompt), world.greedy(8, stop=stop))
        ended = world.finish(engine)
        tokens = ended["r"].outputs[0].token_ids
        assert tokens == (right[:2] if stop else world.right(None, OTHER)[:8])
        assert ended["r"].outputs[0].finish_reason == ("stop" if stop else "length")


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("adapter", [None, 1])
def test_an_id_is_free_when_its_request_was_aborted(
    engine: LLMEngine, world: Any, steps: int, adapter: int | None
) -> None:
    handle = world.handle(adapter)
    for _ in range(3):
        engine.add_request("r", list(PROMPT), world.greedy(8, n=2), lora_request=handle)
        for _ in range(steps):
            engine.step()
        (output,) = engine.abort_request("r")
        assert output.finished
        assert {completion.finish_reason for completion in output.outputs} == {"abort"}
        tokens = output.outputs[0].token_ids
        assert tokens == world.right(adapter, PROMPT)[: len(tokens)]
        assert not engine.has_unfinished_requests()
        engine.add_request("r", list(OTHER), world.greedy(6))
        assert world.finish(engine)["r"].outputs[0].token_ids == world.right(None, OTHER)[:6]
    assert engine.abort_request(["r", "never"]) == []


def test_an_id_is_free_when_its_request_has_failed(engine: LLMEngine, world: Any) -> None:
    bad = LoRARequest("bad", 8, "/nowhere")
    engine.add_request("r", list(PROMPT), world.greedy(6, n=2), lora_request=bad)
    engine.add_request("s", list(PROMPT), world.greedy(6))
    ended = world.finish(engine)
    assert isinstance(ended["r"].error, AdapterError)
    assert ended["s"].outputs[0].token_ids == world.right(None, PROMPT)[:6]
    engine.add_request("r", list(OTHER), world.greedy(6))
    assert world.finish(engine)["r"].outputs[0].token_ids == world.right(None, OTHER)[:6]


def test_an_id_is_free_in_the_step_that_ends_its_request(engine: LLMEngine, world: Any) -> None:
    engine.add_request("r", list(PROMPT), world.greedy(3))
    ends = 0
    while ends < 5:
        for output in engine.step():
            if output.finished:
                ends += 1
                prompt = OTHER if ends % 2 else PROMPT
                before = PROMPT if ends % 2 else OTHER
                assert output.outputs[0].token_ids == world.right(None, before)[:3]
                engine.add_request("r", list(prompt), world.greedy(3))
    engine.abort_request("r")


def test_any_str_that_is_not_in_use_is_an_id(engine: LLMEngine, world: Any) -> None:
    names = ["r", "0_r", "1_r", "0", "", "a" * 10**6, "\ud83d", "0-0"]
    for name in names:
        engine.add_request(name, list(PROMPT), world.greedy(2, n=2))
    for name in names:
        with pytest.raises(InputError, match="in use") as caught:
            engine.add_request(name, list(PROMPT), world.greedy(2))
        assert len(str(caught.value)) < 1000
    ended = world.finish(engine)
    assert set(ended) == set(names)
    for output in ended.values():
        assert [c.token_ids for c in output.outputs] == [world.right(None, PROMPT)[:2]] * 2


REFUSED: dict[str, dict[str, Any]] = {
    "id": {"request_id": 5},
    "priority": {"priority": "a"},
    "no priority": {"priority": None},
    "fraction": {"priority": 0.5},
    "arrival": {"arrival_time": "now"},
    "arrival NaN": {"arrival_time": float("nan")},
    "surrogate": {"prompt": "w1 \ud83d w2"},
    "surrogate in a salt": {"prompt": {"prompt": "w1", "cache_salt": "\ud83d"}},
    "no parameters": {"params": None},
    "adapter": {"lora_request": "a"},
    "too long": {"prompt": [1] * 32},
    "far too long": {"prompt": "w1 " * 10**5},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing(engine: LLMEngine, world: Any, name: str) -> None:
    request: dict[str, Any] = {
        "request_id": "r",
        "prompt": list(PROMPT),
        "params": world.greedy(2),
    }
    with pytest.raises(InputError) as caught:
        engine.add_request(**(request | REFUSED[name]))
    assert len(str(caught.value)) < 1000
    assert not engine.has_unfinished_requests()
    engine.add_request(**request)
    assert world.finish(engine)["r"].outputs[0].token_ids == world.right(None, PROMPT)[:2]


def test_an_aborted_request_holds_no_adapter_without_another_step(
    engine: LLMEngine, world: Any
) -> None:
    for adapter in engine.list_loras():
        engine.remove_lora(adapter)
    for adapter in (1, 2):
        handle = world.handle(adapter)
        engine.add_request(str(adapter), list(PROMPT), world.greedy(4), lora_request=handle)
    for _ in range(50):
        engine.step()
        if engine.list_loras() == {1, 2}:
            break
    engine.abort_request(["1", "2"])
    assert engine.add_lora(world.handle(3)), "host memory has room for two"


@pytest.fixture(scope="module")
def llm(engine_args: Callable[..., EngineArgs]) -> LLM:
    return LLM(**vars(engine_args()))


def test_one_bad_prompt_of_several_leaves_nothing(llm: LLM, world: Any) -> None:
    prompts: list[Any] = [list(PROMPT), "w1 \ud83d", list(OTHER)]
    with pytest.raises(RequestsFailed) as caught:
        llm.generate(prompts, world.greedy(4), use_tqdm=False)
    assert list(caught.value.errors) == [1]
    assert "surrogate" in str(caught.value.errors[1])
    first, _, last = caught.value.outputs
    assert first.outputs[0].token_ids == world.right(None, PROMPT)[:4]  # type: ignore[attr-defined]
    assert last.outputs[0].token_ids == world.right(None, OTHER)[:4]  # type: ignore[attr-defined]
    assert not llm.llm_engine.has_unfinished_requests()


def test_one_bad_message_of_several_conversations_leaves_nothing(llm: LLM, world: Any) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("w3 w1 w4 w1 w5", "\ud83d", "w2 w7")]
    with pytest.raises(RequestsFailed) as caught:
        llm.chat(
            chats,
            world.greedy(2),
            chat_template="{{ messages[0]['content'] }}",
            add_generation_prompt=False,
            use_tqdm=False,
        )
    assert list(caught.value.errors) == [1]
    assert "surrogate" in str(caught.value.errors[1])
    first: Any = caught.value.outputs[0]
    assert first.outputs[0].token_ids == world.right(None, PROMPT)[:2]
    assert not llm.llm_engine.has_unfinished_requests()


@pytest.mark.parametrize("priority", [["a", 1], [None, 1], [0.5, 1], [True, 1]])
def test_a_priority_of_another_type_fails_its_request(
    llm: LLM, world: Any, priority: list[Any]
) -> None:
    with pytest.raises(RequestsFailed) as caught:
        llm.generate([list(PROMPT)] * 2, world.greedy(2), priority=priority, use_tqdm=False)
    assert list(caught.value.errors) == [0]
    assert "priority" in str(caught.value.errors[0])
    assert not llm.llm_engine.has_unfinished_requests()


def test_calls_of_several_threads_get_their_own_answers(llm: LLM, world: Any) -> None:
    prompts = [(i, i + 1, i + 2) for i in range(12)]
    right = [world.right(i % 3 or None, prompt)[:5] for i, prompt in enumerate(prompts)]
    answers: dict[int, list[list[int]]] = {}
    errors: list[BaseException] = []

    def generate(thread: int) -> None:
        try:
            outputs = llm.generate(
                [list(prompt) for prompt in prompts],
                SamplingParams(temperature=0, max_tokens=5, ignore_eos=True),
                lora_request=[world.handle(i % 3 or None) for i in range(len(prompts))],
                use_tqdm=False,
            )
            answers[thread] = [output.outputs[0].token_ids for output in outputs]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=generate, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert answers == dict.fromkeys(range(4), right)


def test_an_engine_may_be_used_by_several_threads(engine: LLMEngine, world: Any) -> None:
    """One steps, others add and abort."""
    names = [str(i) for i in range(40)]
    kept = set(names[::2])

    def add(some: list[str]) -> None:
        for name in some:
            engine.add_request(name, list(PROMPT), world.greedy(4))
            if name not in kept:
                engine.abort_request(name)

    threads = [threading.Thread(target=add, args=(names[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    ended = {}
    while any(thread.is_alive() for thread in threads) or engine.has_unfinished_requests():
        ended |= {o.request_id: o.outputs[0].token_ids for o in engine.step() if o.finished}
    assert {name: ended[name] for name in kept} == dict.fromkeys(
        kept, world.right(None, PROMPT)[:4]
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.abort_request(None),
        lambda engine: engine.abort_request([["r"]]),
        lambda engine: engine.add_lora("adapter"),
        lambda engine: engine.begin_add_lora(None),
        lambda engine: engine.remove_lora([1]),
        lambda engine: engine.pin_lora("x" * 10**6),
        lambda engine: engine.pin_lora(10**5000),
        lambda engine: engine.add_request(10**5000, [1], SamplingParams()),
        lambda engine: engine.add_request("r", [1], SamplingParams(), arrival_time=10**400),
        lambda engine: engine.add_request("r", [1], SamplingParams(), priority=float("nan")),
    ],
    ids=range(10),
)
def test_what_is_no_id_is_refused(
    make_engine: Callable[[], LLMEngine], call: Callable[[LLMEngine], Any]
) -> None:
    engine = make_engine()
    with pytest.raises(InputError) as caught:
        call(engine)
    assert len(str(caught.value)) < 600
    assert not engine.has_unfinished_requests()
