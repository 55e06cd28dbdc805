"""The cache of compiled libraries: what others put there is never loaded, what is damaged is made
anew, and where nothing can be kept the true reason is told."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from plait_kernels import compile_cache, private_directory
from plait_kernels.compile_cache import Build, Library, compile_once, objections, user_cache
from plait_kernels.errors import BackendUnusable

GCC = shutil.which("gcc")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
needs_gcc = pytest.mark.skipif(GCC is None, reason="needs gcc")

CONTENT = b"what the compiler wrote"


class Compiler:
    """A program that compiles as a shell script says, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"
        self.program = folder / "cc"
        self.says("cp source.c out.so")

    def says(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\necho run >> {self._log}\n{script}\n")
        self.program.chmod(0o755)

    @property
    def runs(self) -> int:
        return self._log.read_text().count("run") if self._log.exists() else 0

    def build(self, **fields: Any) -> Build:
        (self._folder / "source.c").write_bytes(CONTENT)
        given = {
            "name": "fake",
            "folder": self._folder,
            "sources": ("source.c",),
            "commands": ((str(self.program),),),
            "output": "out.so",
        }
        return Build(**(given | fields))


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    folder = tmp_path / "sources"
    folder.mkdir()
    return Compiler(folder)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def files(base: Path) -> list[Path]:
    return sorted(base.glob("plait/compiled/*.so"))


def drafts(base: Path) -> list[Path]:
    return [path for path in base.glob("plait/compiled/.*") if path.is_file()]


def test_it_is_compiled_once_and_kept_for_this_user_alone(compiler: Compiler, base: Path) -> None:
    first, second = (compile_once(compiler.build(), base) for _ in range(2))
    assert compiler.runs == 1
    assert first == second
    assert first.content == CONTENT
    assert files(base) == [first.kept]
    assert hashlib.sha256(CONTENT).hexdigest() in files(base)[0].name
    for path in (base, base / "plait", base / "plait" / "compiled", *files(base)):
        assert not path.stat().st_mode & 0o077, path
    assert drafts(base) == []


def test_whatever_it_depends_on_makes_another(compiler: Compiler, base: Path) -> None:
    builds = [
        compiler.build(),
        compiler.build(key=("another processor",)),
        compiler.build(commands=((str(compiler.program), "-O3"),)),
        compiler.build(name="other"),
    ]
    names = {compile_once(build, base).name for build in builds}
    changed = compiler.build()
    (changed.folder / "source.c").write_text("changed")
    names.add(compile_once(changed, base).name)
    assert len(names) == compiler.runs == 5


def test_what_is_hashed_is_what_is_compiled(compiler: Compiler, base: Path) -> None:
    compiler.says(f"echo changed > {compiler.build().folder}/source.c; cp source.c out.so")
    assert compile_once(compiler.build(), base).content == CONTENT


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(CONTENT[:-1]),
        lambda path: path.write_bytes(CONTENT[:-1] + b"!"),
        lambda path: path.write_bytes(CONTENT + b"!"),
        lambda path: path.chmod(0o666),
        lambda path: path.chmod(0o620),
        lambda path: os.truncate(path, 1 << 40),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: path.rename(path.with_name(f"{path.stem.split('.')[0]}.planted.so")),
    ],
    ids=["empty", "short", "changed", "long", "writable", "group", "huge", "fifo", "renamed"],
)
def test_what_is_not_as_it_was_compiled_is_made_anew(
    damage: Any, compiler: Compiler, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compile_once(compiler.build(), base)
    damage(files(base)[0])
    library = compile_once(compiler.build(), base)
    assert (library.content, compiler.runs) == (CONTENT, 2)
    assert files(base) == [library.kept]
    assert "is not what was compiled" in caplog.text
    assert compile_once(compiler.build(), base) == library
    assert compiler.runs == 2


def test_a_link_in_place_of_the_library_is_not_followed(
    compiler: Compiler, base: Path, tmp_path: Path
) -> None:
    compile_once(compiler.build(), base)
    (path,) = files(base)
    planted = tmp_path / "planted.so"
    planted.write_bytes(CONTENT)
    path.unlink()
    path.symlink_to(planted)
    library = compile_once(compiler.build(), base)
    assert compiler.runs == 2
    assert planted.read_bytes() == CONTENT
    assert library.kept is not None
    assert not library.kept.is_symlink()


def make_other_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on files that exist already belong to somebody else."""
    real = os.geteuid()
    monkeypatch.setattr(private_directory.os, "geteuid", lambda: real + 1)


def test_a_directory_of_another_user_is_not_used(
    compiler: Compiler,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_once(compiler.build(), base)
    monkeypatch.setattr(private_directory, "check_ancestors", lambda path: None)
    monkeypatch.setattr(compile_cache, "check_ancestors", lambda path: None)
    make_other_users(monkeypatch)
    library = compile_once(compiler.build(), base)
    assert (library.content, library.kept, compiler.runs) == (CONTENT, None, 2)
    assert "plait' belongs to another user (uid " in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("planted", ["plait", "plait/compiled", "library"])
def test_what_really_belongs_to_another_user_is_not_used(
    planted: str, compiler: Compiler, base: Path
) -> None:
    compile_once(compiler.build(), base)
    path = files(base)[0] if planted == "library" else base / planted
    os.chown(path, 65534, 65534)
    library = compile_once(compiler.build(), base)
    assert (library.content, compiler.runs) == (CONTENT, 2)
    # In a directory of ours a file of somebody else's is replaced.
    assert (library.kept is not None) == (planted == "library")


@pytest.mark.parametrize(
    ("folder", "mode", "reason"),
    [
        ("plait/compiled", 0o777, "compiled' can be written by other users"),
        ("plait/compiled", 0o1777, "compiled' can be written by other users"),
        ("plait/compiled", 0o720, "compiled' can be written by other users"),
        ("plait", 0o702, "plait' can be written by other users"),
        (".", 0o777, "cache' can be written by other users: chmod go-w"),
        ("..", 0o707, "can be written by other users: chmod go-w"),
    ],
)
def test_a_directory_that_others_can_write_is_not_used(
    folder: str,
    mode: int,
    reason: str,
    compiler: Compiler,
    base: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_once(compiler.build(), base)
    path = (base / folder).resolve()
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        library = compile_once(compiler.build(), base)
    finally:
        path.chmod(before)
    assert (library.content, library.kept, compiler.runs) == (CONTENT, None, 2)
    assert reason in caplog.text


def test_a_sticky_directory_above_is_safe(compiler: Compiler, base: Path) -> None:
    base.mkdir()
    base.chmod(0o1777)
    assert compile_once(compiler.build(), base).kept is not None


def test_a_directory_that_others_can_read_is_closed(compiler: Compiler, base: Path) -> None:
    first = compile_once(compiler.build(), base)
    folder = base / "plait" / "compiled"
    folder.chmod(0o755)
    assert compile_once(compiler.build(), base) == first
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert compiler.runs == 1


@pytest.mark.parametrize("linked", ["plait", "plait/compiled"])
def test_a_linked_directory_is_not_used(
    linked: str,
    compiler: Compiler,
    base: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_once(compiler.build(), base)
    moved = tmp_path / "moved"
    (base / linked).rename(moved)
    (base / linked).symlink_to(moved)
    library = compile_once(compiler.build(), base)
    assert (library.kept, compiler.runs) == (None, 2)
    assert "is a symbolic link: remove it" in caplog.text


def test_the_users_own_link_to_a_cache_is_followed(
    compiler: Compiler, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "elsewhere")
    assert compile_once(compiler.build(), base).kept is not None
    assert len(files(tmp_path / "elsewhere")) == 1


def test_a_file_in_place_of_the_cache_is_a_reason(
    compiler: Compiler, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base.write_text("")
    for cache in (base, base / "below"):
        assert compile_once(compiler.build(), cache).kept is None
    assert caplog.text.count("the cache cannot be used: [Errno 20] Not a directory") == 2
    assert "set XDG_CACHE_HOME to a directory of yours" in caplog.text


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_nothing_can_be_made_is_a_reason(
    compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    assert compile_once(compiler.build(), Path("/proc/plait-cache")).content == CONTENT
    assert "fake is compiled for this process only: the cache cannot be used: " in caplog.text


def test_a_read_only_cache_serves_what_it_has(
    compiler: Compiler,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = compile_once(compiler.build(), base)
    real = os.open

    def open_for_reading(path: str, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and "dir_fd" in named:
            raise OSError(30, "Read-only file system")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(private_directory.os, "open", open_for_reading)
    assert compile_once(compiler.build(), base) == first
    assert compile_once(compiler.build(name="other"), base).kept is None
    assert "other is compiled for this process only: the cache " in caplog.text
    assert "cannot be written: Read-only file system" in caplog.text


@pytest.mark.parametrize("name", ["write", "rename", "fsync"])
def test_a_full_disk_is_a_reason_and_leaves_nothing(
    name: str,
    compiler: Compiler,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if name == "write":
        monkeypatch.setattr(private_directory.PrivateDirectory, "write", full)
    else:
        monkeypatch.setattr(private_directory.os, name, full)
    library = compile_once(compiler.build(), base)
    assert (library.content, library.kept) == (CONTENT, None)
    assert "cannot be written: No space left on device" in caplog.text
    assert files(base) == drafts(base) == []


@pytest.mark.parametrize("variables", [{}, {"XDG_CACHE_HOME": "relative"}])
def test_a_missing_home_is_a_reason(
    variables: dict[str, str],
    compiler: Compiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # As for a user id that nobody has given a name.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert compile_once(compiler.build()).kept is None
    assert "the cache cannot be used: this user has no cache directory" in caplog.text
    assert "set XDG_CACHE_HOME" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


def test_a_path_that_depends_on_the_working_directory_is_no_cache(
    compiler: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    assert compile_once(compiler.build(), Path("~/.cache")).kept is None
    assert "'~/.cache' is not an absolute path" in caplog.text


def test_the_variable_says_where_the_cache_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path


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


def test_a_missing_source_is_the_reason(compiler: Compiler, base: Path) -> None:
    with pytest.raises(BackendUnusable, match=r"a source of fake cannot be read: .*no-such"):
        compile_once(compiler.build(sources=("no-such.c",)), base)


def test_what_was_left_by_a_killed_process_is_removed(compiler: Compiler, base: Path) -> None:
    (old,) = (compile_once(compiler.build(), base),)
    folder = base / "plait" / "compiled"
    (folder / f".{old.name}.draft").write_text("half a")
    (folder / ".other.draft").write_text("of another library")
    files(base)[0].unlink()
    compile_once(compiler.build(), base)
    assert [path.name for path in drafts(base)] == [".other.draft"]


def _compile_in_process(build: Build, base: Path, start: Any) -> None:
    start.wait()
    assert compile_once(build, base).content == CONTENT


def test_of_several_processes_one_compiles(compiler: Compiler, base: Path) -> None:
    compiler.says("sleep 0.3; cp source.c out.so")
    context = multiprocessing.get_context("fork")
    start = context.Event()
    arguments = (compiler.build(), base, start)
    processes = [context.Process(target=_compile_in_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert compiler.runs == 1


def test_of_several_threads_one_compiles(compiler: Compiler, base: Path) -> None:
    compiler.says("sleep 0.2; cp source.c out.so")
    build, got = compiler.build(), []
    threads = [
        threading.Thread(target=lambda: got.append(compile_once(build, base))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [library.content for library in got] == [CONTENT] * 3
    assert compiler.runs == 1


def test_a_process_that_is_killed_leaves_no_lock(compiler: Compiler, base: Path) -> None:
    compiler.says("sleep 600")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=compile_once, args=(compiler.build(timeout=30), base))
    process.start()
    for _ in range(200):
        if compiler.runs:
            break
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    compiler.says("cp source.c out.so")
    assert compile_once(compiler.build(), base).content == CONTENT


def test_where_there_are_no_locks_it_is_compiled(
    compiler: Compiler, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(private_directory.fcntl, "flock", no_locks)
    assert compile_once(compiler.build(), base).kept is not None


def test_an_interrupt_leaves_nothing(
    compiler: Compiler, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    compiler.says(f"echo $$ > {tmp_path}/pid; sleep 0.3; kill -INT {os.getpid()}; sleep 600")
    with pytest.raises(KeyboardInterrupt):
        compile_once(compiler.build(), base)
    assert list(scratch.iterdir()) == []
    assert is_gone(int((tmp_path / "pid").read_text()))
    compiler.says("cp source.c out.so")
    assert compile_once(compiler.build(), base).content == CONTENT


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
