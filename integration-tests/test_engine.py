"""What an engine promises beside right answers, on a tiny model."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from plait import LLM, LoRARequest, SamplingParams
from plait.engine_core import EngineCore
from plait.messages import CoreOutput, CoreRequest
from plait.plan import StepResult
from plait.runner import StartedStep
from plait_kernels.errors import AdapterError, InputError

PROMPT = list(range(3, 43))
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def make(make_tiny_llm: Callable[..., LLM]) -> Callable[..., LLM]:
    return make_tiny_llm


@pytest.fixture
def llm(make: Callable[..., LLM]) -> Iterator[LLM]:
    engine = make()
    yield engine
    assert not engine.llm_engine.core.has_work


def run(llm: LLM, lora_request: LoRARequest | None = None, **params: Any) -> Any:
    sampling = SamplingParams(**({"temperature": 0, "max_tokens": 6, "ignore_eos": True} | params))
    return llm.generate(PROMPT, sampling, lora_request=lora_request, use_tqdm=False)[0]


def test_one_content_in_two_folders_shares_blocks(
    llm: LLM, save_tiny_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    first = save_tiny_adapter(seed=1)
    shutil.copytree(first, tmp_path / "copy")
    other = save_tiny_adapter(seed=2)
    a = run(llm, LoRARequest("a", 1, str(first)))
    copy = run(llm, LoRARequest("copy", 2, str(tmp_path / "copy")))
    different = run(llm, LoRARequest("other", 3, str(other)))
    base = run(llm)
    assert [o.num_cached_tokens for o in (a, copy, different, base)] == [0, 32, 0, 0]
    assert copy.outputs[0].token_ids == a.outputs[0].token_ids
    assert different.outputs[0].token_ids != a.outputs[0].token_ids
    assert base.outputs[0].token_ids != a.outputs[0].token_ids
    library = llm.llm_engine.core.library()
    assert len(library.store.resident()) == 2, "two contents, whatever the number of handles"


def test_an_id_never_serves_old_or_other_content(
    llm: LLM, save_tiny_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = save_tiny_adapter(seed=1), save_tiny_adapter(seed=2)
    path = tmp_path / "adapter"
    shutil.copytree(first, path)
    old = run(llm, LoRARequest("x", 1, str(path)))
    shutil.rmtree(path)
    shutil.copytree(second, path)
    with pytest.raises(AdapterError, match="load_inplace"):
        run(llm, LoRARequest("x", 1, str(path)))
    new = run(llm, LoRARequest("x", 1, str(path), load_inplace=True))
    assert new.num_cached_tokens == 0
    assert (
        new.outputs[0].token_ids == run(llm, LoRARequest("y", 2, str(second))).outputs[0].token_ids
    )
    assert new.outputs[0].token_ids != old.outputs[0].token_ids
    library = llm.llm_engine.core.library()
    assert len(library.store.resident()) == 1, "the replaced content has left the device"


def test_removed_adapters_give_their_memory_back(
    llm: LLM, save_tiny_adapter: Callable[..., Path]
) -> None:
    library = llm.llm_engine.core.library()
    before = (library.store.num_free_chunks, library.catalog.nbytes)
    for i in range(1, 4):
        run(llm, LoRARequest(f"a{i}", i, str(save_tiny_adapter(seed=i, r=i))))
    assert library.store.num_free_chunks < before[0]
    assert llm.llm_engine.pin_lora(2)
    assert llm.llm_engine.list_loras() == {1, 2, 3}
    assert [llm.llm_engine.remove_lora(i) for i in (1, 2, 3, 4)] == [True, True, True, False]
    assert (library.store.num_free_chunks, library.catalog.nbytes) == before


def test_an_adapter_removed_while_it_runs_is_given_back_when_it_is_done(
    llm: LLM, save_tiny_adapter: Callable[..., Path]
) -> None:
    library = llm.llm_engine.core.library()
    before = (library.store.num_free_chunks, library.catalog.nbytes)
    handle = LoRARequest("a", 1, str(save_tiny_adapter(seed=1)))
    wanted = run(llm, handle).outputs[0].token_ids
    engine = llm.llm_engine
    engine.add_request("r", PROMPT, GREEDY, lora_request=handle)
    for _ in range(3):
        engine.step()
    assert engine.remove_lora(1)
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert outputs[-1].outputs[0].token_ids == wanted
    engine.step()
    assert (library.store.num_free_chunks, library.catalog.nbytes) == before


def test_more_adapters_than_fit_take_turns(
    make: Callable[..., LLM], save_tiny_adapter: Callable[..., Path]
) -> None:
    paths = [save_tiny_adapter(seed=i, r=1 + 3 * i) for i in range(6)]
    handles = [LoRARequest(f"a{i}", i + 1, str(path)) for i, path in enumerate(paths)]
    roomy = make()
    alone = [run(roomy, handle).outputs[0].token_ids for handle in handles]
    for keywords in ({"max_loras": 1}, {"max_loras": 2, "max_cpu_loras": 2}):
        llm = make(**keywords)
        order = [0, 1, 2, 3, 4, 5, 5, 0, 3, 1, 4, 2]
        outputs = llm.generate(
            [PROMPT] * len(order),
            GREEDY,
            lora_request=[handles[i] for i in order],
            use_tqdm=False,
        )
        assert [o.outputs[0].token_ids for o in outputs] == [alone[i] for i in order]
        assert len(llm.llm_engine.core.library().store.resident()) <= keywords["max_loras"]


class CopiedStep:
    """Hands the result of a step on as bytes."""

    def __init__(self, step: StartedStep) -> None:
        self._step = step

    def result(self) -> StepResult:
        return copied(self._step.result())


class SerialisingCore:
    """Hands every message on as bytes, as a core in another process would get it."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        start = core.runner.start
        core.runner.start = lambda plan: CopiedStep(  # type: ignore[method-assign]
            start(copied(plan))
        )

    def add(self, request: CoreRequest) -> None:
        self._core.add(copied(request))

    def step(self) -> list[CoreOutput]:
        return copied(self._core.step())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)


