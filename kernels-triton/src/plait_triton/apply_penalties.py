"""``apply_penalties``: work for the tokens of the histories only, none for the vocabulary.

A scratch word of each (row, id) that occurs in a history says what the history holds of it. Three
launches go over the histories: the words are set to 0; every token is noted in its word (bit 0: it
was seen; the bits above: how often in the output); every token takes its word, leaving 0, and who
takes a word that is not 0 changes the logit. Which of several equal tokens that is does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from plait_kernels.sampling_types import PenaltyBatch
from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.launching import LAUNCHER, Launcher, Recorder, without_memory
from plait_triton.sizes import ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

_BLOCK = 512
"""Tokens of a history to a program."""

_without_variants = triton.jit(
    do_not_specialize=["stride"],
    do_not_specialize_on_alignment=[
        *("token_ids", "prompt_length", "length"),
        *("presence", "frequency", "repetition"),
    ],
)
"""Histories are as long as the longest, and the other numbers begin anywhere in one tensor."""


@triton.jit
def _load_tokens(token_ids, stride, start, length, BLOCK: tl.constexpr):
    """Return the places of a program's tokens, which of them exist, and their ids."""
    place = start + tl.arange(0, BLOCK)
    meant = place < length
    row = tl.program_id(0).to(tl.int64)
    return place, meant, tl.load(token_ids + row * stride + place, mask=meant, other=0)


@triton.jit
def _has_penalty(presence, frequency, repetition):
    """Say whether the program's row has one."""
    row = tl.program_id(0)
    said = (tl.load(presence + row) != 0.0) | (tl.load(frequency + row) != 0.0)
    return said | (tl.load(repetition + row) != 1.0)


@_without_variants
def _clear_kernel(
    token_ids,
    length,
    presence,
    frequency,
    repetition,
    words,
    stride,
    vocab,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    wait_for_inputs(PDL)
    let_next_start(PDL)
    tokens = tl.load(length + row)
    if (start < tokens) & _has_penalty(presence, frequency, repetition):
        _, meant, ids = _load_tokens(token_ids, stride, start, tokens, BLOCK)
        tl.store(words + row * vocab + ids, tl.zeros([BLOCK], tl.int32), mask=meant)


@_without_variants
def _note_kernel(
    token_ids,
    prompt_length,
    length,
    presence,
    frequency,
    repetition,
    words,
    stride,
    vocab,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    wait_for_inputs(PDL)
    let_next_start(PDL)
    tokens = tl.load(length + row)
    if (start < tokens) & _has_penalty(presence, frequency, repetition):
        place, meant, ids = _load_tokens(token_ids, stride, start, tokens, BLOCK)
        word = words + row * vocab + ids
        said = meant & (place >= tl.load(prompt_length + row))
        tl.atomic_or(word, tl.full([BLOCK], 1, tl.int32), mask=meant, sem="relaxed")
        tl.atomic_add(word, tl.full([BLOCK], 2, tl.int32), mask=said, sem="relaxed")


@_without_variants
def _apply_kernel(
    token_ids,
    length,
    presence,
    frequency,
    repetition,
    words,
    logits,
    stride,
    logits_stride,
    vocab,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * BLOCK
    wait_for_inputs(PDL)
    let_next_start(PDL)
    tokens = tl.load(length + row)
    if (start < tokens) & _has_penalty(presence, frequency, repetition):
        _, meant, ids = _load_tokens(token_ids, stride, start, tokens, BLOCK)
        nothing = tl.zeros([BLOCK], tl.int32)
        word = tl.atomic_xchg(words + row * vocab + ids, nothing, mask=meant, sem="relaxed")
        mine = meant & (word != 0)
        logit = tl.load(logits + row * logits_stride + ids, mask=mine, other=0.0)
        times = tl.load(repetition + row)
        logit = tl.where(logit > 0.0, tl.div_rn(logit, times), logit * times)
        count = word >> 1
        said = logit - tl.load(frequency + row) * count.to(tl.float32) - tl.load(presence + row)
        logit = tl.where(count > 0, said, logit)
        tl.store(logits + row * logits_stride + ids, logit, mask=mine)


class ApplyPenalties:
    """See ``plait_kernels.ops.apply_penalties`` for the contract."""

    def __init__(self, config: OpConfig, launcher: Launcher = LAUNCHER) -> None:
        self._config = config
        self._launcher = launcher

    def __call__(self, logits: torch.Tensor, batch: PenaltyBatch) -> None:
        """Apply the penalties to ``logits`` [rows, vocab], in place."""
        token_ids, length = batch.token_ids, batch.length
        rows, vocab = logits.shape
        grid = (rows, ceil_div(token_ids.shape[1], _BLOCK))
        if not rows or not grid[1]:
            return
        words = torch.empty((rows, vocab), dtype=torch.int32, device=logits.device)
        options: dict[str, Any] = {"BLOCK": _BLOCK, **self._launcher.options(logits.device)}
        penalties = (batch.presence, batch.frequency, batch.repetition)
        stride = token_ids.stride(0)
        run = self._launcher.run
        run(_clear_kernel, grid, token_ids, length, *penalties, words, stride, vocab, **options)
        run(
            _note_kernel, grid, token_ids, batch.prompt_length, length, *penalties, words, stride,
            vocab, **options,
        )  # fmt: skip
        run(
            _apply_kernel,
            grid,
            token_ids,
            length,
            *penalties,
            words,
            logits,
            stride,
            logits.stride(0),
            vocab,
            **options,
        )

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernels; see ``plait_kernels.warm_up``."""
        recorder = Recorder(facts.device)
        vocab = int(self._config.get("vocab") or 0)
        history = without_memory(1, 1, dtype=torch.int32)
        length, values = history[:, 0], without_memory(1, dtype=torch.float32)
        batch = PenaltyBatch(history, length, length, values, values, values)
        logits = without_memory(1, vocab, dtype=torch.float32)
        ApplyPenalties(self._config, recorder)(logits, batch)
        return recorder.variants


def make(config: OpConfig) -> ApplyPenalties:
    """Make the implementation; it takes any config."""
    return ApplyPenalties(config)
