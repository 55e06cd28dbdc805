from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import plait_cpu
from plait_cpu.compiler import build
from plait_cpu.library import load_library
from plait_kernels.__main__ import main
from plait_kernels.config import OpConfig
from plait_kernels.device import Device
from plait_kernels.errors import KernelError
from plait_kernels.loader import load_backends
from plait_kernels.request import KernelRequest
from plait_kernels.selection import choose, select
from plait_kernels.table import KernelTable

CONFIGS = [
    OpConfig.of("rms_norm", dtype="float32", bucket="decode", max_tokens=8, hidden=hidden)
    for hidden in (8, 16)
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, as for a process that has not loaded the library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_library.cache_clear()
    yield tmp_path / "cache"
    load_library.cache_clear()


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that brings what g++ made for all tests, and counts its calls."""
    kept = tmp_path / "made-by-g++"
    kept.write_bytes(build().content)
    path = tmp_path / "quick-g++"
    path.write_text(
        f"#!/bin/sh\necho run >> {tmp_path}/log\n"
        f'case "$*" in *-shared*) cp {kept} plait_cpu.so;; esac\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


@pytest.fixture
def broken_compiler(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "broken-g++"
    path.write_text(
        f"#!/bin/sh\necho run >> {tmp_path}/log\n"
        "echo 'x.cpp:1: error: the disk is on fire' >&2\nexit 3\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return path


def table(request: str = "") -> KernelTable:
    return select(CONFIGS, load_backends(), KernelRequest.parse(request), Device())


def test_it_is_compiled_once(
    quick_compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = build(tmp_path)
    assert library.kept is not None
    assert build(tmp_path) == library
    assert load_library(tmp_path).plait_attention_split() > 0
    assert (tmp_path / "log").read_text() == 2 * "run\n", "compiled, and linked"
    # Another compiler makes another library.
    other = tmp_path / "my-g++"
    other.write_text(f'#!/bin/sh\nexec {quick_compiler} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert build(tmp_path).kept != library.kept


def test_a_compiler_behind_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"env LC_ALL=C {shutil.which('g++')} -O0 -DNOTHING=1")
    commands: list[tuple[str, ...]] = []

    def pretend(command: tuple[str, ...], directory: Path, timeout: float) -> None:
        commands.append(command)
        (directory / command[-1]).write_bytes(b"a library")

    monkeypatch.setattr("plait_kernels.compile_cache.run_compiler", pretend)
    build(tmp_path)
    for command in commands:
        assert Path(command[0]).name == "env"
        assert command[1:5] == ("LC_ALL=C", shutil.which("g++"), "-O0", "-DNOTHING=1")


def test_probing_neither_compiles_nor_writes(
    cache: Path, broken_compiler: Path, tmp_path: Path
) -> None:
    assert plait_cpu.probe(Device()) == ()
    choices = choose(CONFIGS, load_backends(), KernelRequest(), Device())
    assert {choice.chosen.backend.name for choice in choices} == {"cpu"}
    assert not (tmp_path / "log").exists()
    assert not cache.exists()


def test_the_table_of_the_command_compiles_when_it_is_told_to(
    broken_compiler: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PLAIT_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    assert not (tmp_path / "log").exists()
    assert "cpu        chosen" in capsys.readouterr().out
    assert main(["--make"]) == 0
    assert (tmp_path / "log").read_text() == "run\n", "once, for all kernels"
    out = capsys.readouterr().out
    assert "cpu        not usable: the compiler " in out
    assert "status 3: x.cpp:1: error: the disk is on fire" in out


def test_auto_takes_torch_where_it_cannot_be_compiled(
    broken_compiler: Path, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = table()
    for choice in chosen.choices.values():
        assert choice.chosen.backend.name == "torch"
        assert "cpu: the compiler" in str(choice)
        assert "the disk is on fire" in str(choice)
    assert (tmp_path / "log").read_text() == "run\n", "tried once, not for each kernel"
    assert [path.name for path in cache.rglob("*.so")] == []
    assert caplog.text.count("the disk is on fire") == 1


def test_by_name_it_is_an_error_with_the_true_reason(broken_compiler: Path) -> None:
    with pytest.raises(KernelError, match=r"satisfies kernels='cpu';(.|\n)*the disk is on fire"):
        table("cpu")
    broken_compiler.write_text("#!/no/such/shell\n")
    with pytest.raises(KernelError, match="cannot be started"):
        table("cpu")
    broken_compiler.write_text("#!/bin/sh\n")
    with pytest.raises(KernelError, match=r"without an error and wrote no plait_cpu\.so"):
        table("cpu")


def test_without_a_compiler_the_reason_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (reason,) = plait_cpu.probe(Device())
    assert "'no-such-compiler' was not found; install g++" in reason
    choices = table().choices.values()
    assert all(reason in str(choice) for choice in choices)


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", b"planted"])
def test_an_engine_starts_whatever_lies_in_the_cache(
    damage: bytes, quick_compiler: Path, cache: Path
) -> None:
    first = build()
    assert first.kept is not None
    assert first.kept.is_relative_to(cache)
    first.kept.write_bytes(damage)
    names = {choice.chosen.backend.name for choice in table().choices.values()}
    assert names == {"cpu"}
    assert first.kept.read_bytes() == first.content


def test_where_nothing_can_be_kept_it_is_compiled_for_the_process(
    quick_compiler: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file")
    names = {choice.chosen.backend.name for choice in table().choices.values()}
    assert names == {"cpu"}
    assert "plait_cpu is compiled for this process only: the cache cannot be used" in caplog.text


def test_what_cannot_be_loaded_is_a_reason(
    quick_compiler: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "made-by-g++").write_text("no library")
    for choice in table().choices.values():
        assert choice.chosen.backend.name == "torch"
        assert "was compiled and cannot be loaded" in str(choice)
    assert [path.name for path in cache.rglob("*.so")] == []


def test_other_systems_and_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plait_cpu.probe(Device("cuda")) == ("for the CPU only, this device is cuda",)
    monkeypatch.setattr(sys, "platform", "win32")
    assert plait_cpu.probe(Device()) == ("compiled on Linux only, this is win32",)


def test_its_threads_are_torchs() -> None:
    load_library()
    mapped = Path("/proc/self/maps").read_text().splitlines()
    runtimes = {line.split(maxsplit=5)[-1] for line in mapped if "libgomp" in line}
    assert len(runtimes) == 1, "a second OpenMP would fight for the cores"
    assert torch.__file__.rpartition("/")[0].rpartition("/")[0] in runtimes.pop()


def test_what_it_hands_to_others_is_declared() -> None:
    config = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=8, group="qkv")
    (choice,) = choose([config], load_backends(), KernelRequest.parse("cpu"), Device())
    assert str(choice).startswith("lora[float32, group=qkv], decode up to 8 tokens: cpu, which use")
    assert choice.chosen.kernel.uses == ("torch",)
    # A prompt's attention is not taken over silently: it is refused.
    prompt = OpConfig.of("attention", dtype="float32", bucket="prefill", max_tokens=64, head_dim=8)
    with pytest.raises(KernelError, match="cpu: it attends single queries: bucket decode only"):
        choose([prompt], load_backends(), KernelRequest.parse("cpu"), Device())
