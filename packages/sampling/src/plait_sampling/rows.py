"""SamplingRows: the sampling parameters of the running requests, one row each, on the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.sampling_types import PenaltyBatch, SampleBatch
from plait_kernels.transfer import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from plait_sampling.params import SamplingParams

_FLOATS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
_INTS = ("top_k", "seed")
_PENALTIES = slice(3, 6)

_ALL_TOKENS = 2**31 - 1
"""No vocabulary and no output is larger."""


def _no_ids() -> npt.NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _no_bias() -> npt.NDArray[np.float32]:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class RowExtras:
    """What few rows have, kept on the host and applied to those rows only.

    Attributes
    ----------
    greedy, penalised : bool
    logprobs : int | None
        How many to return; -1 = the whole vocabulary.
    min_tokens : int
        Output tokens before any of ``ending`` may be drawn.
    ending : ndarray, int64 [tokens]
        End-of-sequence and stop tokens; empty without ``min_tokens``.
    biased : ndarray, int64 [tokens]
        Tokens with a bias.
    bias : ndarray, float32 [tokens]
        Of each of them.
    allowed : ndarray, int64 [tokens], or None
        The only tokens to draw; None = all.
    """

    greedy: bool = True
    penalised: bool = False
    logprobs: int | None = None
    min_tokens: int = 0
    ending: npt.NDArray[np.int64] = field(default_factory=_no_ids)
    biased: npt.NDArray[np.int64] = field(default_factory=_no_ids)
    bias: npt.NDArray[np.float32] = field(default_factory=_no_bias)
    allowed: npt.NDArray[np.int64] | None = None


class SamplingRows:
    """Sampling parameters of up to ``max_rows`` requests.

    Values are written to the host and reach the device together, before the next gather: a new
    row costs one small copy, not one a parameter.

    Parameters
    ----------
    max_rows : int
        Rows, numbered from 0.
    device : torch.device | str
    """

    def __init__(self, max_rows: int, device: torch.device | str = "cpu") -> None:
        self._host_floats = np.zeros((len(_FLOATS), max_rows), np.float32)
        self._host_ints = np.zeros((len(_INTS), max_rows), np.int64)
        self._floats = torch.zeros(self._host_floats.shape, device=device)
        self._ints = torch.zeros(self._host_ints.shape, dtype=torch.int64, device=device)
        self._extras = [RowExtras()] * max_rows
        self._changed: set[int] = set()

    def set(
        self, row: int, params: SamplingParams, seed: int, eos_token_ids: Sequence[int] = ()
    ) -> None:
        """Give a row to a request.

        Parameters
        ----------
        row : int
        params : SamplingParams
        seed : int
            Of this row's draws; taken modulo 2^64.
        eos_token_ids : Sequence[int]
            The model's end-of-sequence tokens: ``min_tokens`` holds them back.
        """
        floats = (
            params.temperature,
            params.top_p,
            params.min_p,
            params.presence_penalty,
            params.frequency_penalty,
            params.repetition_penalty,
        )
        self._host_floats[:, row] = floats
        signed_seed = (seed + 2**63) % 2**64 - 2**63
        self._host_ints[:, row] = min(params.top_k, _ALL_TOKENS), signed_seed
        held_back = params.stop_tokens.union(eos_token_ids) if params.min_tokens else ()
        bias, allowed = params.logit_bias or {}, params.allowed_token_ids
        self._extras[row] = RowExtras(
            greedy=params.greedy,
            penalised=(
                params.presence_penalty != 0.0
                or params.frequency_penalty != 0.0
                or params.repetition_penalty != 1.0
            ),
            logprobs=params.logprobs,
            min_tokens=min(params.min_tokens, _ALL_TOKENS),
            # Arrays, as a step reads them again and again, and they may hold a whole vocabulary.
            ending=np.array(sorted(held_back), np.int64),
            biased=np.array(list(bias), np.int64),
            bias=np.array(list(bias.values()), np.float32),
            allowed=None if allowed is None else np.array(allowed, np.int64),
        )
        self._changed.add(row)

    def extras(self, rows: npt.NDArray[np.integer]) -> list[RowExtras]:
        """Return the host side of ``rows``."""
        return [self._extras[row] for row in rows.tolist()]

    def gather(
        self, rows: npt.NDArray[np.integer], index: torch.Tensor, position: torch.Tensor
    ) -> SampleBatch:
        """Collect what the ``sample`` op takes.

        Parameters
        ----------
        rows : ndarray, integer [n]
            The rows, on the host.
        index : Tensor, int64 [n]
            The same on the device.
        position : Tensor, int64 [n]
            Position in its sequence of the token that each row draws.
        """
        self._flush()
        temperature, top_p, min_p = self._floats[:3].index_select(1, index)
        top_k, seed = self._ints.index_select(1, index)
        return SampleBatch(
            temperature=temperature,
            top_k=top_k.to(torch.int32),
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            position=position,
            all_greedy=all(extras.greedy for extras in self.extras(rows)),
        )

    def gather_penalties(
        self,
        index: torch.Tensor,
        token_ids: torch.Tensor,
        prompt_length: torch.Tensor,
        length: torch.Tensor,
    ) -> PenaltyBatch:
        """Collect what the ``apply_penalties`` op takes.

        Parameters
        ----------
        index : Tensor, int64 [n]
            The rows, on the device.
        token_ids : Tensor, int32 [n, max length]
            Their token histories.
        prompt_length, length : Tensor, int32 [n]
        """
        self._flush()
        presence, frequency, repetition = self._floats[_PENALTIES].index_select(1, index)
        return PenaltyBatch(token_ids, prompt_length, length, presence, frequency, repetition)

    def _flush(self) -> None:
        if not self._changed:
            return
        rows, device = np.array(sorted(self._changed)), self._floats.device
        device_rows = upload(rows, device)
        self._floats[:, device_rows] = upload(self._host_floats[:, rows], device)
        self._ints[:, device_rows] = upload(self._host_ints[:, rows], device)
        self._changed.clear()
