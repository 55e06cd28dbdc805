"""LLMEngine: requests in, one step at a time, outputs out."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from plait.build import build_core
from plait.collector import made_and_frozen
from plait.engine_args import EngineArgs, check_engine_args
from plait.engine_config import engine_config
from plait.generation_config import eos_token_ids, load_generation_config
from plait.hub import local_args
from plait.messages import CoreRequest
from plait.metrics import Counter, Gauge, snapshot
from plait.new_request import RequestMaker, check_handle, id_list, whole
from plait.not_served import NotServed, refuse_other_keywords
from plait.output_processor import OutputProcessor
from plait.prompts import ParsedPrompt, parse_prompt
from plait.text_encoder import TextEncoder
from plait.tokenization import Tokenization
from plait.tokenizer import load_tokenizer
from plait.transaction import Transaction
from plait_kernels.errors import InputError
from plait_lora.request import LoRARequest
from plait_models.reading import find_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plait.engine_config import EngineConfig, ServedModel
    from plait.engine_core import EngineCore
    from plait.metrics import Metric
    from plait.new_request import NewRequest
    from plait.outputs import RequestOutput
    from plait.prompts import Prompt
    from plait.tokenizer import Tokenizer
    from plait_sampling.params import SamplingParams

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
        self.torn = False
        self._encoder = tokenizer and TextEncoder(tokenizer, core.info.max_model_len)
        self._random = random.Random(seed)
        self._core_ids = itertools.count()
        self._lock = threading.RLock()

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
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: object = None,
        priority: int = 0,
        session_id: object = None,
        prompt_text: str | None = None,
        kv_hints: object = None,
    ) -> None:
        """Queue a request. The arguments stand in vLLM's order.

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
        tokenization_kwargs : Mapping[str, Any] | None
            As of ``LLM.generate``.
        priority : int
            Smaller is served earlier.
        trace_headers, session_id, prompt_text, kv_hints
            vLLM's; refused if they ask for something.

        Raises
        ------
        InputError
            For a bad prompt or parameter, an id in use, or an adapter where LoRA is not enabled.
            Nothing is queued then.
        """
        refuse_other_keywords(
            trace_headers=trace_headers,
            session_id=session_id,
            prompt_text=prompt_text,
            kv_hints=kv_hints,
        )
        self.add_new(
            self.check_request(
                request_id,
                prompt,
                params,
                arrival_time,
                lora_request,
                priority,
                tokenization_kwargs,
            )
        )

    def check_request(
        self,
        request_id: str,
        prompt: Prompt | ParsedPrompt,
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> NewRequest:
        """Do what ``add_request`` does before it queues; for any thread, beside steps.

        Parameters and errors are those of ``add_request``.
        """
        if isinstance(lora_request, LoRARequest):
            self.core.library()
        if tokenization_kwargs:
            tokenization = Tokenization.from_keywords(tokenization_kwargs)
            parsed = prompt if isinstance(prompt, ParsedPrompt) else parse_prompt(prompt)
            prompt = tokenization.apply(parsed, self.tokenizer, self.core.info.max_model_len)
        maker = RequestMaker(self._encoder, self.core.info, self.eos_token_ids, self.max_logprobs)
        return maker.make(request_id, prompt, params, arrival_time, lora_request, priority)

    def add_new(self, new: NewRequest) -> None:
        """Queue a request that ``check_request`` made: all of it, or nothing after an error."""
        with self._lock, Transaction(self):
            params = new.params
            children = [str(next(self._core_ids)) for _ in range(params.n)]
            request = self.output_processor.make(
                new.request_id,
                children,
                new.text,
                new.token_ids,
                params,
                new.lora_request,
                new.arrival_time,
            )
            seed = self._random.getrandbits(62) if params.seed is None else params.seed
            token_ids = tuple(new.token_ids)  # all completions share it
            for i, child in enumerate(children):
                message = CoreRequest(
                    request_id=child,
                    prompt_token_ids=token_ids,
                    params=params,
                    seed=seed + i,
                    eos_token_ids=self.eos_token_ids,
                    arrival_time=new.arrival_time,
                    lora=new.lora_request,
                    priority=new.priority,
                    cache_salt=new.cache_salt,
                )
                self.core.add(message)
            # Last, and in one go: what the front does not expect, nobody has asked for.
            self.output_processor.add(request)

    def step(self) -> list[RequestOutput]:
        """Advance every request by one step.

        A step that is interrupted loses nothing: what it had begun is done again, and outputs
        that it could not return come with the next one.

        Returns
        -------
        list[RequestOutput]
            Of the requests that have something new, as their ``output_kind`` says.
        """
        with self._lock, Transaction(self):
            outputs = self.core.step()
            self.core.abort(self.output_processor.process(outputs))
            self.core.acknowledge(len(outputs))
            self.output_processor.let_out()
        return self.output_processor.take()

    def has_unfinished_requests(self) -> bool:
        """Return whether any request is unfinished."""
        return self.output_processor.has_unfinished()

    def get_num_unfinished_requests(self) -> int:
        """Return how many requests are unfinished."""
        return self.output_processor.num_unfinished()

    def abort_request(
        self, request_ids: str | Iterable[str], internal: bool = False
    ) -> list[RequestOutput]:
        """End requests and give back at once what they hold; other ids are left alone.

        Parameters
        ----------
        request_ids : str | Iterable[str]
            As given to ``add_request``.
        internal : bool
            vLLM's, for ids of its own; refused if true.

        Returns
        -------
        list[RequestOutput]
            The last output of each that was there, with finish_reason "abort" and what it has so
            far; no step gives another.
        """
        refuse_other_keywords(internal=internal)
        outputs = []
        for request_id in id_list(request_ids):
            with self._lock, Transaction(self):
                running, output = self.output_processor.abort(request_id)
                self.core.abort(running)
                if output is not None:
                    outputs.append(output)
        return outputs

    def mend(self) -> None:
        """Make the books whole after a call that broke off; every call does so by itself.

        The front's list of requests is the truth: the core forgets all others.
        """
        self.core.mend()
        self.output_processor.mend()
        self.core.keep_only(self.output_processor.expected())

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
            Compute running requests again as well.
        reset_connector : bool
            Without effect: there is no cache beside this one.

        Returns
        -------
        bool
            True: it always can.
        """
        with self._lock, Transaction(self):
            self.core.reset_prefix_cache(reset_running_requests=reset_running_requests)
        return True

    def add_lora(self, lora_request: LoRARequest) -> bool:
        """Read an adapter before its first request.

        Raises
        ------
        AdapterError
            If it cannot be honoured exactly.
        """
        check_handle(lora_request)
        with self._lock, Transaction(self):
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
        check_handle(lora_request)
        with self._lock, Transaction(self):
            return self.core.library().begin_add(lora_request)

    def cancel_add_lora(self, lora_request: LoRARequest) -> None:
        """Give up what ``begin_add_lora`` began."""
        check_handle(lora_request)
        with self._lock, Transaction(self):
            self.core.library().cancel_add(lora_request)

    def remove_lora(self, lora_id: int) -> bool:
        """Forget an adapter's id; return whether it was known."""
        with self._lock, Transaction(self):
            return self.core.library().remove(whole("lora_id", lora_id))

    def list_loras(self) -> set[int]:
        """Return the ids of the adapters that are known."""
        with self._lock, Transaction(self):
            return self.core.library().ids()

    def pin_lora(self, lora_id: int) -> bool:
        """Keep an adapter in memory.

        Raises
        ------
        AdapterError
            If the id is not known.
        """
        with self._lock, Transaction(self):
            return self.core.library().pin(whole("lora_id", lora_id))

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
    def model_config(self) -> ServedModel:
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
