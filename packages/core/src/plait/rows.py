"""Rows: the device state of running requests, which a step reads and writes in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from plait.messages import ErrorInfo
from plait_kernels.errors import InputError
from plait_kernels.transfer import upload
from plait_sampling.params import SamplingParams
from plait_sampling.rows import SamplingRows

if TYPE_CHECKING:
    from plait.plan import Int32, NewRow, StepPlan


class PromptLogprobs(NamedTuple):
    """What a row wants to know of its prompt.

    Attributes
    ----------
    k : int
        How many logprobs of each position.
    prompt_length : int
    """

    k: int
    prompt_length: int


class Rows:
    """Token history, block table, sampling parameters and slot of every running request.

    Parameters
    ----------
    max_num_seqs : int
        Rows.
    max_model_len : int
        Longest sequence.
    block_size : int
        Tokens of a KV block.
    device : torch.device

    Attributes
    ----------
    tokens : Tensor, int32 [rows, max_model_len]
        Prompt and output of each row; a sampled token is written here and never leaves the device
        before the step's result is read.
    block_table : Tensor, int32 [rows, blocks of max_model_len]
    prompt_length : Tensor, int32 [rows]
    sampling : SamplingRows
    slot : ndarray, int32 [rows]
        Slot of each row's mix, on the host.
    prompt_logprobs : list[PromptLogprobs | None]
        None: the row does not ask for them.
    """

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
        device: torch.device,
    ) -> None:
        self.device = device
        self.block_size = block_size
        blocks = -(-max_model_len // block_size)
        self.tokens = torch.zeros((max_num_seqs, max_model_len), dtype=torch.int32, device=device)
        self.block_table = torch.zeros((max_num_seqs, blocks), dtype=torch.int32, device=device)
        self.prompt_length = torch.zeros(max_num_seqs, dtype=torch.int32, device=device)
        self.sampling = SamplingRows(max_num_seqs, device)
        self.slot = np.full(max_num_seqs, -1, np.int32)
        self.prompt_logprobs: list[PromptLogprobs | None] = [None] * max_num_seqs

    def apply(self, plan: StepPlan) -> dict[int, ErrorInfo]:
        """Fill the plan's new rows and append its new blocks to the block tables.

        Returns
        -------
        dict[int, ErrorInfo]
            By place in the plan: rows whose parameters cannot be honoured, and why. They run
            greedily, so that the others go on.
        """
        faults = self._fill(plan.new_rows) if plan.new_rows else {}
        if len(plan.new_blocks):
            owner = np.repeat(plan.row, plan.num_new_blocks)
            first = np.cumsum(plan.num_new_blocks) - plan.num_new_blocks
            place = np.arange(len(owner)) + np.repeat(
                plan.num_old_blocks - first, plan.num_new_blocks
            )
            blocks = self.upload(plan.new_blocks)
            self.block_table[self.upload(owner), self.upload(place)] = blocks
        return {plan.row.tolist().index(row): why for row, why in faults.items()}

    def append(self, row: Int32, length: Int32, token_ids: torch.Tensor) -> None:
        """Write each row's drawn token, int64 [n], behind its ``length`` tokens; −1 as 0."""
        # A sequence that is as long as it may be has no place for one more, and needs none.
        place = np.minimum(length, self.tokens.shape[1] - 1)
        self.tokens[self.upload(row), self.upload(place)] = token_ids.clamp_min(0).to(torch.int32)

    def kv_slots(self, row: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return where k and v of tokens lie: block · block_size + place, int64 [tokens].

        Parameters
        ----------
        row, position : Tensor, int64 [tokens]
        """
        block = self.block_table[row, position // self.block_size].long()
        return block * self.block_size + position % self.block_size

    def upload(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
        """Return ``array`` as a tensor on the device."""
        return upload(array, self.device)

    def _fill(self, new_rows: tuple[NewRow, ...]) -> dict[int, ErrorInfo]:
        faults = {}
        for new in new_rows:
            try:
                self.sampling.set(new.row, new.params, new.seed, new.eos_token_ids)
            except Exception as error:  # whatever its parameters do to arrays of numbers
                self.sampling.set(new.row, SamplingParams(temperature=0), 0)
                faults[new.row] = ErrorInfo.of_fault(
                    error, "the sampling parameters cannot be honoured", InputError
                )
            self.slot[new.row] = new.slot
            k = new.prompt_logprobs
            self.prompt_logprobs[new.row] = (
                None if k is None else PromptLogprobs(k, new.prompt_length)
            )
        # All of them at once: on a GPU it is the number of copies that costs.
        row = np.array([new.row for new in new_rows], np.int64)
        length = np.array([len(new.token_ids) for new in new_rows], np.int64)
        place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        token_ids = np.concatenate([new.token_ids for new in new_rows])
        at = self.upload(np.repeat(row, length)), self.upload(place)
        self.tokens[at] = self.upload(token_ids)
        prompt_length = np.array([new.prompt_length for new in new_rows], np.int32)
        self.prompt_length[self.upload(row)] = self.upload(prompt_length)
        return faults
