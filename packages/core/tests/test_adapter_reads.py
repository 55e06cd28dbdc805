"""Reads in threads: across a fork, and where no thread can be had."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest

from plait.adapter_reads import AdapterReads
from plait_kernels.errors import AdapterError
from plait_lora.reader import ReadAdapter
from plait_lora.request import LoRARequest

HANDLE = LoRARequest("sql", 1, "/nowhere/sql")
OTHER = LoRARequest("json", 2, "/nowhere/json")


def in_child(run: Callable[[], bool]) -> bool:
    """What ``run`` returns in a forked process; False if it takes 30 seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads: the point
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        good = False
        try:
            good = run()
        finally:
            os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


def named(handle: LoRARequest) -> ReadAdapter:
    return cast("ReadAdapter", handle.lora_name)


def taken(reads: AdapterReads, waiting: str) -> Any:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        reads.wait(0.05)
        if (read := reads.take(waiting)) is not None:
            return read
    return None


def test_a_forked_process_reads_new_adapters() -> None:
    reads = AdapterReads(named)
    reads.start("parent", HANDLE)
    assert taken(reads, "parent") == "sql"

    def read_another() -> bool:
        reads.start("child", OTHER)
        return bool(taken(reads, "child") == "json")

    assert in_child(read_another)
    assert in_child(lambda: in_child(read_another)), "nor does a child of the child hang"
    reads.start("again", OTHER)
    assert taken(reads, "again") == "json"


def test_a_forked_process_begins_again_what_was_being_read() -> None:
    may_end = threading.Event()

    def slow(handle: LoRARequest) -> ReadAdapter:
        assert may_end.wait(30)
        return named(handle)

    reads = AdapterReads(slow)
    reads.start("taken", HANDLE)
    reads.start("dropped", OTHER)

    def finish() -> bool:
        reads.drop("dropped")
        may_end.set()
        return bool(taken(reads, "taken") == "sql") and len(reads) == 0

    assert in_child(finish)
    assert len(reads) == 2
    may_end.set()
    assert taken(reads, "taken") == "sql"
    assert taken(reads, "dropped") == "json"


def test_without_a_thread_the_adapter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = AdapterReads(named)

    def refuse(_: threading.Thread) -> None:
        text = "can't start new thread"
        raise RuntimeError(text)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(AdapterError, match="'sql' cannot be read now: no thread"):
            reads.start("a", HANDLE)
    assert len(reads) == 0
    reads.start("a", HANDLE)
    assert taken(reads, "a") == "sql"
