"""Metrics: what an engine counts, under vLLM's names and in the shapes of its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.request import Request
    from plait.scheduler import Scheduler


@dataclass
class Metric:
    """What all metrics have.

    Attributes
    ----------
    name : str
    labels : dict[str, str]
    """

    name: str
    labels: dict[str, str]


@dataclass
class Counter(Metric):
    """A whole number that only grows.

    Attributes
    ----------
    value : int
    """

    value: int


@dataclass
class Vector(Metric):
    """Several counters in order; plait has no metric of this shape.

    Attributes
    ----------
    values : list[int]
    """

    values: list[int]


@dataclass
class Gauge(Metric):
    """A number that goes up and down.

    Attributes
    ----------
    value : float
    """

    value: float


@dataclass
class Histogram(Metric):
    """Values by size; plait has no metric of this shape.

    Attributes
    ----------
    count : int
        All values.
    sum : float
        Of all values.
    buckets : dict[str, int]
        Upper limit → how many values are not above it; the last is "+Inf".
    """

    count: int
    sum: float
    buckets: dict[str, int]


@dataclass
class SchedulerStats:
    """What a scheduler counts over its life.

    Attributes
    ----------
    prompt_tokens : int
        Of the prompts that are computed, those of cached blocks included.
    generation_tokens : int
        Sampled.
    prefix_cache_queries, prefix_cache_hits : int
        Prompt tokens that were looked up in the prefix cache, and those found.
    preemptions : int
        How often a request gave up its memory and started over.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preemptions: int = 0

    def count_row(self, request: Request, tokens: Sequence[int]) -> None:
        """Count what a step sampled for a request; call it before they are appended."""
        if tokens and len(request.tokens) == request.prompt_length:
            self.prompt_tokens += request.prompt_length
        self.generation_tokens += len(tokens)


def snapshot(scheduler: Scheduler, model_name: str) -> list[Metric]:
    """Return the metrics as they are now.

    Parameters
    ----------
    scheduler : Scheduler
    model_name : str
        For the labels.
    """
    labels = {"model_name": model_name, "engine": "0"}
    pool, stats = scheduler.pool, scheduler.stats
    gauges = {
        "num_requests_running": len(scheduler.running),
        "num_requests_waiting": len(scheduler.waiting),
        "kv_cache_usage_perc": 1 - pool.num_free / pool.num_blocks,
    }
    counters = {
        "prefix_cache_queries": stats.prefix_cache_queries,
        "prefix_cache_hits": stats.prefix_cache_hits,
        "num_preemptions": stats.preemptions,
        "prompt_tokens": stats.prompt_tokens,
        "generation_tokens": stats.generation_tokens,
    }
    return [
        *(Gauge(f"vllm:{name}", dict(labels), float(value)) for name, value in gauges.items()),
        *(Counter(f"vllm:{name}", dict(labels), value) for name, value in counters.items()),
    ]
