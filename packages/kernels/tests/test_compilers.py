"""Finding a compiler; what running it can do is in ``test_compile_cache.py``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plait_kernels.compilers import find_compiler
from plait_kernels.errors import BackendUnusable


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs are looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("ACME_CC", raising=False)
    for name in ("acme-cc", "other-cc", "cache"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    (folder / "text").write_text("not a program")
    return folder


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["acme-cc"]),
        ("", ["acme-cc"]),
        ("  ", ["acme-cc"]),
        ("other-cc", ["other-cc"]),
        ("cache other-cc -m64", ["cache", "other-cc", "-m64"]),
        ("'cache' \"-D A=b c\"", ["cache", "-D A=b c"]),
    ],
)
def test_the_variable_or_the_default(
    value: str | None, words: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("ACME_CC", value)
    command = find_compiler("ACME_CC", "acme-cc").command
    assert list(command) == [str(path / words[0]), *words[1:]]


def test_a_path_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_CC", str(path / "other-cc"))
    assert find_compiler("ACME_CC", "acme-cc").command == (str(path / "other-cc"),)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no-such-cc", "no compiler: 'no-such-cc' was not found"),
        ("text", "no compiler: 'text' was not found"),
        ("/no/such/cc", "no compiler: '/no/such/cc' was not found"),
        ("/", "no compiler: '/' was not found"),
        ("acme-cc '", 'ACME_CC="acme-cc \'" is not a command'),
        ("''", "was not found"),
        ("x" * 10**5, "was not found"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(
    value: str, reason: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_CC", value)
    with pytest.raises(BackendUnusable) as caught:
        find_compiler("ACME_CC", "acme-cc")
    assert reason in str(caught.value)
    assert "install acme-cc, or set ACME_CC to a compiler's path" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_its_identity_changes_with_the_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_CC", "cache other-cc")
    first = find_compiler("ACME_CC", "acme-cc").identity
    assert find_compiler("ACME_CC", "acme-cc").identity == first
    # An update of the compiler behind another program.
    (path / "other-cc").write_text("#!/bin/sh\nexit 0\n")
    second = find_compiler("ACME_CC", "acme-cc").identity
    os.utime(path / "other-cc", (1, 1))
    third = find_compiler("ACME_CC", "acme-cc").identity
    monkeypatch.setenv("ACME_CC", "cache other-cc -m32")
    assert len({first, second, third, find_compiler("ACME_CC", "acme-cc").identity}) == 4
