"""Files that are no files, lie about their size, or are larger than any adapter of the model."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plait_kernels.errors import AdapterError, OutOfMemoryError
from plait_lora.catalog import AdapterCatalog
from plait_lora.request import LoRARequest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = "base_model.model.model.layers.0.self_attn.q_proj"

Write = Callable[..., Path]
Make = Callable[..., AdapterCatalog]


def refusal(catalog: AdapterCatalog, path: Path) -> str:
    """The message with which a path is refused, within some seconds."""
    caught: list[BaseException] = []

    def resolve() -> None:
        try:
            catalog.resolve(LoRARequest("bad", 1, str(path)))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it blocks"
    assert len(caught) == 1
    assert isinstance(caught[0], AdapterError), caught[0]
    assert (catalog.resident(), catalog.ids(), catalog.nbytes) == ((), set(), 0)
    message = str(caught[0])
    assert "'bad' (id 1" in message
    return message


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have some hundred characters only
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "socket": unix_socket,
    "device": device,
    "terminal": terminal,
    "directory": Path.mkdir,
    "symlink loop": loop,
}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused(
    kind: str, name: str, tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / name).unlink()
    SPECIAL[kind](path / name)
    message = refusal(make_catalog(), path)
    wanted = ("not a regular file", f"has no {name}", "Too many levels of symbolic links")
    assert any(text in message for text in wanted), message


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "symlink loop"])
def test_what_is_put_in_place_of_a_file_before_it_is_opened_is_refused(
    kind: str,
    name: str,
    tmp_path: Path,
    write_adapter: Write,
    make_catalog: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_adapter(tmp_path / "bad")
    really_open = os.open

    def swap_then_open(file: Any, *arguments: Any) -> int:
        if Path(file).name == name:
            Path(file).unlink()
            SPECIAL[kind](Path(file))
        return really_open(file, *arguments)

    monkeypatch.setattr(os, "open", swap_then_open)
    message = refusal(make_catalog(), path)
    assert "not a regular file" in message or "cannot be read" in message


def test_another_file_put_in_place_is_refused_and_no_file_stays_open(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = write_adapter(tmp_path / "bad"), write_adapter(tmp_path / "other", seed=5)
    really_open = os.open

    def swap_then_open(file: Any, *arguments: Any) -> int:
        if Path(file).name == WEIGHTS and other.exists():
            (other / WEIGHTS).replace(file)
            (other / CONFIG).unlink()
            other.rmdir()
        return really_open(file, *arguments)

    monkeypatch.setattr(os, "open", swap_then_open)
    before = len(os.listdir("/proc/self/fd"))
    assert "changed while it was read" in refusal(make_catalog(), path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_what_the_system_refuses_is_named(
    code: int,
    tmp_path: Path,
    write_adapter: Write,
    make_catalog: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_adapter(tmp_path / "bad")

    def refuse(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", refuse)
        assert os.strerror(code) in refusal(make_catalog(), path)


def sparse(path: Path, head: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def float32(*shape: int, start: int = 0) -> dict[str, Any]:
    end = start + 4 * torch.Size(shape).numel()
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


HUGE = 200 << 30


def test_a_sparse_config_is_not_read(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path = write_adapter(tmp_path / "bad")
    sparse(path / CONFIG, b"{}", HUGE)
    assert f"adapter_config.json has {HUGE} bytes, and at most" in refusal(make_catalog(), path)


def pair(rank: int, fan_in: int = 16, out: int = 16) -> dict[str, Any]:
    a = float32(rank, fan_in)
    return {
        f"{KEY}.lora_A.weight": a,
        f"{KEY}.lora_B.weight": float32(out, rank, start=a["data_offsets"][1]),
    }


OTHER = (HUGE // 16) - 64
"""in_features with which the tensors make about the whole of the huge file."""

SPARSE: dict[str, tuple[dict[str, Any] | bytes, dict[str, Any], str]] = {
    "zeros": (b"", {}, "damaged"),
    "a header of 100 GB": ((100 << 30).to_bytes(8, "little"), {}, "header .* at most"),
    "a header that is too long": ((64 << 20).to_bytes(8, "little"), {}, "header .* at most"),
    "more than the tensors": (pair(4), {}, "damaged .*its tensors make"),
    "a shape of another model": (pair(4, fan_in=OTHER), {}, r"lora_A .* must be \[4, 16\]"),
    "many dimensions": ({"x": float32(*[1] * 20)}, {}, "damaged .*has no shape"),
    "a shape out of range": ({"x": float32() | {"shape": [2**60, 2**60]}}, {}, "out of range"),
    "a negative shape": ({"x": float32() | {"shape": [-1]}}, {}, "out of range"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, {}, "has no shape"),
    "no entry": ({"x": 3}, {}, "no object"),
    "a list": (header([]), {}, "no JSON object"),  # type: ignore[arg-type]
    "deep": ((50_000).to_bytes(8, "little") + b"[" * 50_000, {}, "no JSON"),
}


@pytest.mark.parametrize("case", SPARSE)
def test_a_sparse_weights_file_is_not_read(
    case: str,
    tmp_path: Path,
    write_adapter: Write,
    make_catalog: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content, config, message = SPARSE[case]
    path = write_adapter(tmp_path / "bad", config=config)
    head = content if isinstance(content, bytes) else header(content)
    size = HUGE
    if content == SPARSE["a shape of another model"][0]:
        size = len(head) + 4 * 4 * (OTHER + 16)
    sparse(path / WEIGHTS, head, size)
    largest = [0]
    really_read = os.read

    def read(descriptor: int, size: int) -> bytes:
        largest[0] = max(largest[0], size)
        return really_read(descriptor, size)

    monkeypatch.setattr(os, "read", read)
    assert re.search(message, refusal(make_catalog(), path))
    assert largest[0] < 4 << 20


def test_a_rank_that_fits_the_file_and_not_the_memory_is_not_read(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    rank = 10**9
    path = write_adapter(tmp_path / "bad", config={"r": rank})
    head = header(pair(rank))
    sparse(path / WEIGHTS, head, len(head) + 4 * 32 * rank)
    # Without an arena the machine is the limit.
    assert "its weights file has" in refusal(make_catalog(), path)
    with pytest.raises(OutOfMemoryError, match=r"'bad' .*: its weights take .* has 8 chunks"):
        make_catalog(num_chunks=8).resolve(LoRARequest("bad", 1, str(path)))
    # A small one may wait in host memory for a device that has no room for it.
    small = LoRARequest("small", 2, str(write_adapter(tmp_path / "small")))
    assert make_catalog(num_chunks=0).resolve(small) is not None
    assert "more than max_lora_rank 64" in refusal(make_catalog(max_lora_rank=64), path)


def test_tensors_that_are_not_used_do_not_make_a_file_larger_than_memory(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path = write_adapter(tmp_path / "bad")
    tensors = pair(4)
    end = max(entry["data_offsets"][1] for entry in tensors.values())
    unused = float32(2**33, start=end)
    head = header(tensors | {f"{KEY}.lora_velora_embed": unused})
    sparse(path / WEIGHTS, head, len(head) + unused["data_offsets"][1])
    assert "its weights file has" in refusal(make_catalog(num_chunks=8), path)


@pytest.mark.parametrize(
    "kind", [MemoryError, RecursionError, UnicodeError, RuntimeError, KeyError]
)
def test_whatever_happens_while_files_are_read_is_of_the_adapter(
    kind: type[Exception],
    tmp_path: Path,
    write_adapter: Write,
    make_catalog: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_adapter(tmp_path / "bad")

    def fail(*_: object) -> Any:
        reason = "the reason"
        raise kind(reason)

    with monkeypatch.context() as patch:
        patch.setattr("plait_lora.reader.build_adapter", fail)
        message = refusal(make_catalog(), path)
        assert kind.__name__ in message
        assert "the reason" in message
    assert make_catalog().resolve(LoRARequest("good", 1, str(path))) is not None
