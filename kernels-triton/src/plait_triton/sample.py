"""``sample``: the argmax in two launches, or a draw in nine, without sorting a vocabulary.

The launches are the same for every batch that is not all greedy. Which of them a row needs is
decided on the device: a row without top_k leaves top_k's launches at once, and so on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from plait_kernels.sampling_types import SampleBatch
from plait_triton.launching import LAUNCHER, Launcher, Recorder, without_memory
from plait_triton.sample_draw import draw_kernel, weigh_kernel
from plait_triton.sample_rows import extremes_kernel, greedy_kernel
from plait_triton.sample_select import gather_kernel, measure_kernel, narrow_kernel
from plait_triton.sizes import power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

_MARGIN_BITS = 26


@dataclass(frozen=True)
class SampleParameters:
    """How a row is cut and searched.

    Attributes
    ----------
    vocab : int
    chunk : int
        Logits to a program.
    bins : int
        Levels at which mass is measured at a time.
    tile : int
        Candidates that ``narrow_kernel`` looks at at a time.
    warps : int
        Of the programs that read a chunk.
    narrow_warps : int
        Of ``narrow_kernel``.
    """

    vocab: int
    chunk: int = 4096
    bins: int = 16
    tile: int = 2048
    warps: int = 4
    narrow_warps: int = 8

    @classmethod
    def of(cls, config: OpConfig) -> SampleParameters:
        """Choose them for one config."""
        vocab = int(config.get("vocab") or 0)
        chunk = min(power_of_two(vocab), cls.chunk)
        # A level for some tens of logits: more would be more than there are distinct ones.
        bins = min(max(chunk // 32, 4), cls.bins)
        return cls(vocab, chunk=chunk, bins=bins, tile=min(chunk, cls.tile))

    @property
    def chunks(self) -> int:
        """Return the number of chunks of a row."""
        return -(-self.vocab // self.chunk)


class Sample:
    """See ``plait_kernels.ops.sample`` for the contract."""

    def __init__(self, parameters: SampleParameters, launcher: Launcher = LAUNCHER) -> None:
        self._parameters = parameters
        self._launcher = launcher
        vocab, chunks = parameters.vocab, parameters.chunks
        power = power_of_two(chunks)
        self._vocab = vocab
        self._chunks = chunks
        self._bins = parameters.bins
        self._padded = chunks * parameters.chunk
        # All tokens of weight 2⁻²⁶ / vocab and less have together less than the mass that the
        # largest top_p below 1 leaves away, 2⁻²⁴ of a sum that is 1 or more.
        self._reach = (_MARGIN_BITS + math.log2(max(vocab, 1))) * math.log(2)
        by_chunk = {"CHUNKS": chunks, "CHUNK": parameters.chunk, "num_warps": parameters.warps}
        of_row = {**by_chunk, "CHUNKS_POWER": power}
        search = {**of_row, "BINS": parameters.bins}
        self._for_extremes: dict[str, Any] = by_chunk
        self._for_greedy: dict[str, Any] = {"CHUNKS": chunks, "CHUNKS_POWER": power}
        self._for_row: dict[str, Any] = of_row
        self._for_search: dict[str, Any] = search
        self._for_narrow: dict[str, Any] = {
            **search,
            "WIDTH": max(parameters.tile // power, 1),
            "num_warps": parameters.narrow_warps,
        }

    def __call__(self, logits: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
        """Draw a token a row, int64 [rows]."""
        rows, device = logits.shape[0], logits.device
        tokens = torch.empty(rows, dtype=torch.int64, device=device)
        if not rows:
            return tokens
        options = self._launcher.options(device)
        largest, smallest = torch.empty((2, rows, self._chunks), device=device)
        largest_id = torch.empty((rows, self._chunks), dtype=torch.int32, device=device)
        self._launcher.run(
            extremes_kernel,
            (rows, self._chunks),
            logits,
            logits.stride(0),
            self._vocab,
            largest,
            largest_id,
            smallest,
            **self._for_extremes,
            **options,
        )
        if batch.all_greedy:
            self._launcher.run(
                greedy_kernel,
                (rows,),
                largest,
                largest_id,
                tokens,
                **self._for_greedy,
                num_warps=1,
                **options,
            )
            return tokens
        least = torch.empty((2, rows), device=device)
        self._select(logits, batch, largest, smallest, least, options)
        self._draw(logits, batch, largest, largest_id, least, tokens, options)
        return tokens

    def _select(
        self,
        logits: torch.Tensor,
        batch: SampleBatch,
        largest: torch.Tensor,
        smallest: torch.Tensor,
        least: torch.Tensor,
        options: Any,
    ) -> None:
        """Write the smallest logit that top_k keeps of each row, and top_p of what it keeps.

        ``least`` is float32 [2, rows].
        """
        rows, device = logits.shape[0], logits.device
        grid = (rows, self._chunks)
        levels = torch.empty((rows, self._bins), device=device)
        candidates = torch.empty((rows, self._padded), device=device)
        counts = torch.empty(grid, dtype=torch.int32, device=device)
        masses = torch.empty((*grid, 2 * self._bins), dtype=torch.float64, device=device)
        whole_row = (logits, logits.stride(0), self._vocab)
        limits = (batch.temperature, batch.top_k, batch.top_p)
        for by_count, mass in ((True, masses.view(torch.int32)), (False, masses)):
            self._launcher.run(
                measure_kernel,
                grid,
                *whole_row,
                *limits,
                largest,
                smallest,
                least[0],
                levels,
                mass,
                self._reach,
                BY_COUNT=by_count,
                **self._for_search,
                **options,
            )
            self._launcher.run(
                gather_kernel,
                grid,
                *whole_row,
                *limits,
                levels,
                mass,
                candidates,
                counts,
                BY_COUNT=by_count,
                **self._for_search,
                **options,
            )
            self._launcher.run(
                narrow_kernel,
                (rows,),
                self._vocab,
                *limits,
                largest,
                least[0],
                mass,
                candidates,
                counts,
                least[0 if by_count else 1],
                BY_COUNT=by_count,
                **self._for_narrow,
                **options,
            )

    def _draw(
        self,
        logits: torch.Tensor,
        batch: SampleBatch,
        largest: torch.Tensor,
        largest_id: torch.Tensor,
        least: torch.Tensor,
        tokens: torch.Tensor,
        options: Any,
    ) -> None:
        rows = logits.shape[0]
        sums = torch.empty((rows, self._chunks), dtype=torch.float64, device=logits.device)
        whole_row = (logits, logits.stride(0), self._vocab)
        self._launcher.run(
            weigh_kernel,
            (rows, self._chunks),
            *whole_row,
            batch.temperature,
            batch.min_p,
            largest,
            least[0],
            least[1],
            sums,
            **self._for_row,
            **options,
        )
        self._launcher.run(
            draw_kernel,
            (rows,),
            *whole_row,
            batch.temperature,
            batch.min_p,
            batch.seed,
            batch.position,
            largest,
            largest_id,
            least[0],
            least[1],
            sums,
            tokens,
            **self._for_row,
            **options,
        )

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernels; see ``plait_kernels.warm_up``."""
        recorder = Recorder(facts.device)
        sample = Sample(self._parameters, recorder)
        logits = without_memory(1, self._vocab, dtype=torch.float32)
        value, word = (without_memory(1, dtype=dtype) for dtype in (torch.float32, torch.int64))
        for all_greedy in (True, False):
            batch = SampleBatch(
                temperature=value,
                top_k=word.int(),
                top_p=value,
                min_p=value,
                seed=word,
                position=word,
                all_greedy=all_greedy,
            )
            sample(logits, batch)
        return recorder.variants


def make(config: OpConfig) -> Sample:
    """Make the implementation for one config."""
    return Sample(SampleParameters.of(config))
