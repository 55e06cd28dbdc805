"""Random lives of requests whose adapters are read beside the steps."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import safetensors.torch
import torch
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plait.adapter_library import AdapterLibrary
from plait_kernels.errors import AdapterError
from plait_kernels.sites import LoraSite
from plait_lora.catalog import AdapterCatalog
from plait_lora.identity import AdapterKey
from plait_lora.request import LoRARequest
from plait_lora.store import AdapterStore

WIDTH = 16
SEEDS = range(5)
SITE = LoraSite(0, "layers.0.self_attn.q_proj", "qkv", WIDTH, WIDTH)


class ManualThreads:
    """An executor whose tasks end when they are told to."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append((future, partial(function, *arguments)))
        return future

    def finish(self, place: int) -> None:
        future, call = self.tasks.pop(place)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except AdapterError as error:
                future.set_exception(error)


def write_adapter(path: Path, seed: int) -> None:
    path.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": torch.randn(4, WIDTH, generator=generator),
        f"{name}.lora_B.weight": torch.randn(WIDTH, 4, generator=generator),
    }
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": None}
    (path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")


class LibraryMachine(RuleBasedStateMachine):
    """Requests ask, reads end in any order, files change, requests end at any time."""

    keys: ClassVar[dict[int, AdapterKey]] = {}
    """Of the contents, by seed."""

    @initialize(cap=st.sampled_from([1, 2, 3, None]))
    def start(self, cap: int | None) -> None:
        self.cap = cap
        self.directory = tempfile.TemporaryDirectory()
        catalog = AdapterCatalog((SITE,), dtype=torch.float32, chunk_bytes=4096, max_cpu_loras=cap)
        self.library = AdapterLibrary(catalog, AdapterStore(20, num_slots=4))
        self.threads = ManualThreads()
        self.library._reads._threads = self.threads  # type: ignore[assignment]
        self.content: dict[int, int] = {}
        self.waiting: dict[str, LoRARequest] = {}
        self.holding: dict[str, AdapterKey] = {}
        self.asked = 0
        for number in range(3):
            self.write(number, number)

    def path(self, number: int) -> Path:
        return Path(self.directory.name) / str(number)

    @rule(number=st.integers(0, 2), seed=st.sampled_from(SEEDS))
    def write(self, number: int, seed: int) -> None:
        write_adapter(self.path(number), seed)
        self.content[number] = seed

    @rule(adapter_id=st.integers(1, 3), number=st.integers(0, 3), in_place=st.booleans())
    def ask(self, adapter_id: int, number: int, in_place: bool) -> None:
        self.asked += 1
        handle = LoRARequest("n", adapter_id, str(self.path(number)), load_inplace=in_place)
        self.waiting[str(self.asked)] = handle

    @precondition(lambda self: self.threads.tasks)
    @rule(data=st.data())
    def finish_a_read(self, data: st.DataObject) -> None:
        self.threads.finish(data.draw(st.integers(0, len(self.threads.tasks) - 1)))

    @rule()
    def resolve(self) -> None:
        for name, handle in list(self.waiting.items()):
            number = int(Path(handle.path).name)
            try:
                mix = self.library.acquire(name, handle)
            except AdapterError as error:
                self.failed(name, str(error))
                continue
            if mix is not None:
                ((key, _),) = mix
                # What it runs is what the files hold now, whenever they were read.
                assert key == self.keys[self.content[number]]
                self.library.catalog.get(key)
                self.holding[name] = key
                del self.waiting[name]

    def failed(self, name: str, message: str) -> None:
        handle = self.waiting.pop(name)
        self.library.release(name)
        if int(Path(handle.path).name) in self.content:
            assert "names the adapter" in message
            assert not handle.load_inplace

    @precondition(lambda self: self.waiting or self.holding)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.waiting, *self.holding]))
        self.library.release(name)
        self.waiting.pop(name, None)
        self.holding.pop(name, None)
        self.library.tidy()

    @rule(adapter_id=st.integers(1, 3))
    def remove(self, adapter_id: int) -> None:
        self.library.remove(adapter_id)

    @invariant()
    def nothing_is_read_for_nobody(self) -> None:
        if not hasattr(self, "library"):
            return
        reads = self.library._reads
        assert len(reads) == sum(name in reads for name in self.waiting)
        catalog = self.library.catalog
        resident = set(catalog.resident())
        assert set(self.holding.values()) <= resident
        assert self.cap is None or len(resident) <= self.cap

    def teardown(self) -> None:
        if not hasattr(self, "library"):
            return
        # Everybody gets an answer in the end.
        for _ in range(3 * self.asked + 3):
            while self.threads.tasks:
                self.threads.finish(0)
            self.resolve()
            for name in list(self.holding):
                self.library.release(name)
                del self.holding[name]
        assert not self.waiting
        assert not len(self.library._reads)
        for adapter_id in self.library.ids():
            self.library.remove(adapter_id)
        assert self.library.catalog.nbytes == 0
        self.directory.cleanup()


def test_lives(tmp_path: Path) -> None:
    catalog = AdapterCatalog((SITE,), dtype=torch.float32, chunk_bytes=4096)
    for seed in SEEDS:
        write_adapter(tmp_path / str(seed), seed)
        key = catalog.resolve(LoRARequest("n", 1 + seed, str(tmp_path / str(seed))))
        assert key is not None
        LibraryMachine.keys[seed] = key
    assert len(set(LibraryMachine.keys.values())) == len(SEEDS)
    run_state_machine_as_test(
        LibraryMachine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )
