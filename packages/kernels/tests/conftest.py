"""A compiler that is a shell script, for the tests of the compile cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from plait_kernels.compile_cache import Build

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"what the compiler wrote"


class Compiler:
    """A program that compiles as a shell script says, and counts how often."""

    content = CONTENT

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
