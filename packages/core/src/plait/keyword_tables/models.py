"""What is loaded: the model, its weights and its tokenizer."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_GENERATES = "plait generates text; pooling, embedding and reward models are not served"
_DTYPES = "weights are served in float32, bfloat16 or float16, and GGUF is dequantised"
_FILES = "a model is its directory, its GGUF file or its hub id"
_SAFE = "weights are read from safetensors and GGUF files only"
_NOT_YET = "not part of this version"

MODELS: Mapping[str, Rule] = MappingProxyType(
    refused(
        _GENERATES,
        runner=("auto", "generate"),
        convert=("auto", "none"),
        pooler_config=None,
        diffusion_config=None,
    )
    | refused(_DTYPES, quantization=None, quantization_config=None)
    | refused(
        _FILES,
        model_weights=None,
        hf_config_path=None,
        config_format=("auto", "hf"),
        ignore_patterns=("original/**/*", ["original/**/*"]),
        model_loader_extra_config=None,
    )
    | refused("change the model's config.json instead", hf_overrides=None)
    | refused(
        "models run on plait's own implementation",
        model_impl=("auto", "plait"),
        model_class_overrides=None,
    )
    | refused("a tokenizer is transformers' fast one", tokenizer_mode=("auto", "hf"))
    | refused("the code of a tokenizer is that of its revision", code_revision=None)
    | refused("prompts are text or token ids", enable_prompt_embeds=False)
    | refused("reasoning is not told apart from text", reasoning_parser_plugin=None)
    | refused("plait returns plain text", reasoning_parser=None, reasoning_config=None)
    | refused(
        _NOT_YET,
        additional_config=None,
        engram_config=None,
        enable_sleep_mode=False,
        weight_transfer_config=None,
        io_processor_plugin=None,
    )
    | refused("give token ids with skip_tokenizer_init=True", tokens_only=False)
    | without_effect("there is no sleep mode", sleep_mode_backend=str)
    | without_effect(
        "there is no sleep mode",
        sleep_mode_offload_cudagraph=bool,
        sleep_preserve_parameter_names=list,
    )
    | without_effect("no quantization method is chosen", allow_deprecated_quantization=bool)
    | without_effect(
        _SAFE,
        pt_load_map_location=object,
        safetensors_load_strategy=("lazy", "eager", "prefetch"),
        safetensors_prefetch_num_threads=int,
        safetensors_prefetch_block_size=int,
    )
    | without_effect("loading shows a bar where there is a terminal", use_tqdm_on_load=bool)
    | without_effect(
        "a name for servers and metrics, of which there are none", served_model_name=object
    )
    | without_effect("texts become tokens in the caller's thread", renderer_num_workers=int)
    | refused("environment variables of vLLM's are not read", fail_on_environ_validation=False)
)
"""By keyword."""
