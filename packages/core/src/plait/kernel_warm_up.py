"""What kernels compile or load is done before the first step, on all processors."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import KernelError
from plait_kernels.warm_up import LoraFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import torch

    from plait_kernels.config import OpConfig
    from plait_kernels.sites import LoraSite
    from plait_kernels.table import KernelTable
    from plait_kernels.warm_up import EngineFacts

logger = logging.getLogger(__name__)

_WORTH_TELLING = 2.0
"""Seconds."""


def lora_facts(
    sites: Iterable[LoraSite], groups: Collection[str], dtype: torch.dtype, tile_rows: int
) -> LoraFacts:
    """Say how adapters are served.

    Parameters
    ----------
    sites : Iterable[LoraSite]
        Of the model.
    groups : Collection[str]
        Those in which adapters may act.
    dtype, tile_rows
        Of the arena.
    """
    # Those of a call follow each other.
    calls = (tuple(call) for _, call in groupby(sites, lambda site: site.group))
    shapes = {_shape(call): call for call in calls if call[0].group in groups}
    # Layouts of adapters have no dense entries so far: see ``AdapterDevice``.
    return LoraFacts(dtype, tile_rows, tuple(shapes.values()), has_dense=False)


def _shape(call: tuple[LoraSite, ...]) -> tuple[object, ...]:
    return tuple((s.group, s.in_features, s.out_features, s.out_offset) for s in call)


def warm_up(table: KernelTable, facts: EngineFacts) -> int:
    """Do all tasks of the chosen kernels: see ``plait_kernels.warm_up``.

    Returns
    -------
    int
        How many there were.

    Raises
    ------
    KernelError
        A task failed: a kernel does not compile here, or does not fit on the device.
    """
    start = time.perf_counter()
    listed: dict[Callable[[], Any], OpConfig] = {}
    for config, implementation in table.implementations.items():
        tasks = getattr(implementation, "warm_up", None)
        if tasks is not None:
            listed |= dict.fromkeys(tasks(facts), config)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="plait-warm-up") as threads:
        started = {threads.submit(task): config for task, config in listed.items()}
        for task, config in started.items():
            if (error := task.exception()) is not None:
                threads.shutdown(cancel_futures=True)
                raise _error(table, config, error) from error
    seconds = time.perf_counter() - start
    if seconds > _WORTH_TELLING:
        logger.info("%d kernels were compiled or loaded in %.1f s", len(listed), seconds)
    return len(listed)


def _error(table: KernelTable, config: OpConfig, error: BaseException) -> KernelError:
    name = table.choices[config].chosen.backend.name
    text = (
        f"backend {name!r} could not prepare its {config.op} for {config.dtype}: "
        f"{type(error).__name__}: {error}; choose another with kernels='{config.op}=…'"
    )
    return KernelError(text)
