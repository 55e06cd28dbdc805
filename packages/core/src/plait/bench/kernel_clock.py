"""Timers around every kernel of an engine."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plait_kernels.config import OpConfig
    from plait_kernels.table import KernelTable

_CALL = "__call__"
_METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"attention": ("plan", "run"), "lora": ("shrink", "expand", "expand_silu_and_mul")}
)
_PARTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("linear", _CALL): "linears",
        ("attention", "plan"): "attention plan",
        ("attention", "run"): "attention",
        ("rms_norm", _CALL): "norms",
        ("fused_add_rms_norm", _CALL): "norms",
        ("rotary_embedding", _CALL): "rotary",
        ("silu_and_mul", _CALL): "activation",
        ("lora", "shrink"): "lora shrink",
        ("lora", "expand"): "lora expand",
        ("lora", "expand_silu_and_mul"): "lora expand",
        ("apply_penalties", _CALL): "sampling",
        ("sample", _CALL): "sampling",
    }
)
_HEAD = "head"


@dataclass
class PartTime:
    """What the calls of one part of a step took together."""

    seconds: float = 0.0
    calls: int = 0


class Clock:
    """Adds up time and calls by part. Parts must not call one another."""

    def __init__(self) -> None:
        self._parts: dict[str, PartTime] = {}

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` between two readings of the clock."""
        time = self._parts.setdefault(part, PartTime())

        def call(*arguments: Any, **keywords: Any) -> Any:
            started = perf_counter()
            result = function(*arguments, **keywords)
            time.seconds += perf_counter() - started
            time.calls += 1
            return result

        return call

    def take(self) -> dict[str, PartTime]:
        """Return the parts that were called since the last ``take``."""
        taken = {part: replace(time) for part, time in self._parts.items() if time.calls}
        for time in self._parts.values():
            time.seconds, time.calls = 0.0, 0
        return taken


class TimedKernel:
    """A kernel's implementation with some of its methods timed.

    Parameters
    ----------
    implementation : object
        What is not timed is its own, ``layout`` and ``prepare`` of a ``linear`` for one.
    methods : Mapping[str, Callable]
        What is called instead of its methods of these names.
    """

    def __init__(self, implementation: Any, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._implementation = implementation
        # As attributes of the instance they are found without a detour.
        self.__dict__.update(methods)

    def __call__(self, *arguments: Any) -> Any:
        """Call the implementation."""
        # Python looks for __call__ on the class only.
        return self.__dict__[_CALL](*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._implementation, name)


def timed_table(table: KernelTable, clock: Clock, vocab_size: int) -> KernelTable:
    """Return the table with every implementation timed.

    Parameters
    ----------
    table : KernelTable
    clock : Clock
    vocab_size : int
        A linear with so many output features counts as the head.
    """
    timed = {
        config: _timed(config, implementation, clock, vocab_size)
        for config, implementation in table.implementations.items()
    }
    return replace(table, implementations=MappingProxyType(timed))


def timer_seconds(calls: int = 4_000, repetitions: int = 9) -> float:
    """Measure what timing adds to one call of a kernel: two readings of the clock and the rest."""

    def nothing(x: object, weight: object) -> None:
        pass

    def repeat(function: Callable[[object, object], None]) -> float:
        started = perf_counter()
        for _ in range(calls):
            function(None, None)
        return perf_counter() - started

    timed = TimedKernel(nothing, {_CALL: Clock().timed("", nothing)})
    # One measurement alone may meet other work of the machine.
    added = statistics.median(repeat(timed) - repeat(nothing) for _ in range(repetitions))
    return max(added, 0.0) / calls


def _timed(config: OpConfig, implementation: Any, clock: Clock, vocab_size: int) -> TimedKernel:
    methods = {
        name: clock.timed(_part(config, name, vocab_size), getattr(implementation, name))
        for name in _METHODS.get(config.op, (_CALL,))
        # An implementation need not have all of them.
        if hasattr(implementation, name)
    }
    return TimedKernel(implementation, methods)


def _part(config: OpConfig, method: str, vocab_size: int) -> str:
    if config.op == "linear" and config.get("out_features") == vocab_size:
        return _HEAD
    return _PARTS.get((config.op, method), config.op)
