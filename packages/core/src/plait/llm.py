"""LLM: the offline interface. Prompts in, outputs out, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from plait.beam_search import Search, beam_search
from plait.chat import ChatTemplate, split_conversations
from plait.chat_template_file import read_chat_template
from plait.engine_args import EngineArgs, check_engine_args
from plait.llm_engine import LLMEngine
from plait.not_served import NotServedOffline
from plait.offline_requests import OfflineRequests, Wanted, one_each
from plait.outputs import RequestOutput
from plait.prompts import ParsedPrompt, parse_prompt, split_prompts
from plait.tokenization import Tokenization
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError, PlaitError
from plait_sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from plait.beam_search import BeamSearchOutput, BeamSearchParams
    from plait.chat import Conversation
    from plait.engine_config import ServedModel
    from plait.metrics import Metric
    from plait.prompts import Prompt
    from plait.tokenizer import Tokenizer
    from plait_lora.request import LoRARequest


class LLM(NotServedOffline):
    """A model, and the engine that serves it.

    Parameters
    ----------
    model : str
        Directory of a Hugging Face checkpoint, a ``.gguf`` file, or an id on the hub; see
        ``EngineArgs``.
    chat_template : str | PathLike[str] | None
        The template that ``chat`` uses: a file, or the template itself; default: the tokenizer's.
    **others
        All other keywords are those of ``EngineArgs``, which says what they mean; ``others`` are
        keywords of vLLM's that plait knows and does not act on.

    Attributes
    ----------
    llm_engine : LLMEngine

    Raises
    ------
    InputError
        For a bad keyword or value.
    ModelError
        If the model cannot be found, downloaded or loaded.
    OutOfMemoryError
        If a sequence of max_model_len does not fit.
    KernelError
        If the kernels asked for cannot be used.

    Examples
    --------
    ::

        llm = LLM(model="path/to/model", enable_lora=True)
        sql = LoRARequest("sql_adapter", 1, "path/to/adapter")
        outputs = llm.generate(["…"], SamplingParams(temperature=0), lora_request=sql)
        print(outputs[0].outputs[0].text)
    """

    supported_tasks = ("generate",)

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        hf_token: str | bool | None = None,
        download_dir: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        load_format: str = "auto",
        generation_config: str = "auto",
        override_generation_config: dict[str, Any] | None = None,
        seed: int = 0,
        max_model_len: int | str | None = None,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 2048,
        max_logprobs: int = -1,
        block_size: int = 16,
        enable_prefix_caching: bool = True,
        kv_cache_memory_bytes: int | None = None,
        kv_cache_dtype: str = "auto",
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        num_gpu_blocks_override: int | None = None,
        enable_lora: bool = False,
        max_loras: int | None = None,
        max_lora_rank: int | None = None,
        max_cpu_loras: int | None = None,
        lora_dtype: str = "auto",
        lora_memory_bytes: int | None = None,
        lora_target_modules: list[str] | None = None,
        kernels: str | dict[str, str] | None = None,
        chat_template: str | PathLike[str] | None = None,
        **others: Any,
    ) -> None:
        # EngineArgs has the same keywords, but for the template.
        given = dict(locals())
        left_out = ("self", "others", "chat_template")
        engine_args = EngineArgs(
            **{name: value for name, value in given.items() if name not in left_out}, **others
        )
        self._chat_template = read_chat_template(chat_template)
        self.llm_engine = LLMEngine.from_engine_args(engine_args)
        self._requests = OfflineRequests(self.llm_engine)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> Self:
        """Make an LLM from the arguments of an engine.

        Parameters
        ----------
        engine_args : EngineArgs

        Raises
        ------
        InputError
            If it is no ``EngineArgs``; all else as the class.
        """
        check_engine_args(engine_args)
        return cls(**vars(engine_args))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Generate from every prompt, all in one batch.

        Parameters
        ----------
        prompts : str | list[int] | dict | Sequence of these
            A text, token ids, ``{"prompt": …}`` or ``{"prompt_token_ids": …}``; with both, the
            tokens are what runs, and the text comes back in the output.
        sampling_params : SamplingParams | Sequence[SamplingParams] | None
            One for all or one a prompt; None = ``get_default_sampling_params()``.
        use_tqdm : bool | Callable
            Show a progress bar; a callable makes it in place of ``tqdm``.
        lora_request : LoRARequest | Sequence[LoRARequest | None] | None
            The adapter for all prompts, or one a prompt, in which None is the base model.
        priority : int | Sequence[int] | None
            One for all or one a prompt; smaller is served earlier.
        tokenization_kwargs : Mapping[str, Any] | None
            ``add_special_tokens``, ``truncate_prompt_tokens`` and ``truncation_side``, as of
            ``Tokenization``.
        mm_processor_kwargs : Mapping | None
            vLLM's, for pictures; nothing may be in it.

        Returns
        -------
        list[RequestOutput]
            In the order of the prompts. Their ids are "0", "1", … over the life of the LLM.

        Raises
        ------
        InputError
            If a list has not the length of the prompts, or the only request cannot be served.
        RequestsFailed
            If some of several requests cannot be served. The others are finished first; the
            exception has their outputs.
        """
        _refuse_media(mm_processor_kwargs)
        made = self._tokenized(split_prompts(prompts), tokenization_kwargs)
        wanted = self._wanted(made, sampling_params, lora_request, priority)
        return self._requests.run(wanted, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any] | Callable[..., Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations, all in one batch. The tokenizer's chat template makes the prompts.

        Parameters
        ----------
        messages : list[dict] | list[list[dict]]
            One conversation or several. A message is ``{"role": …, "content": …}``; the content is
            a text or a list of ``{"type": "text", "text": …}``.
        sampling_params, use_tqdm, lora_request, priority, mm_processor_kwargs
            As of ``generate``, for one or for each conversation.
        chat_template, add_generation_prompt, continue_final_message, tools, chat_template_kwargs
            As of ``ChatTemplate``.
        chat_template_content_format : str
            What the template sees of a content: "string", and "auto", a text, in which newlines
            join the parts of a list; "openai" a list of parts.
        tokenization_kwargs : Mapping[str, Any] | None
            As of ``generate``; no special tokens are added unless it says so, as the template
            writes them.

        Returns
        -------
        list[RequestOutput]
            In the order of the conversations; ``prompt`` is what the template wrote.

        Raises
        ------
        InputError
            If there is no chat template or no tokenizer, or the only conversation cannot be served.
        RequestsFailed
            As ``generate``.
        """
        _refuse_media(mm_processor_kwargs)
        made = self._rendered(
            messages,
            ChatTemplate(
                self.get_tokenizer(),
                self._chat_template if chat_template is None else chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
                content_format=chat_template_content_format,
            ),
            tokenization_kwargs,
        )
        wanted = self._wanted(made, sampling_params, lora_request, priority)
        return self._requests.run(wanted, use_tqdm)

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: int | Sequence[int] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Queue prompts for ``wait_for_completion``, all of them or none.

        Parameters
        ----------
        prompts, sampling_params, lora_request, priority, tokenization_kwargs, mm_processor_kwargs
            As of ``generate``.
        use_tqdm : bool | Callable
            Without effect: queueing takes no time worth a bar.

        Returns
        -------
        list[str]
            The requests' ids.

        Raises
        ------
        PlaitError
            If one of them cannot be queued; it is that one's error.
        """
        _refuse_media(mm_processor_kwargs)
        made = self._tokenized(split_prompts(prompts), tokenization_kwargs)
        return self._requests.enqueue(self._wanted(made, sampling_params, lora_request, priority))

    def enqueue_chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any] | Callable[..., Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Queue conversations for ``wait_for_completion``; as ``enqueue`` and ``chat``."""
        _refuse_media(mm_processor_kwargs)
        made = self._rendered(
            messages,
            ChatTemplate(
                self.get_tokenizer(),
                self._chat_template if chat_template is None else chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
                content_format=chat_template_content_format,
            ),
            tokenization_kwargs,
        )
        return self._requests.enqueue(self._wanted(made, sampling_params, lora_request, priority))

    def wait_for_completion(
        self,
        output_type: type[Any] | tuple[type[Any], ...] | None = None,
        *,
        use_tqdm: bool | Callable[..., Any] = True,
    ) -> list[RequestOutput]:
        """Finish what was enqueued.

        Parameters
        ----------
        output_type : type | tuple[type, ...] | None
            ``RequestOutput``, or a tuple with it; there are no other outputs.
        use_tqdm : bool | Callable
            As of ``generate``.

        Returns
        -------
        list[RequestOutput]
            Of all prompts that were enqueued since the last call, in order; not of those that
            somebody aborted by their ids, or took from ``llm_engine.step()``.

        Raises
        ------
        InputError
            For another output type, or the only request cannot be served.
        RequestsFailed
            As ``generate``.
        """
        kinds = output_type if isinstance(output_type, tuple) else (output_type or RequestOutput,)
        if RequestOutput not in kinds:
            text = f"output_type must be RequestOutput or a tuple with it, got {shown(output_type)}"
            raise InputError(text)
        return self._requests.wait(use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        use_tqdm: bool = False,
        concurrency_limit: int | None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[BeamSearchOutput]:
        """Find the best continuations of each prompt by beam search.

        Parameters
        ----------
        prompts, lora_request, priority
            As of ``generate``.
        params : BeamSearchParams
        use_tqdm : bool
            Show a bar of the steps.
        concurrency_limit : int | None
            Prompts that are searched for at the same time; None = all.

        Returns
        -------
        list[BeamSearchOutput]
            In the order of the prompts, each with the best sequence first.

        Raises
        ------
        InputError
            If a prompt or a parameter cannot be served.
        """
        searches = [
            Search(self._applied(Tokenization(), parse_prompt(one.prompt)), one)
            for one in self._wanted(
                [(prompt, None) for prompt in split_prompts(prompts)],
                SamplingParams(),
                lora_request,
                priority,
            )
        ]
        return beam_search(
            self.llm_engine,
            self._requests,
            searches,
            params,
            use_tqdm=use_tqdm,
            concurrency_limit=concurrency_limit,
        )

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the sampling parameters of the model's generation config."""
        return SamplingParams.from_generation_config(self.llm_engine.generation_config)

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget every cached prefix; see ``LLMEngine.reset_prefix_cache``."""
        return self.llm_engine.reset_prefix_cache(reset_running_requests, reset_connector)

    def reset_mm_cache(self) -> None:
        """Do nothing: there is no cache of pictures."""

    def get_metrics(self) -> list[Metric]:
        """Return what the engine counts; see ``LLMEngine.get_metrics``."""
        return self.llm_engine.get_metrics()

    def get_world_size(self, include_dp: bool = True) -> int:
        """Return the number of devices: 1."""
        return 1

    @property
    def model_config(self) -> ServedModel:
        """The model and its limits."""
        return self.llm_engine.model_config

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Run nothing until ``wake_up``; prompts can be enqueued meanwhile.

        Parameters
        ----------
        level : int
            0 only: weights and KV cache stay where they are.
        mode : str
            What becomes of prompts that are enqueued: "abort" ends them (their finish_reason is
            "abort", and the text what there is so far), "wait" finishes them, "keep" leaves them.

        Raises
        ------
        InputError
            For another level or mode.
        """
        self._requests.sleep(level, mode)

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Go on after ``sleep``.

        Parameters
        ----------
        tags : Sequence[str] | None
            "scheduling" wakes it up, as None does; "weights" and "kv_cache" are always there.

        Returns
        -------
        bool
            Whether it is awake.
        """
        return self._requests.wake_up(tags)

    def __repr__(self) -> str:
        return f"LLM(model={self.model_config.model!r})"

    def _wanted(
        self,
        made: Sequence[tuple[Any, PlaitError | None]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None,
        priority: int | Sequence[int] | None,
    ) -> list[Wanted]:
        count = len(made)
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        params = one_each("sampling_params", sampling_params, count)
        loras = one_each("lora_request", lora_request, count)
        priorities = one_each("priority", 0 if priority is None else priority, count)
        return [
            Wanted(prompt, params[i], loras[i], priorities[i], error)
            for i, (prompt, error) in enumerate(made)
        ]

    def _tokenized(
        self, prompts: Sequence[Any], keywords: Mapping[str, Any] | None
    ) -> list[tuple[Any, PlaitError | None]]:
        """Make the tokens of prompts where a call says how; else the engine does."""
        if not keywords:
            return [(prompt, None) for prompt in prompts]
        tokenization = Tokenization.from_keywords(keywords)
        return [_tried(lambda p: self._applied(tokenization, parse_prompt(p)), p) for p in prompts]

    def _rendered(
        self,
        messages: Conversation | Sequence[Conversation],
        template: ChatTemplate,
        keywords: Mapping[str, Any] | None,
    ) -> list[tuple[Any, PlaitError | None]]:
        tokenization = Tokenization.from_keywords(keywords, add_special_tokens=False)

        def render(conversation: Any) -> ParsedPrompt:
            rendered = template.render(conversation)
            if not keywords:
                return rendered
            return self._applied(tokenization, ParsedPrompt(rendered.text))

        return [_tried(render, conversation) for conversation in split_conversations(messages)]

    def _applied(self, tokenization: Tokenization, prompt: ParsedPrompt) -> ParsedPrompt:
        longest = self.llm_engine.core.info.max_model_len
        return tokenization.apply(prompt, self.llm_engine.tokenizer, longest)


def _tried(
    make: Callable[[Any], ParsedPrompt], given: Any
) -> tuple[ParsedPrompt | Any, PlaitError | None]:
    """Make a prompt; one that cannot be made is kept as it was given, with the error."""
    try:
        return make(given), None
    except PlaitError as error:
        return given, error


def _refuse_media(keywords: Mapping[str, Any] | None) -> None:
    if keywords:
        text = "mm_processor_kwargs is not served: plait serves text models only; leave it out"
        raise InputError(text)
