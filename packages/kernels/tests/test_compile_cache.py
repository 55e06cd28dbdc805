"""The cache of compiled libraries: what others put there is never loaded, what is damaged is made
anew, and where nothing can be kept the true reason is told."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from plait_kernels import compile_cache, private_directory
from plait_kernels.compile_cache import Build, compile_once, user_cache

Compiler: TypeAlias = Any  # The class in conftest.py.

CONTENT = b"what the compiler wrote"


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


def test_a_link_to_where_others_can_write_is_not_followed(
    compiler: Compiler, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unsafe = tmp_path / "elsewhere"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    base.symlink_to(unsafe)
    assert compile_once(compiler.build(), base).kept is None
    assert "elsewhere' can be written by other users" in caplog.text
    assert list(unsafe.iterdir()) == []


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
