"""Progress bars, as what they hand to the bar that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait.outputs import CompletionOutput, RequestOutput
from plait.progress import GenerationProgress, LoadingProgress

if TYPE_CHECKING:
    import pytest


class Bar:
    """Stands in for tqdm, one second after its start."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords
        self.format_dict = {"elapsed": 2.0}
        self.postfix = ""
        self.n = 0
        self.closed = False

    def update(self, count: int) -> None:
        self.n += count

    def close(self) -> None:
        self.closed = True


def test_tokens_a_second_of_prompts_and_outputs() -> None:
    made: list[Bar] = []

    def make(**keywords: Any) -> Bar:
        made.append(Bar(**keywords))
        return made[0]

    completions = [CompletionOutput(0, "", [1, 2, 3]), CompletionOutput(1, "", [1])]
    with GenerationProgress(2, make) as progress:
        progress.finish(RequestOutput("0", None, [1, 2, 3, 4, 5], None, completions, True))
        progress.finish(RequestOutput("1", None, [1, 2], None, completions[:1], True))
    (bar,) = made
    assert bar.keywords["total"] == 2
    assert bar.n == 2
    assert bar.postfix == "est. speed input: 6.00 toks/s, output: 3.50 toks/s"
    assert bar.closed


def test_no_bar_is_written_when_none_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    completions = [CompletionOutput(0, "", [1])]
    with GenerationProgress(1, False) as progress, LoadingProgress(False) as loading:
        progress.finish(RequestOutput("0", None, [1], None, completions, True))
        loading(5, 10)
    assert capsys.readouterr().err == ""


def test_bytes_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    with LoadingProgress() as loading:
        loading(1024, 4096)
        loading(4096, 4096)
    written = capsys.readouterr().err
    assert "Loading weights" in written
    assert "4.00k/4.00k" in written
