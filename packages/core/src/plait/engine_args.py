"""EngineArgs: everything that an engine can be told, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from plait import argument_checks as checks
from plait.argument_options import add_options, asking_for_nothing, given_options
from plait.keyword_tables import RULES
from plait.keywords import check_others
from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from plait.argument_checks import Check

P = TypeVar("P", bound="argparse.ArgumentParser")


_LARGEST = 2**31 - 1
"""The largest number that tables on the device hold."""
_BYTES = checks.whole(1, 2**60)

_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "model": checks.text,
        "tokenizer": checks.text,
        "skip_tokenizer_init": checks.flag,
        "trust_remote_code": checks.flag,
        "revision": checks.text,
        "tokenizer_revision": checks.text,
        "hf_token": checks.token,
        "download_dir": checks.text,
        "dtype": checks.dtype,
        "device": checks.one_of("auto", "cpu", "cuda"),
        "load_format": checks.one_of(
            "auto",
            "safetensors",
            "gguf",
            "dummy",
            hint="; pickle weights are never loaded: convert them to safetensors",
            same={"hf": "safetensors"},
        ),
        "generation_config": checks.text,
        "override_generation_config": checks.generation_overrides,
        "seed": checks.whole(-(2**63), 2**63 - 1),
        "max_model_len": checks.length_or_auto,
        "max_num_seqs": checks.whole(1, 2**20),
        "max_num_batched_tokens": checks.whole(1, 2**24),
        "max_logprobs": checks.whole(-1, _LARGEST),
        "block_size": checks.whole(1, 2**16),
        "enable_prefix_caching": checks.flag,
        "gpu_memory_utilization": checks.share,
        "enforce_eager": checks.flag,
        "kv_cache_memory_bytes": _BYTES,
        "kv_cache_dtype": checks.kv_cache_dtype,
        "num_gpu_blocks_override": checks.whole(1, _LARGEST),
        "enable_lora": checks.flag,
        "max_loras": checks.whole(1, _LARGEST),
        "max_lora_rank": checks.whole(1, _LARGEST),
        "max_cpu_loras": checks.whole(1, _LARGEST),
        "lora_dtype": checks.dtype,
        "lora_memory_bytes": _BYTES,
        "lora_target_modules": checks.names,
        "kernels": checks.kernels,
    }
)
"""By field; None is the default of every field."""


@dataclass(init=False)
class EngineArgs:
    """Arguments of an engine.

    Every value is checked when it is set, at construction and afterwards. None stands for the
    default of every argument. NumPy's numbers are as good as Python's; a bool
    is no number. Any other keyword of vLLM's is accepted without effect or refused with the reason;
    an unknown one is an ``InputError`` that names the nearest known.

    Parameters
    ----------
    model : str
        Directory of a Hugging Face checkpoint, a ``.gguf`` file, or an id on the hub:
        ``"owner/repository"`` (safetensors), ``"owner/repository/file.gguf"`` or
        ``"owner/repository:Q4_K_M"`` (the one GGUF file of that quantization). A path that is there
        comes before an id. All files are those of one commit.
    tokenizer : str | None
        Directory, ``.gguf`` file or hub id of the tokenizer; default: the model's.
    skip_tokenizer_init : bool
        Load no tokenizer: prompts are token ids and outputs have no text.
    trust_remote_code : bool
        Handed to transformers for the tokenizer.
    revision : str | None
        Branch, tag or commit of the model's hub id; default: ``"main"``.
    tokenizer_revision : str | None
        Branch, tag or commit of the tokenizer's hub id; default: ``revision`` if the tokenizer is
        the model's, else ``"main"``.
    hf_token : str | bool | None
        For the hub. None or True: ``HF_TOKEN``, or the token that ``hf auth login`` saved; False:
        none. Hub ids of adapters are asked for with it, too.
    download_dir : str | None
        The hub's cache; default: that of ``HF_HOME``.
    dtype : str
        "auto" (the checkpoint's; float32 for GGUF), "float32", "bfloat16" or "float16".
    device : str
        "auto" (the first GPU, else the CPU), "cpu" or "cuda".
    load_format : str
        "auto", "safetensors" ("hf" says the same), "gguf", or "dummy" (random weights; only the
        config is read).
    generation_config : str
        Where the defaults of sampling come from: "auto" (the model's ``generation_config.json``),
        "vllm" (none: those of ``SamplingParams``), or a folder with such a file. End-of-sequence
        tokens come from the model even with "vllm".
    override_generation_config : dict[str, Any] | None
        Defaults of sampling that go before those of ``generation_config``, such as
        ``{"temperature": 0.5}``; None in it drops a default.
    seed : int
        Of the engine: dummy weights, and the draws of requests that bring no seed.
    max_model_len : int | str | None
        Longest sequence in tokens; default: the model's. -1 or "auto": the model's, or the longest
        that fits into the KV cache if that is less.
    max_num_seqs : int
        Most requests that run at the same time.
    max_num_batched_tokens : int
        Token budget of a step.
    max_logprobs : int
        Most logprobs that a request may ask for a token; -1 = the whole vocabulary. vLLM's default
        is 20.
    block_size : int
        Tokens of a KV block.
    enable_prefix_caching : bool
        Keep the KV blocks of finished requests for prompts that begin alike.
    kv_cache_memory_bytes : int | None
        Memory of the KV cache; default: a share of what the machine has left, on a GPU all of it.
    kv_cache_dtype : str
        "auto", or the model's own dtype by name; no other is served.
    gpu_memory_utilization : float
        Share of a GPU's memory that the engine may use; without effect on a CPU.
    enforce_eager : bool
        Compute every step as it comes, without CUDA graphs.
    num_gpu_blocks_override : int | None
        KV blocks, instead of a size in bytes.
    enable_lora : bool
        Serve adapters.
    max_loras : int | None
        Cap on the adapters that are on the device at the same time; None = what fits.
    max_lora_rank : int | None
        Cap on the rank of any module of an adapter; None = any.
    max_cpu_loras : int | None
        Cap on the adapters kept in host memory; None = no cap.
    lora_dtype : str
        "auto" (the model's) or a dtype.
    lora_memory_bytes : int | None
        Device memory for adapters; default: a share of what the machine has left.
    lora_target_modules : list[str] | None
        Serve adapters on modules of these names only (``"q_proj"``, …); default: on all. What an
        adapter has for other modules is left out, so it then answers differently than under PEFT.
    kernels : str | dict[str, str] | None
        Which backends run which ops, ``"lora=triton,cpu;*=torch"``; default: ``PLAIT_KERNELS``,
        else automatic.

    Raises
    ------
    InputError
        For a bad keyword or value.
    """

    model: str
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    revision: str | None = None
    tokenizer_revision: str | None = None
    hf_token: str | bool | None = field(default=None, repr=False)
    download_dir: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    load_format: str = "auto"
    generation_config: str = "auto"
    override_generation_config: dict[str, Any] | None = None
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_logprobs: int = -1
    block_size: int = 16
    enable_prefix_caching: bool = True
    kv_cache_memory_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    num_gpu_blocks_override: int | None = None
    enable_lora: bool = False
    max_loras: int | None = None
    max_lora_rank: int | None = None
    max_cpu_loras: int | None = None
    lora_dtype: str = "auto"
    lora_memory_bytes: int | None = None
    lora_target_modules: list[str] | None = None
    kernels: str | dict[str, str] | None = None

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
        **others: Any,
    ) -> None:
        given = dict(locals())
        check_others(others, _CHECKS)
        for name in _CHECKS:
            setattr(self, name, given[name])
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHECKS:
            check_others({name: value}, _CHECKS)
        elif name == "model" or value is not None:
            value = _CHECKS[name](name, value)
        else:
            value = getattr(type(self), name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Return what vLLM's other keywords say here: nothing, as others are refused."""
        if name not in RULES:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(text, name=name, obj=self)
        return asking_for_nothing(name)

    def validate(self) -> None:
        """Check the arguments against each other.

        Raises
        ------
        InputError
            Another dtype of the KV cache than of the model, or fewer adapters in host memory than
            on the device.
        """
        if "auto" not in (self.dtype, self.kv_cache_dtype) and self.dtype != self.kv_cache_dtype:
            raise another_kv_dtype(self.kv_cache_dtype, self.dtype)
        if self.max_loras and self.max_cpu_loras and self.max_cpu_loras < self.max_loras:
            text = (
                f"max_cpu_loras={self.max_cpu_loras} is less than max_loras={self.max_loras}: "
                "every adapter on the device also has its copy on the host; raise max_cpu_loras"
            )
            raise InputError(text)

    @classmethod
    def add_cli_args(cls, parser: P) -> P:
        """Add an option for every argument, in vLLM's spelling: ``--max-model-len`` and so on.

        Numbers may be written as ``1k`` (1,000), ``1K`` (1,024) or ``25.6k``. vLLM's other options
        are known and not shown in the help; ``from_cli_args`` accepts or refuses them.

        Parameters
        ----------
        parser : argparse.ArgumentParser

        Returns
        -------
        argparse.ArgumentParser
            The same.
        """
        return add_options(parser, cls)

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """Make the arguments that the options of ``add_cli_args`` said.

        Parameters
        ----------
        args : argparse.Namespace
            What it holds beside those options is left alone.

        Raises
        ------
        InputError
            As the class, and if there is no model.
        """
        return cls(**given_options(args, cls))


class AsyncEngineArgs(EngineArgs):
    """Arguments of an asynchronous engine: those of ``EngineArgs``."""

    @classmethod
    def add_cli_args(cls, parser: P, async_args_only: bool = False) -> P:
        """Do as ``EngineArgs.add_cli_args``.

        Parameters
        ----------
        parser : argparse.ArgumentParser
        async_args_only : bool
            vLLM's: add only what ``EngineArgs`` has not. There is nothing.
        """
        return parser if async_args_only else super().add_cli_args(parser)


def another_kv_dtype(asked: str, dtype: str) -> InputError:
    """Make the error of a KV cache that shall have another dtype than the model."""
    text = (
        f"kv_cache_dtype={asked!r} is refused: the KV cache has the model's dtype, which is "
        f"{dtype!r}; leave it out, or ask for dtype={asked!r}"
    )
    return InputError(text)


def check_engine_args(engine_args: object, stat_loggers: object = None) -> None:
    """Check what an engine is made from.

    Raises
    ------
    InputError
        ``engine_args`` are no ``EngineArgs``, or there is a logger of vLLM's.
    """
    if not isinstance(engine_args, EngineArgs):
        text = f"engine_args must be EngineArgs, got {shown(engine_args)}: write EngineArgs(model)"
        raise InputError(text)
    engine_args.validate()
    if not asks_for_nothing(stat_loggers):
        text = "stat_loggers are refused: nothing here calls them; leave them out"
        raise InputError(text)
