"""The table: vLLM 0.33's module paths, the names in them, and where plait has each."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VLLM_VERSION = "0.33.0+plait"
"""What ``vllm.__version__`` says: the version whose names these are, and who serves them."""

VLLM_VERSION_TUPLE = (0, 33, 0)

_ARGUMENTS = {"EngineArgs": "plait:EngineArgs", "AsyncEngineArgs": "plait:AsyncEngineArgs"}
_PROMPTS = {
    "PromptType": "plait:PromptType",
    "SingletonPrompt": "plait:PromptType",
    "TextPrompt": "plait:TextPrompt",
    "TokensPrompt": "plait:TokensPrompt",
}
_VERSION = {
    "__version__": "plait_vllm.table:VLLM_VERSION",
    "__version_tuple__": "plait_vllm.table:VLLM_VERSION_TUPLE",
}
_CLEANING = {
    "cleanup_dist_env_and_memory": "plait_vllm.stand_ins.machine:cleanup_dist_env_and_memory",
    "destroy_distributed_environment": "plait_vllm.stand_ins.machine:destroy_model_parallel",
    "destroy_model_parallel": "plait_vllm.stand_ins.machine:destroy_model_parallel",
}
_ATTENTION = {"AttentionConfig": "plait_vllm.stand_ins.configs:AttentionConfig"}
_PROFILER = {"ProfilerConfig": "plait_vllm.stand_ins.configs:ProfilerConfig"}
_CONFIGS = {
    "CompilationConfig": "plait_vllm.stand_ins.configs:CompilationConfig",
    "CompilationMode": "plait_vllm.stand_ins.configs:CompilationMode",
    "CUDAGraphMode": "plait_vllm.stand_ins.configs:CUDAGraphMode",
}

TABLE: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "": {
            "LLM": "plait:LLM",
            "LLMEngine": "plait:LLMEngine",
            "AsyncLLMEngine": "plait:AsyncLLMEngine",
            **_ARGUMENTS,
            "SamplingParams": "plait:SamplingParams",
            "PromptType": "plait:PromptType",
            "TextPrompt": "plait:TextPrompt",
            "TokensPrompt": "plait:TokensPrompt",
            "RequestOutput": "plait:RequestOutput",
            "CompletionOutput": "plait:CompletionOutput",
            **_VERSION,
        },
        "config": {**_ATTENTION, **_CONFIGS, **_PROFILER},
        "config.attention": _ATTENTION,
        "config.compilation": _CONFIGS,
        "config.profiler": _PROFILER,
        "distributed": _CLEANING,
        "distributed.parallel_state": _CLEANING,
        "engine.arg_utils": _ARGUMENTS,
        "engine.async_llm_engine": {"AsyncLLMEngine": "plait:AsyncLLMEngine"},
        "engine.llm_engine": {"LLMEngine": "plait:LLMEngine"},
        "entrypoints.generate.beam_search.utils": {
            "BeamSearchOutput": "plait.beam_search:BeamSearchOutput",
            "BeamSearchSequence": "plait.beam_search:BeamSearchSequence",
        },
        "entrypoints.llm": {"LLM": "plait:LLM"},
        "exceptions": {
            "ChatTemplateResolutionError": "plait_kernels.errors:InputError",
            "LoRAAdapterNotFoundError": "plait_kernels.errors:AdapterError",
            "VLLMClientError": "plait_kernels.errors:InputError",
            "VLLMError": "plait_kernels.errors:PlaitError",
            "VLLMNotFoundError": "plait_kernels.errors:AdapterError",
            "VLLMUnprocessableEntityError": "plait_kernels.errors:InputError",
            "VLLMValidationError": "plait_kernels.errors:InputError",
        },
        "inputs": _PROMPTS,
        "inputs.llm": _PROMPTS,
        "logger": {"init_logger": "plait_vllm.stand_ins.logs:init_logger"},
        "logprobs": {
            "Logprob": "plait:Logprob",
            "LogprobsOnePosition": "plait_vllm.stand_ins.types:LogprobsOnePosition",
            "PromptLogprobs": "plait_vllm.stand_ins.types:PromptLogprobs",
            "SampleLogprobs": "plait_vllm.stand_ins.types:SampleLogprobs",
        },
        "lora.request": {"LoRARequest": "plait:LoRARequest"},
        "outputs": {
            "CompletionOutput": "plait:CompletionOutput",
            "RequestOutput": "plait:RequestOutput",
        },
        "platforms": {"current_platform": "plait_vllm.stand_ins.machine:current_platform"},
        "renderers.chat_utils": {
            "load_chat_template": "plait_vllm.stand_ins.chats:load_chat_template",
        },
        "sampling_params": {
            "BeamSearchParams": "plait:BeamSearchParams",
            "RequestOutputKind": "plait:RequestOutputKind",
            "SamplingParams": "plait:SamplingParams",
            "StructuredOutputsParams": "plait_vllm.stand_ins.configs:StructuredOutputsParams",
        },
        "usage.usage_lib": {"UsageContext": "plait_vllm.stand_ins.types:UsageContext"},
        "utils": {"random_uuid": "plait_vllm.stand_ins.machine:random_uuid"},
        "utils.argparse_utils": {
            "FlexibleArgumentParser": "plait_vllm.stand_ins.arguments:FlexibleArgumentParser",
        },
        "utils.counter": {"Counter": "plait_vllm.stand_ins.types:Counter"},
        "utils.network_utils": {
            "get_ip": "plait_vllm.stand_ins.machine:get_ip",
            "get_open_port": "plait_vllm.stand_ins.machine:get_open_port",
        },
        "v1.attention.backends.registry": {
            "AttentionBackendEnum": "plait_vllm.stand_ins.configs:AttentionBackendEnum",
        },
        "v1.engine": {"PauseMode": "plait_vllm.stand_ins.types:PauseMode"},
        "v1.engine.async_llm": {"AsyncLLM": "plait:AsyncLLM"},
        "v1.engine.llm_engine": {"LLMEngine": "plait:LLMEngine"},
        "v1.metrics.reader": {
            name: f"plait.metrics:{name}"
            for name in ("Counter", "Gauge", "Histogram", "Metric", "Vector")
        },
        "version": _VERSION,
    }
)
"""Module path below ``vllm`` ("" is ``vllm`` itself) → name → ``module:name`` that it is here."""

_POOLING = "plait generates text; pooling, embedding, scoring and reward models are not served"
_TEXT_ONLY = "plait serves text models only"
_ENGINE = "it is inside vLLM's engine; plait's works otherwise"
_MODELS = "models run on plait's own implementation, and vLLM's parts of models have no place in it"
_PROCESSORS = "custom logits processors are not supported"
_SERVER = "there is no server in this version"
_PLAIN = "plait returns plain text; parse it in the program"
_TRANSFER = "the KV cache stays in its engine"
_WEIGHTS = "weights of a running engine are not replaced"
_PROMPT_FORMS = "prompts are text or token ids"

ABSENT: Mapping[str, str] = MappingProxyType(
    {
        "ModelRegistry": _MODELS,
        "Pooling": _POOLING,
        "Embedding": _POOLING,
        "Classification": _POOLING,
        "Scoring": _POOLING,
        "initialize_ray_cluster": "plait runs on one device",
        "assets": _TEXT_ONLY,
        "benchmarks": "measure with python -m plait.bench",
        "compilation": _MODELS,
        "config": "plait's engine is told everything by the keywords of LLM and EngineArgs",
        "config.KVTransferConfig": _TRANSFER,
        "config.kv_transfer": _TRANSFER,
        "config.PoolerConfig": _POOLING,
        "config.WeightTransferConfig": _WEIGHTS,
        "distributed": "plait runs on one device, in one process",
        "distributed.kv_transfer": _TRANSFER,
        "distributed.weight_transfer": _WEIGHTS,
        "entrypoints": _SERVER,
        "entrypoints.pooling": _POOLING,
        "envs": "plait reads none of vLLM's environment variables",
        "inputs.EmbedsPrompt": _PROMPT_FORMS,
        "inputs.DataPrompt": _PROMPT_FORMS,
        "inputs.ExplicitEncoderDecoderPrompt": "encoder-decoder models are not served",
        "inputs.MultiModal": _TEXT_ONLY,
        "ir": _MODELS,
        "kernels": "kernels are plug-ins of plait_kernels",
        "logits_process": _PROCESSORS,
        "logprobs.FlatLogprobs": "logprobs are lists of dictionaries",
        "lora": "adapters are handled by plait_lora",
        "model_executor": _MODELS,
        "multimodal": _TEXT_ONLY,
        "outputs.Pooling": _POOLING,
        "outputs.Embedding": _POOLING,
        "outputs.Classification": _POOLING,
        "outputs.Scoring": _POOLING,
        "plugins": "plait has plug-ins of its own",
        "pooling_params": _POOLING,
        "reasoning": _PLAIN,
        "tool_parsers": _PLAIN,
        "transformers_utils": "configs and tokenizers are read with transformers",
        "utils.print_utils": _POOLING,
        "v1": _ENGINE,
        "v1.metrics.loggers": "read the metrics with get_metrics()",
        "v1.sample": _PROCESSORS,
        "v1.worker.gpu.sample.logits_processor": _PROCESSORS,
    }
)
"""Why a module, or names that begin like this, are not here. The longest beginning counts."""
