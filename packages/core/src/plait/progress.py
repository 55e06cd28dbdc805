"""Progress bars: of generation and of weight loading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plait.outputs import RequestOutput


class _Progress:
    """A bar that is closed at the end of a ``with`` block."""

    _bar: tqdm[None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


class GenerationProgress(_Progress):
    """A bar of finished prompts, with input and output tokens a second.

    Parameters
    ----------
    total : int
        Prompts.
    use_tqdm : bool | Callable
        False = no bar. A callable makes the bar in place of ``tqdm``, with its keywords.
    """

    def __init__(self, total: int, use_tqdm: bool | Callable[..., Any] = True) -> None:
        make = use_tqdm if callable(use_tqdm) else tqdm
        self._bar = make(
            total=total,
            desc="Processed prompts",
            dynamic_ncols=True,
            postfix="est. speed input: 0.00 toks/s, output: 0.00 toks/s",
            disable=not use_tqdm,
        )
        self._input_tokens = 0
        self._output_tokens = 0

    def finish(self, output: RequestOutput) -> None:
        """Count a finished request.

        Parameters
        ----------
        output : RequestOutput
            Cumulative: it holds all tokens of all completions.
        """
        self._input_tokens += len(output.prompt_token_ids) * len(output.outputs)
        self._output_tokens += sum(len(completion.token_ids) for completion in output.outputs)
        elapsed = self._bar.format_dict["elapsed"]
        if elapsed > 0:
            self._bar.postfix = (
                f"est. speed input: {self._input_tokens / elapsed:.2f} toks/s, "
                f"output: {self._output_tokens / elapsed:.2f} toks/s"
            )
        self._bar.update(1)


class LoadingProgress(_Progress):
    """A bar of the bytes of weights that are read.

    Parameters
    ----------
    use_tqdm : bool
    """

    def __init__(self, use_tqdm: bool = True) -> None:
        self._bar = tqdm(
            desc="Loading weights",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=True,
            disable=not use_tqdm,
        )

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes are read."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)