def copied(message: Any) -> Any:
    return pickle.loads(pickle.dumps(message))


def test_front_core_and_runner_exchange_plain_data(
    llm: LLM, save_tiny_adapter: Callable[..., Path]
) -> None:
    handle = LoRARequest("a", 1, str(save_tiny_adapter(seed=1)))
    params = {"logprobs": 2, "prompt_logprobs": 1, "n": 2, "temperature": 0.8, "seed": 3}
    direct = run(llm, handle, **params)
    llm.reset_prefix_cache()
    llm.llm_engine.core = SerialisingCore(llm.llm_engine.core)  # type: ignore[assignment]
    serialised = run(llm, handle, **params)
    assert direct.outputs == serialised.outputs
    assert direct.prompt_logprobs == serialised.prompt_logprobs
    with pytest.raises(AdapterError, match="nowhere"):
        run(llm, LoRARequest("b", 2, "/nowhere"))


def test_draws_depend_on_the_seed_alone(llm: LLM) -> None:
    """Not on the batch, the cache or a preemption; completion i draws with seed + i."""
    drawn = {"temperature": 1.0, "max_tokens": 12}
    alone = [run(llm, seed=20 + i, **drawn).outputs[0].token_ids for i in range(3)]
    several = run(llm, seed=20, n=3, **drawn)
    assert [c.token_ids for c in several.outputs] == alone
    assert len({tuple(tokens) for tokens in alone}) == 3
    params = [SamplingParams(seed=20 + i % 3, ignore_eos=True, **drawn) for i in range(12)]
    crowd = llm.generate([PROMPT] * 12, params, use_tqdm=False)
    assert [o.outputs[0].token_ids for o in crowd] == alone * 4


