# ruff: noqa: T201
"""Two engines one after another, profiling left out, and metrics at the end."""

from vllm import LLM, SamplingParams
from vllm.config import ProfilerConfig
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.logger import init_logger
from vllm.v1.metrics.reader import Counter, Gauge, Histogram, Vector

logger = init_logger(__name__)
PREFIX = "You are an expert principal. "


def main(profile: ProfilerConfig | None = None) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=4)
    prompts = [PREFIX + prompt for prompt in ("Hello", "The capital", "The future")]
    regular = LLM(model="owner/tiny", gpu_memory_utilization=0.4, enable_prefix_caching=False)
    expected = [output.outputs[0].text for output in regular.generate(prompts, params)]
    del regular
    cleanup_dist_env_and_memory()
    logger.info_once("the second engine")
    cached = LLM(model="owner/tiny", gpu_memory_utilization=0.4, disable_log_stats=False)
    cached.generate(prompts[0], params)
    outputs = cached.generate(prompts, params)
    print("the same:", [output.outputs[0].text for output in outputs] == expected)
    for metric in cached.get_metrics():
        if isinstance(metric, Gauge):
            print(f"{metric.name} (gauge) = {metric.value}")
        elif isinstance(metric, Counter):
            print(f"{metric.name} (counter) = {metric.value}")
        elif isinstance(metric, Vector):
            print(metric.values)
        elif isinstance(metric, Histogram):
            print(metric.sum, metric.count, metric.buckets)


if __name__ == "__main__":
    main()
