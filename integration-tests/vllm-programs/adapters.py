# ruff: noqa: T201
"""Downloads an adapter and serves it under two ids beside the base model."""

from huggingface_hub import snapshot_download
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    engine_args = EngineArgs(
        model="owner/tiny",
        enable_lora=True,
        max_loras=1,
        max_lora_rank=8,
        max_cpu_loras=2,
        max_num_seqs=256,
    )
    engine = LLMEngine.from_engine_args(engine_args)
    path = snapshot_download(repo_id="owner/adapter")
    params = SamplingParams(temperature=0.0, logprobs=1, max_tokens=8, ignore_eos=True)
    requests = [None, LoRARequest("sql", 1, path), LoRARequest("sql2", 2, path)]
    number = 0
    while requests or engine.has_unfinished_requests():
        if requests:
            engine.add_request(str(number), "Name the", params, lora_request=requests.pop(0))
            number += 1
        for output in engine.step():
            if output.finished:
                name = output.lora_request and output.lora_request.lora_name
                print(output.request_id, name, output.outputs[0].token_ids)


if __name__ == "__main__":
    main()
