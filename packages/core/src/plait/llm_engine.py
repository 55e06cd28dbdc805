"""LLMEngine: requests in, one step at a time, outputs out."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any, NoReturn

from plait.build import build_core
from plait.collector import made_and_frozen
from plait.engine_args import EngineArgs, check_engine_args
from plait.engine_config import engine_config
from plait.generation_config import eos_token_ids, load_generation_config
from plait.hub import local_args
from plait.messages import CoreRequest
from plait.metrics import Counter, Gauge, snapshot
from plait.not_served import NotServed
from plait.output_processor import OutputProcessor
from plait.prompts import ParsedPrompt, parse_prompt, validate_token_ids
from plait.tokenizer import load_tokenizer
from plait_kernels.errors import InputError
from plait_lora.request import LoRARequest
from plait_models.reading import find_files
from plait_sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plait.engine_config import EngineConfig, ModelConfig
    from plait.engine_core import EngineCore
    from plait.metrics import Metric
    from plait.outputs import RequestOutput
    from plait.prompts import Prompt
    from plait.tokenizer import Tokenizer

_logger = logging.getLogger(__name__)


class LLMEngine(NotServed):
    """The synchronous engine.

    Made by ``from_engine_args``; ``add_request`` queues, ``step`` advances everything that is
    queued by one step and returns the outputs that changed.

    Parameters
    ----------
    core : EngineCore
    tokenizer : Tokenizer | None
        None: prompts are token ids, and outputs have no text.
    generation_config : Mapping[str, Any]
        The model's defaults for sampling, and its end-of-sequence tokens.
    seed : int
        Of the seeds that requests without one get.
    max_logprobs : int
        Most logprobs that a request may ask for a token; -1 = the whole vocabulary.

    Examples
    --------
    ::

        engine = LLMEngine.from_engine_args(EngineArgs(model, enable_lora=True))
        engine.add_request("0", "Hello", SamplingParams(), lora_request=None)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    print(output.outputs[0].text)
    """

    engine_args: EngineArgs | None = None

    def __init__(
        self,
        core: EngineCore,
        tokenizer: Tokenizer | None,
        generation_config: Mapping[str, Any],
        *,
        seed: int = 0,
        max_logprobs: int = -1,
    ) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self.generation_config = generation_config
        self.eos_token_ids = eos_token_ids(tokenizer, generation_config)
        self.output_processor = OutputProcessor(tokenizer)
        self.max_logprobs = max_logprobs
        self._random = random.Random(seed)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        usage_context: object = None,
        stat_loggers: Sequence[object] | None = None,
        enable_multiprocessing: bool = False,
    ) -> LLMEngine:
        """Load the model and make an engine.

        Parameters
        ----------
        engine_args : EngineArgs
        usage_context
            vLLM's; without effect.
        stat_loggers : Sequence | None
            vLLM's; refused if there is one, as nothing would call it.
        enable_multiprocessing : bool
            vLLM's; without effect: the engine runs in this process.

        Raises
        ------
        InputError
            If ``engine_args`` are no ``EngineArgs``, or there are loggers.
        ModelError
            If the model cannot be found, downloaded or loaded.
        OutOfMemoryError
            If a sequence of max_model_len does not fit.
        KernelError
            If the kernels asked for cannot be used.
        """
        check_engine_args(engine_args, stat_loggers)
        args = local_args(engine_args)
        # A model that is missing is no matter of its tokenizer, which is loaded first.
        find_files(args.model, args.load_format)
        tokenizer = None
        if not args.skip_tokenizer_init:
            tokenizer = load_tokenizer(
                args.tokenizer or args.model, trust_remote_code=args.trust_remote_code
            )
        generation_config = load_generation_config(
            args.model, args.generation_config, args.override_generation_config
        )
        core = made_and_frozen(lambda: build_core(args))
        engine = cls(
            core, tokenizer, generation_config, seed=args.seed, max_logprobs=args.max_logprobs
        )
        engine.engine_args = engine_args
        return engine

    def add_request(
        self,
        request_id: str,
        prompt: Prompt | ParsedPrompt,
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> None:
        """Queue a request.

        Parameters
        ----------
        request_id : str
            Unique among unfinished requests.
        prompt : str | list[int] | TextPrompt | TokensPrompt | ParsedPrompt
        params : SamplingParams
        arrival_time : float | None
            Seconds since the epoch; default: now.
        lora_request : LoRARequest | None
            The adapter to run; None = the base model. Its files are read when the request's turn
            comes; if they cannot be honoured, the request ends with ``finish_reason="error"`` and
            ``error`` set, and nobody else is disturbed.
        priority : int
            Smaller is served earlier.

        Raises
        ------
        InputError
            For a bad prompt or parameter, an id in use, or an adapter where LoRA is not enabled.
            Nothing is queued then.
        """
        self._check_types(params, lora_request)
        if lora_request is not None:
            self.core.library()
        parsed = prompt if isinstance(prompt, ParsedPrompt) else parse_prompt(prompt)
        token_ids = self._token_ids(parsed)
        info = self.core.info
        validate_token_ids(token_ids, info.vocab_size, info.max_model_len)
        params.validate_tokens(info.vocab_size, self.eos_token_ids, self.max_logprobs)
        arrival_time = time.time() if arrival_time is None else arrival_time
        seed = self._random.getrandbits(62) if params.seed is None else params.seed
        children = [request_id] if params.n == 1 else [f"{i}_{request_id}" for i in range(params.n)]
        self.output_processor.add(
            request_id, children, parsed.text, token_ids, params, lora_request, arrival_time
        )
        for i, child in enumerate(children):
            message = CoreRequest(
                request_id=child,
                prompt_token_ids=tuple(token_ids),
                params=params,
                seed=seed + i,
                eos_token_ids=self.eos_token_ids,
                arrival_time=arrival_time,
                lora=lora_request,
                priority=priority,
                cache_salt=parsed.cache_salt,
            )
            self.core.add(message)

    def step(self) -> list[RequestOutput]:
        """Advance every request by one step.

        Returns
        -------
        list[RequestOutput]
            Of the requests that have something new, as their ``output_kind`` says.
        """
        processed = self.output_processor.process(self.core.step())
        self.core.abort(processed.aborts)
        return processed.request_outputs

    def has_unfinished_requests(self) -> bool:
        """Return whether any request is unfinished."""
        return self.output_processor.has_unfinished()

    def abort_request(self, request_ids: str | Iterable[str]) -> None:
        """End requests; ids that are not there are left alone."""
        for request_id in [request_ids] if isinstance(request_ids, str) else list(request_ids):
            self.core.abort(self.output_processor.abort(request_id))

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer.

        Raises
        ------
        InputError
            If the engine was made with ``skip_tokenizer_init=True``.
        """
        if self.tokenizer is None:
            text = "the engine has no tokenizer: it was made with skip_tokenizer_init=True"
            raise InputError(text)
        return self.tokenizer

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget every cached prefix.

        Parameters
        ----------
        reset_running_requests : bool
            Running requests, too, give up what they have computed, and start over.
        reset_connector : bool
            Without effect: no cache is outside the engine.

        Returns
        -------
        bool
            True: it always succeeds.
        """
        self.core.reset_prefix_cache(reset_running_requests)
        return True

    def add_lora(self, lora_request: LoRARequest) -> bool:
        """Read an adapter before its first request.

        Raises
        ------
        AdapterError
            If it cannot be honoured exactly.
        """
        return self.core.library().add(lora_request)

    def begin_add_lora(self, lora_request: LoRARequest) -> bool:
        """Do as ``add_lora`` while a thread reads the files, so that steps can go on.

        Returns
        -------
        bool
            Whether it is done; until then, call it again.

        Raises
        ------
        AdapterError
            If it cannot be honoured exactly.
        """
        return self.core.library().begin_add(lora_request)

    def cancel_add_lora(self, lora_request: LoRARequest) -> None:
        """Give up what ``begin_add_lora`` began."""
        self.core.library().cancel_add(lora_request)

    def remove_lora(self, lora_id: int) -> bool:
        """Forget an adapter's id; return whether it was known."""
        return self.core.library().remove(lora_id)

    def list_loras(self) -> set[int]:
        """Return the ids of the adapters that are known."""
        return self.core.library().ids()

    def pin_lora(self, lora_id: int) -> bool:
        """Keep an adapter in memory.

        Raises
        ------
        AdapterError
            If the id is not known.
        """
        return self.core.library().pin(lora_id)

    def get_num_unfinished_requests(self) -> int:
        """Return how many sequences are unfinished; a request with n > 1 is n of them."""
        return self.output_processor.num_unfinished()

    def get_metrics(self) -> list[Metric]:
        """Return what the engine counts, as it is now.

        Returns
        -------
        list[Metric]
            Requests that run and wait, tokens, use of the KV cache, the prefix cache, preemptions.
        """
        return snapshot(self.core.scheduler, self.model_config.served_model_name)

    def do_log_stats(self) -> None:
        """Write the metrics to the log, in one line."""
        values = {m.name: m.value for m in self.get_metrics() if isinstance(m, Counter | Gauge)}
        _logger.info("%s", ", ".join(f"{name}={value:g}" for name, value in values.items()))

    def get_supported_tasks(self) -> tuple[str, ...]:
        """Return what the engine does: it generates."""
        return ("generate",)

    @property
    def vllm_config(self) -> EngineConfig:
        """What the engine was made with, under vLLM's names."""
        return engine_config(self.core, self.engine_args)

    @property
    def model_config(self) -> ModelConfig:
        """The model and its limits."""
        return self.vllm_config.model_config

    def reset_mm_cache(self) -> None:
        """Do nothing: there is no cache of pictures."""

    def reset_encoder_cache(self) -> None:
        """Do nothing: there is no encoder."""

    def is_sleeping(self) -> bool:
        """Return False: weights and KV cache are in place as long as the engine lives."""
        return False

    def sleep(self, level: int = 1, mode: str = "abort") -> NoReturn:
        """Refuse: nothing runs but in ``step``."""
        text = (
            "sleep of an LLMEngine is not served: it runs nothing unless step() is called, and "
            "weights and KV cache stay in memory as long as it lives"
        )
        raise InputError(text)

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Return True: the engine is awake."""
        return True

    def _check_types(self, params: SamplingParams, lora_request: LoRARequest | None) -> None:
        if not isinstance(params, SamplingParams):
            text = f"params must be SamplingParams, got {type(params).__name__}"
            raise InputError(text)
        if lora_request is not None and not isinstance(lora_request, LoRARequest):
            text = (
                "lora_request must be a LoRARequest or None, got "
                f"{type(lora_request).__name__}: write LoRARequest(name, id, path)"
            )
            raise InputError(text)

    def _token_ids(self, prompt: ParsedPrompt) -> list[int]:
        if prompt.token_ids is not None:
            return prompt.token_ids
        ids: list[int] = self.get_tokenizer()(prompt.text).input_ids
        return ids
