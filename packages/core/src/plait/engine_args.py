"""EngineArgs: everything that an engine can be told, under vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any

from plait.keywords import honoured_keywords
from plait_kernels.errors import InputError

DEFAULT_MAX_NUM_SEQS = 256
DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048

_DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}


@dataclass(init=False)
class EngineArgs:
    """Arguments of an engine.

    Any other keyword of vLLM's is accepted without effect or refused with the reason; an unknown
    one is an ``InputError`` that names the nearest known.

    Parameters
    ----------
    model : str
        Directory of a Hugging Face checkpoint, a ``.gguf`` file, or an id on the hub:
        ``"owner/repository"`` (safetensors), ``"owner/repository/file.gguf"`` or
        ``"owner/repository:Q4_K_M"`` (the one GGUF file of that quantization). A path that is there
        comes before an id. All files are those of one commit.
    tokenizer : str | None
        The like, of the tokenizer; default: the model's.
    skip_tokenizer_init : bool
        Load no tokenizer: prompts are token ids and outputs have no text.
    trust_remote_code : bool
        Handed to transformers for the tokenizer.
    revision : str | None
        Branch, tag or commit of the model's hub id; default: ``"main"``.
    tokenizer_revision : str | None
        That of the tokenizer's; default: ``revision`` if it is the model's, else ``"main"``.
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
        "auto", "safetensors", "gguf", or "dummy" (random weights; only the config is read).
    seed : int
        Of the engine: dummy weights, and the draws of requests that bring no seed.
    max_model_len : int | None
        Longest sequence in tokens; default: the model's.
    max_num_seqs : int
        Most requests that run at the same time.
    max_num_batched_tokens : int
        Token budget of a step.
    block_size : int
        Tokens of a KV block.
    enable_prefix_caching : bool
    kv_cache_memory_bytes : int | None
        Memory of the KV cache; default: a share of what the machine has left, on a GPU all of it.
    gpu_memory_utilization : float
        Share of a GPU's memory that the engine may use; without effect on a CPU.
    enforce_eager : bool
        Compute every step as it comes, without CUDA graphs.
    num_gpu_blocks_override : int | None
        KV blocks, instead of a size in bytes.
    enable_lora : bool
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
        Serve adapters on modules of these names only (``"q_proj"``, …); default: on all.
    kernels : str | dict[str, str] | None
        Which backends run which ops, ``"lora=cuda,triton;*=torch"``; default: ``PLAIT_KERNELS``,
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
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int = DEFAULT_MAX_NUM_SEQS
    max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS
    block_size: int = 16
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    enable_lora: bool = False
    max_loras: int | None = None
    max_lora_rank: int | None = None
    max_cpu_loras: int | None = None
    lora_dtype: str = "auto"
    lora_memory_bytes: int | None = None
    lora_target_modules: list[str] | None = None
    kernels: str | dict[str, str] | None = field(default=None)

    def __init__(self, model: str, **keywords: Any) -> None:
        names = {f.name for f in fields(self)} - {"model"}
        given = honoured_keywords(keywords, names)
        self.model = str(model)
        for f in fields(self):
            if f.name != "model":
                default = getattr(type(self), f.name, None)
                value = given.get(f.name, default)
                setattr(self, f.name, default if value is None else value)
        self._check()

    def _check(self) -> None:
        self.dtype = self._dtype("dtype")
        self.lora_dtype = self._dtype("lora_dtype")
        for name in (
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "block_size",
            "kv_cache_memory_bytes",
            "num_gpu_blocks_override",
            "max_loras",
            "max_lora_rank",
            "max_cpu_loras",
            "lora_memory_bytes",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                text = f"{name} must be an integer of at least 1, got {value!r}"
                raise InputError(text)
        for name in ("tokenizer", "revision", "tokenizer_revision", "download_dir"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, self._text(name, value))
        if not isinstance(self.hf_token, str | bool | None):
            text = f"hf_token must be a str, a bool or None, got {type(self.hf_token).__name__}"
            raise InputError(text)
        if self.device not in ("auto", "cpu", "cuda"):
            text = f"device must be 'auto', 'cpu' or 'cuda', got {self.device!r}"
            raise InputError(text)
        share = self.gpu_memory_utilization
        if not isinstance(share, int | float) or not 0 < share <= 1:
            text = (
                f"gpu_memory_utilization must be a number above 0 and at most 1, got {share!r}: "
                "the share of the GPU's memory that the engine may use"
            )
            raise InputError(text)
        if not isinstance(self.enforce_eager, bool):
            text = f"enforce_eager must be a bool, got {self.enforce_eager!r}"
            raise InputError(text)
        if self.load_format not in ("auto", "safetensors", "gguf", "dummy"):
            text = (
                f"load_format={self.load_format!r} is not one of 'auto', 'safetensors', 'gguf', "
                "'dummy'; pickle weights are never loaded: convert them to safetensors"
            )
            raise InputError(text)
        if self.max_loras and self.max_cpu_loras and self.max_cpu_loras < self.max_loras:
            text = (
                f"max_cpu_loras={self.max_cpu_loras} is less than max_loras={self.max_loras}: "
                "every adapter on the device also has its copy on the host; raise max_cpu_loras"
            )
            raise InputError(text)

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str | PathLike) or not str(value):
            text = f"{name} must be a str that is not empty, got {value!r}"
            raise InputError(text)
        return str(value)

    def _dtype(self, name: str) -> str:
        value = str(getattr(self, name)).removeprefix("torch.")
        if value not in _DTYPES:
            text = f"{name}={value!r} is not one of {', '.join(map(repr, _DTYPES))}"
            raise InputError(text)
        return _DTYPES[value]
