"""LLM: the offline interface. Prompts in, outputs out, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from plait.chat import ChatTemplate, split_conversations
from plait.chat_template_file import read_chat_template
from plait.engine_args import EngineArgs, check_engine_args
from plait.llm_engine import LLMEngine
from plait.outputs import CompletionOutput, RequestOutput
from plait.progress import GenerationProgress
from plait.prompts import ParsedPrompt, split_prompts
from plait_kernels.errors import InputError, PlaitError, RequestsFailed
from plait_sampling.params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from os import PathLike

    from plait.chat import Conversation
    from plait.prompts import Prompt
    from plait.tokenizer import Tokenizer
    from plait_lora.request import LoRARequest


class LLM:
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
        self._calls = 0

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
        use_tqdm: bool = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Generate from every prompt, all in one batch.

        Parameters
        ----------
        prompts : str | list[int] | dict | Sequence of these
            A text, token ids, ``{"prompt": …}`` or ``{"prompt_token_ids": …}``.
        sampling_params : SamplingParams | Sequence[SamplingParams] | None
            One for all or one a prompt; None = ``get_default_sampling_params()``.
        use_tqdm : bool
            Show a progress bar.
        lora_request : LoRARequest | Sequence[LoRARequest | None] | None
            The adapter for all prompts, or one a prompt, in which None is the base model.
        priority : Sequence[int] | None
            One a prompt; smaller is served earlier.

        Returns
        -------
        list[RequestOutput]
            In the order of the prompts.

        Raises
        ------
        InputError
            If a list has not the length of the prompts, or the only request cannot be served.
        RequestsFailed
            If some of several requests cannot be served. The others are finished first; the
            exception has their outputs.
        """
        return self._complete(
            split_prompts(prompts), {}, sampling_params, lora_request, priority, use_tqdm=use_tqdm
        )

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[dict[str, Any] | Callable[..., Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations, all in one batch. The tokenizer's chat template makes the prompts.

        Parameters
        ----------
        messages : list[dict] | list[list[dict]]
            One conversation or several. A message is ``{"role": …, "content": …}``; the content is
            a text or a list of ``{"type": "text", "text": …}``, whose texts are joined by newlines.
        sampling_params, use_tqdm, lora_request
            As of ``generate``, for one or for each conversation.
        chat_template, add_generation_prompt, continue_final_message, tools, chat_template_kwargs
            As of ``ChatTemplate``.

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
        template = ChatTemplate(
            self.get_tokenizer(),
            self._chat_template if chat_template is None else chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        prompts: list[Any] = []
        errors: dict[int, PlaitError] = {}
        for i, conversation in enumerate(split_conversations(messages)):
            try:
                prompts.append(template.render(conversation))
            except InputError as error:
                prompts.append(None)
                errors[i] = error
        return self._complete(
            prompts, errors, sampling_params, lora_request, None, use_tqdm=use_tqdm
        )

    def _complete(
        self,
        each: list[Any],
        errors: dict[int, PlaitError],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None,
        priority: Sequence[int] | None,
        *,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """Run the prompts that have no error yet; ``generate`` says the rest."""
        count = len(each)
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        params = _one_each("sampling_params", sampling_params, count)
        loras = _one_each("lora_request", lora_request, count)
        priorities = _one_each("priority", priority if priority is not None else 0, count)
        self._calls += 1
        names = [f"generate-{self._calls}-{i}" for i in range(count)]
        for i, name in enumerate(names):
            if i in errors:
                continue
            try:
                self.llm_engine.add_request(
                    name,
                    each[i],
                    _final_only(params[i]),
                    lora_request=loras[i],
                    priority=priorities[i],
                )
            except PlaitError as error:
                errors[i] = error
        try:
            queued = {name for i, name in enumerate(names) if i not in errors}
            finished = self._run(queued, use_tqdm=use_tqdm)
        finally:
            # Whatever stopped the loop, nothing of this call stays behind.
            self.llm_engine.abort_request(names)
        outputs = [
            finished.get(name) or _failed(name, each[i], loras[i], errors[i])
            for i, name in enumerate(names)
        ]
        errors.update((i, o.error) for i, o in enumerate(outputs) if o.error is not None)
        if errors:
            raise _error_of(errors, outputs)
        return outputs

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """Return the sampling parameters of the model's generation config."""
        return SamplingParams.from_generation_config(self.llm_engine.generation_config)

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix."""
        self.llm_engine.reset_prefix_cache()
        return True

    def _run(self, names: set[str], *, use_tqdm: bool) -> dict[str, RequestOutput]:
        finished: dict[str, RequestOutput] = {}
        with GenerationProgress(len(names), use_tqdm) as progress:
            while len(finished) < len(names):
                for output in self.llm_engine.step():
                    if output.finished and output.request_id in names:
                        finished[output.request_id] = output
                        progress.finish(output)
        return finished


def _one_each(name: str, value: Any, count: int) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        text = (
            f"{name} has {len(value)} entries for {count} prompts; pass one for all prompts, or a "
            "list with one a prompt"
        )
        raise InputError(text)
    return list(value)


def _final_only(params: SamplingParams) -> SamplingParams:
    if not isinstance(params, SamplingParams):
        return params  # add_request says what is wrong with it
    params = params.clone()
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return params


def _failed(
    name: str, prompt: Any, lora_request: LoRARequest | None, error: PlaitError
) -> RequestOutput:
    """Make the output of a request that could not even be queued."""
    text = prompt.text if isinstance(prompt, ParsedPrompt) else prompt
    return RequestOutput(
        request_id=name,
        prompt=text if isinstance(text, str) else None,
        prompt_token_ids=[],
        prompt_logprobs=None,
        outputs=[CompletionOutput(0, "", [], finish_reason="error")],
        finished=True,
        lora_request=lora_request,
        error=error,
    )


def _error_of(errors: dict[int, PlaitError], outputs: list[RequestOutput]) -> PlaitError:
    first = min(errors)
    if len(outputs) == 1:
        return errors[first]
    text = (
        f"{len(errors)} of {len(outputs)} requests failed; the first is prompt {first}: "
        f"{errors[first]} (the exception's .errors has all of them by place, and .outputs every "
        "output, those that finished included)"
    )
    return RequestsFailed(text, errors, list(outputs))
