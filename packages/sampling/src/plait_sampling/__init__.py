"""Sampling: parameters, logits processing, the sampler and logprobs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait_sampling.logprobs import (
        LogprobsDownload,
        SampledLogprobs,
        gather_logprobs,
        prompt_logprobs,
    )
    from plait_sampling.params import RequestOutputKind, SamplingParams
    from plait_sampling.rows import SamplingRows
    from plait_sampling.sampler import Sampler, SamplerOutput, sampling_configs
    from plait_sampling.token_logprobs import TokenLogprobs

__version__ = "0.1.0"

__all__ = [
    "LogprobsDownload",
    "RequestOutputKind",
    "SampledLogprobs",
    "Sampler",
    "SamplerOutput",
    "SamplingParams",
    "SamplingRows",
    "TokenLogprobs",
    "gather_logprobs",
    "prompt_logprobs",
    "sampling_configs",
]

_HOME = {
    "LogprobsDownload": "logprobs",
    "RequestOutputKind": "params",
    "SampledLogprobs": "logprobs",
    "Sampler": "sampler",
    "SamplerOutput": "sampler",
    "SamplingParams": "params",
    "SamplingRows": "rows",
    "TokenLogprobs": "token_logprobs",
    "gather_logprobs": "logprobs",
    "prompt_logprobs": "logprobs",
    "sampling_configs": "sampler",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
