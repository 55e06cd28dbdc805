"""Methods that vLLM's LLM and LLMEngine have and plait cannot serve: each says why."""

from __future__ import annotations

from typing import NoReturn

from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import InputError

_POOLING = "plait generates text; pooling, embedding, scoring and reward models are not served"
_WORKERS = "there are no workers to call: the engine runs in this process, on one device"
_WEIGHTS = "the weights of an engine are not replaced while it lives; make a new one"
_PROFILE = "profile with python -m plait.bench profile"
_OF_A_REQUEST = {
    "data_parallel_rank": "there is one engine, on one device",
    "internal": "requests have the ids that they were added with",
    "kv_hints": "the KV cache stays in its engine",
    "prompt_text": "give a prompt with both: {'prompt': …, 'prompt_token_ids': …}",
    "reasoning_ended": "reasoning is not told apart from text",
    "reasoning_parser_kwargs": "reasoning is not told apart from text",
    "session_id": "requests belong to no session",
    "trace_headers": "requests are not traced",
}
"""Keywords of vLLM's for a request, and why they are refused."""


def refuse_other_keywords(**given: object) -> None:
    """Refuse keywords of vLLM's for a request that ask for something.

    Raises
    ------
    InputError
        One does.
    """
    for name, value in given.items():
        if not asks_for_nothing(value):
            text = f"{name}={shown(value)} is not served: {_OF_A_REQUEST[name]}; leave it out"
            raise InputError(text)


class NotServed:
    """Refuses what cannot be done, by name and with the reason."""

    def collective_rpc(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: there are no workers."""
        _refuse("collective_rpc", _WORKERS)

    def apply_model(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the model is no torch module that could be called or changed."""
        text = "the model is no torch module: its parts are bound to kernels when it is loaded"
        _refuse("apply_model", text)

    def start_profile(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the engine has no profiler."""
        _refuse("start_profile", _PROFILE)

    def stop_profile(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the engine has no profiler."""
        _refuse("stop_profile", _PROFILE)

    def release_kv_cache_memory(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the KV cache is one allocation for the life of the engine."""
        text = "the KV cache is one allocation for the life of the engine; delete the engine"
        _refuse("release_kv_cache_memory", text)


class NotServedOffline(NotServed):
    """What only ``LLM`` has: other tasks than generation, and weights that change."""

    def encode(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("encode", _POOLING)

    def embed(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("embed", _POOLING)

    def classify(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("classify", _POOLING)

    def score(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("score", _POOLING)

    def reward(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("reward", _POOLING)

    def init_weight_transfer_engine(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: weights are not replaced."""
        _refuse("init_weight_transfer_engine", _WEIGHTS)

    def start_weight_update(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: weights are not replaced."""
        _refuse("start_weight_update", _WEIGHTS)

    def update_weights(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: weights are not replaced."""
        _refuse("update_weights", _WEIGHTS)

    def finish_weight_update(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: weights are not replaced."""
        _refuse("finish_weight_update", _WEIGHTS)


class NotServedAsync:
    """What ``AsyncLLM`` has, as coroutines."""

    async def collective_rpc(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: there are no workers."""
        _refuse("collective_rpc", _WORKERS)

    async def start_profile(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the engine has no profiler."""
        _refuse("start_profile", _PROFILE)

    async def stop_profile(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: the engine has no profiler."""
        _refuse("stop_profile", _PROFILE)

    def encode(self, *arguments: object, **keywords: object) -> NoReturn:
        """Refuse: pooling is not served."""
        _refuse("encode", _POOLING)


def _refuse(name: str, reason: str) -> NoReturn:
    text = f"{name} is not served: {reason}"
    raise InputError(text)
