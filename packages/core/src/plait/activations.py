"""How much memory a step takes beside weights and caches, found by running the largest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS
from plait_kernels.errors import OutOfMemoryError
from plait_kernels.transfer import upload
from plait_models.model import StepInputs

if TYPE_CHECKING:
    from plait_models.model import Model

_SAMPLING_COPIES = 4
"""Tensors as large as the logits that sampling has beside them."""


@torch.inference_mode()
def activation_bytes(model: Model, max_tokens: int, max_rows: int) -> int:
    """Run the largest step once and return the most bytes that it had allocated.

    Parameters
    ----------
    model : Model
        On a CUDA device.
    max_tokens, max_rows : int
        Of a step; every row gets logits.

    Returns
    -------
    int

    Raises
    ------
    OutOfMemoryError
        If the step does not fit beside what is on the device.
    """
    device = model.info.device
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        _run(model, max_tokens, max_rows)
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        text = (
            f"a step of {max_tokens} tokens and {max_rows} rows does not fit on the device: "
            f"{free:,} of its {total:,} bytes are free beside the weights "
            f"({model.info.weight_bytes:,} bytes) and what other programs hold; lower "
            "max_num_batched_tokens or max_num_seqs"
        )
        raise OutOfMemoryError(text) from error
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def _run(model: Model, max_tokens: int, max_rows: int) -> None:
    inputs = one_prompt(model, max_tokens)
    hidden = model.forward(inputs)
    logits = model.logits(hidden[:max_rows], None, frozenset(), inputs.bucket)
    del hidden
    # As much again each: rows with penalties, their scratch words, candidates of top-k and top-p,
    # raw logits kept for logprobs.
    _ = [torch.empty_like(logits) for _ in range(_SAMPLING_COPIES)]


def one_prompt(model: Model, tokens: int) -> StepInputs:
    """Describe a prompt of ``tokens`` tokens, all of whose KV lies in one block.

    What it computes is nonsense; what it takes is what a real prompt takes.
    """
    info = model.info
    blocks = -(-tokens // info.block_size)
    shape = (1, info.layers, 2, info.block_size, info.kv_heads, info.head_dim)
    zeros = torch.zeros(tokens, dtype=torch.int64, device=info.device)
    return StepInputs(
        token_ids=zeros,
        positions=zeros,
        slot_mapping=zeros - 1,
        kv=torch.zeros(shape, dtype=info.kv_dtype, device=info.device),
        attention=AttentionBatch(
            query_start=upload(np.array([0, tokens], np.int32), info.device),
            kv_length=upload(np.array([tokens], np.int32), info.device),
            block_table=torch.zeros((1, blocks), dtype=torch.int32, device=info.device),
            max_query=tokens,
            max_kv=tokens,
        ),
        lora=None,
        site_groups=frozenset(),
        bucket=BUCKETS.index("prefill"),
    )
