"""What a compiler can do, where it is run, and what comes of its library."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from plait_kernels.compile_cache import Library, compile_once, objections
from plait_kernels.errors import BackendUnusable

Compiler: TypeAlias = Any  # The class in conftest.py.


GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="needs gcc")


def files(base: Path) -> list[Path]:
    return sorted(base.glob("plait/compiled/*.so"))


def drafts(base: Path) -> list[Path]:
    return [path for path in base.glob("plait/compiled/.*") if path.is_file()]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'x.c:1: error: the disk is on fire' >&2; exit 3", "status 3: x.c:1: error: the dis"),
        ("printf 'bad \\377 byte, error'; exit 1", "failed with status 1: bad "),
        ("exit 2", "failed with status 2"),
        ("kill -9 $$", "was killed by signal SIGKILL; is there enough memory?"),
        ("exit 0", "ended without an error and wrote no out.so"),
        ("mkdir out.so", "ended without an error and wrote no out.so"),
        ("ln -s /etc/passwd out.so", "ended without an error and wrote no out.so"),
        (": > out.so", "wrote a out.so of 0 bytes"),
        ("head -c 1000000 /dev/zero | tr '\\0' e; echo rror; exit 1", "failed with status 1"),
    ],
)
def test_what_the_compiler_did_is_the_reason(
    script: str, reason: str, compiler: Compiler, base: Path
) -> None:
    compiler.says(script)
    with pytest.raises(BackendUnusable) as caught:
        compile_once(compiler.build(), base)
    assert f"the compiler '{compiler.program}'" in str(caught.value)
    assert reason in str(caught.value)
    assert "cache" not in str(caught.value).replace(str(base), "")
    assert len(str(caught.value)) < 1000
    assert files(base) == drafts(base) == []


@pytest.mark.parametrize("program", ["#!/no/such/interpreter\n", "\x7fELF is not this", ""])
def test_a_compiler_that_cannot_start_is_the_reason(
    program: str, compiler: Compiler, base: Path
) -> None:
    compiler.program.write_text(program)
    if not program:
        compiler.program.unlink()
    with pytest.raises(BackendUnusable, match=r"the compiler .* cannot be started: "):
        compile_once(compiler.build(), base)


def test_a_compiler_that_hangs_is_killed_with_what_it_started(
    compiler: Compiler, base: Path, tmp_path: Path
) -> None:
    compiler.says(f"sleep 600 & echo $! > {tmp_path}/child; sleep 600")
    with pytest.raises(BackendUnusable, match=r"did not finish in 0\.3 s"):
        compile_once(compiler.build(timeout=0.3), base)
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(process: int) -> bool:
    for _ in range(200):
        try:
            # A zombie that nobody waits for has ended too.
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(process, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_an_interrupt_leaves_nothing(
    compiler: Compiler, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    compiler.says(f"echo $$ > {tmp_path}/pid; sleep 0.3; kill -INT {os.getpid()}; sleep 600")
    # A process that was started in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_once(compiler.build(), base)
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(scratch.iterdir()) == []
    assert is_gone(int((tmp_path / "pid").read_text()))
    compiler.says("cp source.c out.so")
    assert compile_once(compiler.build(), base).content == compiler.content


def test_a_missing_source_is_the_reason(compiler: Compiler, base: Path) -> None:
    with pytest.raises(BackendUnusable, match=r"a source of fake cannot be read: .*no-such"):
        compile_once(compiler.build(sources=("no-such.c",)), base)


def test_where_the_temporary_directory_is_unsafe_the_cache_is_compiled_in(
    compiler: Compiler, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(unsafe))
    compiler.says(f"pwd > {tmp_path}/where; cp source.c out.so")
    compile_once(compiler.build(), base)
    assert (tmp_path / "where").read_text().startswith(str(base / "plait" / "compiled"))
    base.chmod(0o777)
    with pytest.raises(BackendUnusable, match=r"no directory to compile in: .*unsafe' can be writ"):
        compile_once(compiler.build(), base)


def test_looking_changes_nothing(base: Path, tmp_path: Path) -> None:
    assert objections(base) == ()
    assert list(tmp_path.iterdir()) == []


def test_nowhere_to_compile_is_an_objection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(unsafe))
    (reason,) = objections(unsafe / "cache")
    assert reason.count("unsafe' can be written by other users") == 2
    assert reason.endswith("set XDG_CACHE_HOME and TMPDIR")


def compiled_c(compiler: Compiler, base: Path, answer: int) -> Library:
    build = compiler.build(
        commands=((str(GCC), "-shared", "-fPIC", "source.c", "-o", "out.so"),),
    )
    (build.folder / "source.c").write_text(f"int answer(void) {{ return {answer}; }}\n")
    return compile_once(build, base)


@needs_gcc
def test_what_is_loaded_is_what_was_checked(compiler: Compiler, base: Path) -> None:
    right, planted = (compiled_c(compiler, base, answer) for answer in (42, 13))
    assert right.kept is not None
    assert planted.kept is not None
    # After the check: exchanged, then truncated under the running program.
    planted.kept.replace(right.kept)
    loaded = right.load()
    assert loaded.answer() == 42
    os.truncate(right.kept, 0)
    assert loaded.answer() == 42
    assert planted.load().answer() == 13


@needs_gcc
def test_without_files_in_memory_it_is_loaded_from_the_cache(
    compiler: Compiler, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert compiled_c(compiler, base, 42).load().answer() == 42


def test_what_cannot_be_loaded_is_compiled_anew(compiler: Compiler, base: Path) -> None:
    library = compile_once(compiler.build(), base)
    with pytest.raises(BackendUnusable, match=r"'fake-\w+' was compiled and cannot be loaded: "):
        library.load()
    assert files(base) == []


@needs_gcc
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs files in memory")
def test_the_bytes_in_memory_cannot_be_changed(compiler: Compiler, base: Path) -> None:
    path = compiled_c(compiler, base, 42).path_in_memory()
    with pytest.raises(OSError, match="not permitted"):
        os.truncate(path, 0)
    with open(path, "r+b", buffering=0) as file, pytest.raises(OSError, match="not permitted"):
        file.write(b"x")
    assert ctypes.CDLL(path).answer() == 42
