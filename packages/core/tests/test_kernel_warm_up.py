"""What kernels prepare is prepared once, before anything else, or the engine is not made."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from plait.build import SERVED_GROUPS
from plait.kernel_warm_up import lora_facts, warm_up
from plait_kernels.backend import Backend, Kernel
from plait_kernels.config import OpConfig
from plait_kernels.errors import KernelError
from plait_kernels.sites import LoraSite
from plait_kernels.table import Candidate, Choice, KernelTable
from plait_kernels.warm_up import EngineFacts

FACTS = EngineFacts(torch.device("cpu"), heads=4, kv_heads=2, lora=None)


@dataclass
class Log:
    done: Counter[str] = field(default_factory=Counter)
    facts: list[EngineFacts] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Task:
    name: str
    log: Log = field(compare=False)

    def __call__(self) -> None:
        with self.log.lock:
            self.log.done[self.name] += 1
        if self.name == "broken":
            msg = "no such instruction"
            raise RuntimeError(msg)


class Implementation:
    def __init__(self, log: Log, *names: str) -> None:
        self._log, self._names = log, names

    def warm_up(self, facts: EngineFacts) -> list[Task]:
        self._log.facts.append(facts)
        return [Task(name, self._log) for name in self._names]


def table(**implementations: Any) -> KernelTable:
    choices, made = {}, {}
    for op, implementation in implementations.items():
        config = OpConfig.of(op, dtype="float32", bucket="decode", max_tokens=4)
        kernel = Kernel(op, "acme:make")
        candidate = Candidate(Backend("acme", (kernel,)), kernel)
        choices[config] = Choice(config, candidate, (candidate,))
        made[config] = implementation
    return KernelTable(choices, made)


def test_every_task_is_done_and_equal_ones_once() -> None:
    log = Log()
    made = Implementation(log, "a", "b"), Implementation(log, "b", "c"), object()
    count = warm_up(table(linear=made[0], rms_norm=made[1], sample=made[2]), FACTS)
    assert count == 3
    assert log.done == {"a": 1, "b": 1, "c": 1}
    assert log.facts == [FACTS, FACTS]


def test_nothing_to_do() -> None:
    assert warm_up(table(linear=object()), FACTS) == 0


def test_a_task_that_fails_is_named() -> None:
    log = Log()
    made = {"linear": Implementation(log, "a"), "lora": Implementation(log, "broken", "b")}
    with pytest.raises(KernelError, match=r"'acme'.* lora .*no such instruction.*kernels='lora=…'"):
        warm_up(table(**made), FACTS)


def sites(layers: int) -> tuple[LoraSite, ...]:
    listed: list[LoraSite] = [LoraSite(0, "embed_tokens", "embed", 90, 64)]
    for layer in range(layers):
        # The second layer has fewer keys and values.
        kv = 32 if layer != 1 else 16
        for name, group, width, out, offset in (
            ("q_proj", "qkv", 64, 64, 0),
            ("k_proj", "qkv", 64, kv, 64),
            ("v_proj", "qkv", 64, kv, 64 + kv),
            ("o_proj", "o", 64, 64, 0),
        ):
            site = LoraSite(len(listed), f"layers.{layer}.{name}", group, width, out, offset)
            listed.append(site)
    return (*listed, LoraSite(len(listed), "lm_head", "head", 64, 90))


def test_calls_of_each_shape_are_told_once() -> None:
    facts = lora_facts(sites(3), SERVED_GROUPS, torch.bfloat16, 8)
    told = [(call[0].group, tuple(site.out_features for site in call)) for call in facts.groups]
    assert sorted(told) == [
        ("head", (90,)),
        ("o", (64,)),
        ("qkv", (64, 16, 16)),
        ("qkv", (64, 32, 32)),
    ]
    assert (facts.dtype, facts.tile_rows, facts.has_dense) == (torch.bfloat16, 8, False)
    of_o = lora_facts(sites(2), {"o"}, torch.float32, 1)
    assert [call[0].group for call in of_o.groups] == ["o"]
