"""What the ``apply_penalties`` and ``sample`` ops take: one entry a row of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class PenaltyBatch:
    """Token history and penalties of the rows that get logits.

    Attributes
    ----------
    token_ids : Tensor, int32 [rows, max length]
        Prompt and output of each row; entries past ``length`` are unspecified.
    prompt_length, length : Tensor, int32 [rows]
        Tokens of the prompt; tokens of prompt and output.
    presence, frequency, repetition : Tensor, float32 [rows]
        0, 0 and 1 mean no penalty.
    """

    token_ids: torch.Tensor
    prompt_length: torch.Tensor
    length: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    repetition: torch.Tensor


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """How each row draws its token.

    Attributes
    ----------
    temperature : Tensor, float32 [rows]
        0 = greedy.
    top_k : Tensor, int32 [rows]
        0 = off.
    top_p, min_p : Tensor, float32 [rows]
        1 and 0 = off.
    seed : Tensor, int64 [rows]
    position : Tensor, int64 [rows]
        Position in the sequence of the token that is drawn.
    all_greedy : bool
        Whether every temperature is 0, known on the host.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor
    all_greedy: bool
