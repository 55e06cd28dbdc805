from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

import plait_cpu
from plait_cpu import compiler
from plait_cpu.compiler import BuildError, build
from plait_cpu.library import load_library
from plait_kernels.config import OpConfig
from plait_kernels.device import Device
from plait_kernels.loader import load_backends
from plait_kernels.request import KernelRequest
from plait_kernels.selection import choose


@pytest.fixture
def broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "broken-g++"
    path.write_text("#!/bin/sh\necho 'x.cpp:1: error: the disk is on fire' >&2\nexit 3\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = build(tmp_path)
    assert list(tmp_path.iterdir()) == [library]
    monkeypatch.setattr(compiler, "_compile", None)
    assert build(tmp_path) == library


def test_another_compiler_makes_another_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(tmp_path)
    found = shutil.which("g++")
    assert found is not None
    other = tmp_path / "my-g++"
    other.write_text(f'#!/bin/sh\nexec {found} "$@"\n')
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert build(tmp_path) != first


def test_a_library_that_was_compiled_can_be_loaded(tmp_path: Path) -> None:
    library = load_library(build(tmp_path))
    assert library.plait_attention_split() > 0


def test_without_a_compiler_the_reason_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"'no-such-compiler' was not found; install g\+\+"):
        build(tmp_path)


def test_what_the_compiler_says_is_the_reason(broken_compiler: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the disk is on fire"):
        build()
    left = list((tmp_path / "cache" / "plait" / "cpu").iterdir())
    assert left == [], "a failure leaves nothing behind"


def test_auto_takes_torch_where_it_cannot_be_compiled(broken_compiler: Path) -> None:
    config = OpConfig.of("rms_norm", dtype="float32", bucket="decode", max_tokens=8, hidden=8)
    (choice,) = choose([config], load_backends(), KernelRequest(), Device())
    assert choice.chosen.backend.name == "torch"
    assert "the disk is on fire" in str(choice)


def test_a_cache_that_cannot_be_written_is_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BuildError, match="set XDG_CACHE_HOME"):
        build(file / "cache")


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
