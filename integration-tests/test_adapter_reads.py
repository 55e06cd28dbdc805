"""While the files of an adapter are read nobody waits but the requests that need it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from plait import LLM, AsyncLLMEngine, LoRARequest, RequestOutput, SamplingParams
from plait.llm_engine import LLMEngine
from plait_kernels.errors import AdapterError

PROMPT = [5, 9, 2, 7]
LONG_PROMPT = [i % 100 + 1 for i in range(40)]
GREEDY = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)


@dataclass
class SlowReads:
    """Reads of an engine that end when they may."""

    engine: LLMEngine
    may_end: threading.Event = field(default_factory=threading.Event)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        library = self.engine.core.library()
        read = library.catalog.read

        def slow(request: LoRARequest) -> Any:
            self.paths.append(request.path)
            assert self.may_end.wait(60)
            return read(request)

        library._reads._read = slow

    @property
    def under_way(self) -> int:
        return len(self.engine.core.library()._reads)


@pytest.fixture
def make(make_tiny_llm: Callable[..., LLM]) -> Callable[..., LLM]:
    return make_tiny_llm


@pytest.fixture
def slow(make: Callable[..., LLM]) -> Iterator[SlowReads]:
    reads = SlowReads(make().llm_engine)
    yield reads
    reads.may_end.set()


@pytest.fixture
def handle(save_tiny_adapter: Callable[..., Path]) -> LoRARequest:
    return LoRARequest("a", 1, str(save_tiny_adapter(seed=1)))


def answers(outputs: list[RequestOutput]) -> dict[str, list[int]]:
    return {o.request_id: list(o.outputs[0].token_ids) for o in outputs if o.finished}


def finish(engine: LLMEngine) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    while engine.has_unfinished_requests():
        outputs = engine.step()
        for output in outputs:
            if output.error is not None:
                raise output.error
        found |= answers(outputs)
    return found


def test_others_are_served_meanwhile(
    slow: SlowReads, make: Callable[..., LLM], handle: LoRARequest
) -> None:
    engine = slow.engine
    engine.add_request("adapted", PROMPT, GREEDY, lora_request=handle)
    engine.add_request("base", PROMPT, GREEDY)
    found: dict[str, list[int]] = {}
    for _ in range(20):
        found |= answers(engine.step())
    assert found.keys() == {"base"}
    # One that comes later does not wait either.
    engine.add_request("later", PROMPT, GREEDY)
    for _ in range(20):
        found |= answers(engine.step())
    assert found.keys() == {"base", "later"}
    slow.may_end.set()
    found |= finish(engine)
    alone = make().generate([PROMPT], GREEDY, lora_request=handle, use_tqdm=False)[0]
    assert found["adapted"] == alone.outputs[0].token_ids
    assert found["adapted"] != found["base"] == found["later"]


def test_an_adapter_is_read_once_for_all_that_wait(slow: SlowReads, handle: LoRARequest) -> None:
    engine = slow.engine
    same = LoRARequest("b", 2, handle.lora_path)
    for i in range(6):
        engine.add_request(str(i), PROMPT, GREEDY, lora_request=same if i % 2 else handle)
    for _ in range(5):
        engine.step()
    assert slow.under_way == 1
    slow.may_end.set()
    found = finish(engine)
    assert slow.paths == [handle.lora_path]
    assert len(found) == 6
    assert len({tuple(tokens) for tokens in found.values()}) == 1


def test_a_read_that_fails_fails_its_request_alone(
    slow: SlowReads, handle: LoRARequest, tmp_path: Path
) -> None:
    engine = slow.engine
    broken = tmp_path / "broken"
    shutil.copytree(handle.lora_path, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    engine.add_request("broken", PROMPT, GREEDY, lora_request=LoRARequest("x", 7, str(broken)))
    engine.add_request("good", PROMPT, GREEDY, lora_request=handle)
    engine.step()
    assert slow.under_way == 2
    slow.may_end.set()
    errors, found = {}, {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.error is not None:
                errors[output.request_id] = output.error
            elif output.finished:
                found[output.request_id] = output
    assert found.keys() == {"good"}
    assert errors.keys() == {"broken"}
    assert isinstance(errors["broken"], AdapterError)
    assert "is damaged or incomplete" in str(errors["broken"])


def test_an_aborted_request_leaves_no_read(slow: SlowReads, handle: LoRARequest) -> None:
    engine = slow.engine
    engine.add_request("0", PROMPT, GREEDY, lora_request=handle)
    engine.step()
    assert slow.under_way == 1
    engine.abort_request("0")
    engine.step()
    assert slow.under_way == 0
    slow.may_end.set()
    assert engine.core.library().catalog.nbytes == 0
    engine.add_request("1", PROMPT, GREEDY, lora_request=handle)
    assert finish(engine).keys() == {"1"}


def test_files_that_change_before_they_are_used_are_read_again(
    slow: SlowReads, make: Callable[..., LLM], save_tiny_adapter: Callable[..., Path]
) -> None:
    engine, path = slow.engine, save_tiny_adapter(seed=2)
    other = save_tiny_adapter(seed=3)
    expected = make().generate(
        [PROMPT], GREEDY, lora_request=LoRARequest("o", 1, str(other)), use_tqdm=False
    )[0]
    engine.add_request("0", PROMPT, GREEDY, lora_request=LoRARequest("a", 1, str(path)))
    engine.step()
    slow.may_end.set()
    library = engine.core.library()
    library.wait(60)
    shutil.copytree(other, path, dirs_exist_ok=True)
    assert finish(engine)["0"] == expected.outputs[0].token_ids
    assert len(slow.paths) == 2


def test_of_two_contents_of_an_id_the_older_request_decides(
    slow: SlowReads, save_tiny_adapter: Callable[..., Path]
) -> None:
    engine = slow.engine
    first, second = (str(save_tiny_adapter(seed=seed)) for seed in (4, 5))
    engine.add_request("older", PROMPT, GREEDY, lora_request=LoRARequest("a", 1, first))
    engine.add_request("younger", PROMPT, GREEDY, lora_request=LoRARequest("a", 1, second))
    engine.step()
    assert slow.paths == [first]
    slow.may_end.set()
    finished, errors = set(), {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.error is not None:
                errors[output.request_id] = str(output.error)
            elif output.finished:
                finished.add(output.request_id)
    assert finished == {"older"}
    assert "the id 1 names the adapter" in errors["younger"]


def test_no_more_are_read_than_host_memory_may_hold(
    make: Callable[..., LLM], save_tiny_adapter: Callable[..., Path]
) -> None:
    slow = SlowReads(make(max_cpu_loras=2).llm_engine)
    for i in range(5):
        handle = LoRARequest(f"a{i}", i + 1, str(save_tiny_adapter(seed=i)))
        slow.engine.add_request(str(i), PROMPT, GREEDY, lora_request=handle)
    for _ in range(5):
        slow.engine.step()
    assert slow.under_way == 2
    slow.may_end.set()
    assert len(finish(slow.engine)) == 5


def test_adapters_are_added_while_an_asynchronous_engine_runs(
    slow: SlowReads, handle: LoRARequest, tmp_path: Path
) -> None:
    async def serve() -> None:
        engine = AsyncLLMEngine(slow.engine)
        adding = asyncio.ensure_future(engine.add_lora(handle))
        async for output in engine.generate({"prompt_token_ids": PROMPT}, GREEDY, "0"):
            last = output
        assert last.finished
        assert not adding.done()
        assert await engine.list_loras() == set()
        slow.may_end.set()
        assert await adding
        assert await engine.list_loras() == {1}
        slow.may_end.clear()
        copied = shutil.copytree(handle.lora_path, tmp_path / "copied")
        given_up = asyncio.ensure_future(engine.add_lora(LoRARequest("c", 3, str(copied))))
        for _ in range(1000):
            await engine.list_loras()
        assert slow.under_way == 1
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        await engine.list_loras()
        assert slow.under_way == 0
        slow.may_end.set()
        missing = LoRARequest("b", 2, str(tmp_path / "missing"))
        with pytest.raises(AdapterError, match="there is no directory"):
            await engine.add_lora(missing)
        engine.shutdown()

    asyncio.run(serve())


def test_a_forked_process_reads_new_adapters(
    make: Callable[..., LLM], handle: LoRARequest, save_tiny_adapter: Callable[..., Path]
) -> None:
    llm, new = make(), LoRARequest("b", 2, str(save_tiny_adapter(seed=2)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # one would not stay behind
    llm.generate([LONG_PROMPT], GREEDY, lora_request=handle, use_tqdm=False)  # threads and all
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads: the point
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            outputs = llm.generate([LONG_PROMPT], GREEDY, lora_request=new, use_tqdm=False)
            os.write(writing, json.dumps(outputs[0].outputs[0].token_ids).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    torch.set_num_threads(threads)
    wanted = make().generate([LONG_PROMPT], GREEDY, lora_request=new, use_tqdm=False)[0]
    assert answer, "the child hangs or fails"
    assert json.loads(answer) == wanted.outputs[0].token_ids
