"""The code on the documentation's pages runs, and prints what the pages say."""

from __future__ import annotations

import os
import re
import site
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plait import LLM
from plait.demo.model import adapter_path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

FENCE = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes
    ----------
    language : str
    text : str
    file : str | None
        The path that stands alone on the line before it: the block is that file.
    """

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["text"], found["file"])
        for found in FENCE.finditer(page.read_text())
    ]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Split a console block into commands, each with the output that the page shows."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def is_shown(output: str, shown: str) -> bool:
    """Whether a page shows an output: runs of spaces are one, ``…`` stands for anything."""
    # A line of its own may stand for no line at all.
    parts = re.split(r"(?:^…\n)|…", _plain(shown), flags=re.MULTILINE)
    return re.fullmatch(".*".join(map(re.escape, parts)), _plain(output), re.DOTALL) is not None


def _plain(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment that has all that this one has, and that may be changed. It has no network."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    (packages,) = folder.rglob("site-packages")
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (packages / "parent.pth").write_text("\n".join(lines))
    return {name: value for name, value in os.environ.items() if name != "PLAIT_KERNELS"} | {
        "PATH": os.pathsep.join([str(scripts), os.environ["PATH"]]),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PYTHONUNBUFFERED": "1",  # Output and errors in the order in which they are written.
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # All tensors are small.
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # For pip this is how to turn the isolation off.
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def test_the_tutorial_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "tutorial.md"
    code = [block.text for block in blocks(page) if block.language == "python"]
    assert len(code) >= 8
    namespace: dict[str, object] = {"__name__": "tutorial"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page.name}[{number}]", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "SELECT" in printed
    assert "/no/such/adapter" in printed


def test_the_readme_runs(model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in code:
        text = block.replace("path/to/model", str(model_path))
        exec(text.replace("path/to/adapter", str(adapter_path("sql"))), namespace)
    answers = [output.outputs[0].text.strip() for output in namespace["outputs"]]
    assert [answer.startswith("SELECT") for answer in answers] == [False, True]
    assert answers[1] in capsys.readouterr().out
    assert namespace["plait_kernel_backend"]().name == "acme"


def test_what_is_said_of_a_gpu_runs(model_path: Path) -> None:
    """Also on a CPU: the same program runs on both."""
    page = DOCS / "how-to" / "run-on-a-gpu.md"
    (code,) = (block.text for block in blocks(page) if block.language == "python")
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(code.replace("path/to/model", str(model_path)), namespace)
    assert isinstance(namespace["llm"], LLM)


def test_pages_name_sessions_that_there_are() -> None:
    text = (ROOT / "noxfile.py").read_text()
    sessions = set(re.findall(r"^@nox\.session\ndef (\w+)", text, re.MULTILINE))
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")):
        for named in re.findall(r"\bnox -s ([a-z_ ]+)", page.read_text()):
            assert set(named.split()) <= sessions, page


def test_the_way_to_a_kernel_backend_works(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "plait-acme"
    folder.mkdir()
    ran = 0
    for block in blocks(DOCS / "how-to" / "write-a-kernel-backend.md"):
        if block.file is not None:
            file = folder / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            continue
        assert block.language == "console", f"neither a file nor commands:\n{block.text}"
        for command, shown in commands(block.text):
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            message = f"$ {command}\n{done.stdout}\nis not what the page shows:\n{shown}"
            assert done.returncode == (2 if "Candidates:" in shown else 0), message
            assert not shown or is_shown(done.stdout, shown), message
            ran += 1
    assert ran >= 8


@pytest.mark.parametrize(
    ("output", "shown", "same"),
    [
        ("a  b\n\nc\n", "a b\nc\n", True),
        ("a\nb\n", "a\n", False),
        ("a\nb\nc\n", "a\n…\nc\n", True),
        ("a\nc\n", "a\n…\nc\n", True),
        ("a\nc\nd\n", "…\nc\n", False),
        ("3 passed in 2s\n", "… passed …\n", True),
        ("3 failed in 2s\n", "… passed …\n", False),
    ],
)
def test_outputs_are_compared(output: str, shown: str, same: bool) -> None:
    assert is_shown(output, shown) == same
