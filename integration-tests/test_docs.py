"""The code on the documentation's pages runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: Path) -> list[str]:
    """Return the page's Python blocks, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "tutorial.md"
    code = blocks(page)
    assert len(code) >= 8
    namespace: dict[str, object] = {"__name__": "tutorial"}
    for number, block in enumerate(code):
        exec(compile(block, f"{page.name}[{number}]", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "SELECT" in printed
    assert "/no/such/adapter" in printed