def test_requests_without_a_seed_follow_the_engines(make: Callable[..., LLM]) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True)

    def draw(seed: int) -> list[list[int]]:
        llm = make(seed=seed)
        outputs = llm.generate([PROMPT, PROMPT], params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    assert draw(0) == draw(0) != draw(1)
    assert draw(0)[0] != draw(0)[1]


def test_ends(llm: LLM) -> None:
    full = run(llm, max_tokens=10).outputs[0]
    assert (full.finish_reason, len(full.token_ids)) == ("length", 10)
    stop = full.token_ids[4]
    first = full.token_ids.index(stop)
    stopped = run(llm, max_tokens=10, stop_token_ids=[stop]).outputs[0]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    assert stopped.token_ids == full.token_ids[: first + 1]
    longest = run(llm, max_tokens=None).outputs[0]
    assert longest.finish_reason == "length"
    assert len(PROMPT) + len(longest.token_ids) == 128, "max_tokens=None is up to the context"
    core = llm.llm_engine.core
    eos = full.token_ids[2]
    llm.llm_engine.eos_token_ids = (eos,)
    ended = run(llm, max_tokens=10, ignore_eos=False).outputs[0]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    assert ended.token_ids[-1] == eos
    held = run(llm, max_tokens=10, ignore_eos=False, min_tokens=8).outputs[0]
    assert len(held.token_ids) >= 8
    assert eos not in held.token_ids[:7]
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks


def test_an_aborted_request_leaves_nothing(llm: LLM) -> None:
    engine = llm.llm_engine
    params = SamplingParams(n=3, max_tokens=50, ignore_eos=True)
    engine.add_request("gone", PROMPT, params)
    engine.add_request("stays", PROMPT, GREEDY)
    for _ in range(3):
        engine.step()
    engine.abort_request("gone")
    engine.abort_request(["gone", "never"])
    finished = []
    while engine.has_unfinished_requests():
        finished += [o.request_id for o in engine.step() if o.finished]
    assert finished == ["stays"]
    engine.step()
    pool = engine.core.scheduler.pool
    assert pool.num_free == pool.num_blocks


def test_an_interrupted_call_leaves_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    core_start = llm.llm_engine.core.runner.start
    steps = 0

    def interrupt(plan: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return core_start(plan)

    monkeypatch.setattr(llm.llm_engine.core.runner, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(llm)
    monkeypatch.undo()
    assert not llm.llm_engine.has_unfinished_requests()
    pool = llm.llm_engine.core.scheduler.pool
    assert pool.num_free == pool.num_blocks
    assert len(run(llm).outputs[0].token_ids) == 6


def test_an_engine_goes_with_its_last_reference(
    make: Callable[..., LLM], save_tiny_adapter: Callable[..., Path]
) -> None:
    """It is frozen for the collector, which would not find it in a cycle."""
    llm = make()
    run(llm, LoRARequest("a", 1, str(save_tiny_adapter(seed=1))))
    run(llm, temperature=1)
    core = weakref.ref(llm.llm_engine.core)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        del llm
        assert core() is None
    finally:
        if was_enabled:
            gc.enable()


def test_only_the_target_modules_of_the_deployment_are_served(
    make: Callable[..., LLM], save_tiny_adapter: Callable[..., Path]
) -> None:
    both = save_tiny_adapter(seed=1)
    only_q = shutil.copytree(both, both.parent / "only-q")
    weights = load_file(only_q / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "q_proj" in name}
    save_file(kept, only_q / "adapter_model.safetensors")
    config = json.loads((only_q / "adapter_config.json").read_text())
    (only_q / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    everything = make()
    wanted = run(everything, LoRARequest("only-q", 1, str(only_q))).outputs[0].token_ids
    assert run(everything, LoRARequest("both", 2, str(both))).outputs[0].token_ids != wanted
    filtered = make(lora_target_modules=["q_proj"])
    assert run(filtered, LoRARequest("both", 1, str(both))).outputs[0].token_ids == wanted
    with pytest.raises(AdapterError, match="lora_target_modules"):
        run(make(lora_target_modules=["o_proj"]), LoRARequest("both", 1, str(both)))
    with pytest.raises(InputError, match="q_proj"):
        make(lora_target_modules=["query"])


def test_dummy_weights_and_other_dtypes(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    for dtype in ("float32", "bfloat16", "float16"):
        llm = LLM(
            model=str(tmp_path),
            load_format="dummy",
            dtype=dtype,
            skip_tokenizer_init=True,
            num_gpu_blocks_override=16,
        )
        tokens = run(llm, max_tokens=20).outputs[0].token_ids
        assert len(set(tokens)) > 1, "random weights do not answer with one token"
