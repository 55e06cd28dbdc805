"""The table of chosen kernels: factories imported when chosen, implementations made once."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from plait_kernels.backend import Backend, Kernel
from plait_kernels.config import BUCKETS, OpConfig
from plait_kernels.device import Device
from plait_kernels.errors import KernelError
from plait_kernels.loader import LoadedBackends
from plait_kernels.request import KernelRequest
from plait_kernels.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plait_kernels.table import KernelTable

MODULE = "plait_fake_kernels"


@pytest.fixture
def factory_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    source = """
        class Implementation:
            layout = "fake"

            def __init__(self, config):
                self.config = config

            def prepare(self, weight):
                return weight

            def __call__(self, x, weight):
                return x

        def make(config):
            return Implementation(config)

        def refuse(config):
            raise RuntimeError("no compiler")
    """
    (tmp_path / f"{MODULE}.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    yield MODULE
    sys.modules.pop(MODULE, None)


def table_of(configs: list[OpConfig], *kernels: Kernel, request: str = "") -> KernelTable:
    loaded = LoadedBackends((Backend("fake", kernels), Backend("unused", (Kernel("lora", "x:y"),))))
    return select(configs, loaded, KernelRequest.parse(request), Device())


def linear(bucket: str, max_tokens: int = 8, **params: Any) -> OpConfig:
    return OpConfig.of("linear", dtype="float32", bucket=bucket, max_tokens=max_tokens, **params)


def test_bind_is_indexed_like_the_buckets(factory_module: str) -> None:
    configs = [linear(b, in_features=i, out_features=4) for b in reversed(BUCKETS) for i in (2, 3)]
    table = table_of(configs, Kernel("linear", f"{factory_module}:make"))
    bound = table.bind("linear", "float32", out_features=4, in_features=3)
    assert [implementation.config for implementation in bound] == [
        linear(bucket, in_features=3, out_features=4) for bucket in BUCKETS
    ]


def test_each_implementation_is_made_once(factory_module: str) -> None:
    configs = [linear(bucket) for bucket in BUCKETS] * 2
    table = table_of(configs, Kernel("linear", f"{factory_module}:make"))
    assert len(table.implementations) == 2
    first, second = (table.bind("linear", "float32") for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True))
    assert first[0] is not first[1]


def test_of_equal_calls_the_one_of_most_tokens_counts(factory_module: str) -> None:
    configs = [linear(bucket, tokens) for bucket in BUCKETS for tokens in (8, 64, 16)]
    table = table_of(configs, Kernel("linear", f"{factory_module}:make"))
    assert [made.config.max_tokens for made in table.bind("linear", "float32")] == [64, 64]


def test_the_buckets_may_have_different_kernels(factory_module: str) -> None:
    small = Kernel(
        "linear",
        f"{factory_module}:make",
        priority=1,
        supports=lambda config: () if config.max_tokens <= 8 else ("too many tokens",),
    )
    large = Kernel("linear", f"{factory_module}:make")
    table = table_of([linear("decode", 8), linear("prefill", 64)], small, large)
    assert table.choices[linear("decode", 8)].chosen.kernel is small
    assert table.choices[linear("prefill", 64)].chosen.kernel is large


def test_backends_are_those_of_what_is_bound(factory_module: str) -> None:
    of_prompts = Kernel(
        "linear",
        f"{factory_module}:make",
        priority=1,
        supports=lambda config: () if config.bucket == "prefill" else ("prompts only",),
    )
    loaded = LoadedBackends(
        (
            Backend("one", (Kernel("linear", f"{factory_module}:make"),)),
            Backend("other", (of_prompts,)),
        )
    )
    configs = [linear(bucket, features=2) for bucket in BUCKETS]
    table = select(configs, loaded, KernelRequest.parse(""), Device())
    assert table.backends("linear", "float32", features=2) == ("one", "other")
    with pytest.raises(KernelError, match="no kernel was chosen"):
        table.backends("linear", "float32", features=3)


def test_only_chosen_factories_are_imported(factory_module: str) -> None:
    kernels = (
        Kernel("linear", f"{factory_module}:make"),
        Kernel("linear", "plait_no_such_module:make", devices=("cuda",)),
        Kernel("linear", "plait_no_such_module:make", priority=-1),
    )
    assert factory_module not in sys.modules
    table_of([linear("decode")], *kernels)
    assert factory_module in sys.modules


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("sample", "float32", {}), r"sample\[float32\].* in decode and prefill; .*: none;"),
        (("linear", "bfloat16", {"n": 2}), r"linear\[bfloat16, n=2\] in decode and prefill"),
        (("linear", "float32", {"n": 4}), r"linear\[float32, n=4\] .*linear\[float32, n=2\]"),
        (("linear", "float32", {}), r"linear\[float32\] in decode and prefill"),
        (("linear", "float32", {"n": 3}), r"linear\[float32, n=3\] in prefill; .*each bucket"),
    ],
)
def test_binding_what_nobody_asked_for_is_an_error(
    call: tuple[str, str, dict[str, int]], message: str, factory_module: str
) -> None:
    configs = [*(linear(bucket, n=2) for bucket in BUCKETS), linear("decode", n=3)]
    table = table_of(configs, Kernel("linear", f"{factory_module}:make"))
    op, dtype, params = call
    with pytest.raises(KernelError, match=message):
        table.bind(op, dtype, **params)


def test_describe_says_what_was_chosen_and_why_nothing_else(factory_module: str) -> None:
    kernels = (
        Kernel("linear", f"{factory_module}:make"),
        Kernel("linear", "fast:make", devices=("cuda",)),
    )
    configs = [linear(bucket, 8, in_features=2) for bucket in BUCKETS]
    assert table_of(configs, *kernels).describe() == tuple(
        f"linear[float32, in_features=2], {bucket} up to 8 tokens: fake "
        "(fake: runs on cuda, not on cpu)"
        for bucket in BUCKETS
    )


def test_the_table_is_frozen(factory_module: str) -> None:
    table: Any = table_of([linear("decode")], Kernel("linear", f"{factory_module}:make"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.choices = {}
    with pytest.raises(TypeError):
        table.choices[linear("decode")] = None
    with pytest.raises(TypeError):
        table.implementations[linear("decode")] = None
