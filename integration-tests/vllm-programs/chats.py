# ruff: noqa: T201
"""Chats: one conversation, several, and with another template."""

from vllm import LLM, SamplingParams
from vllm.outputs import RequestOutput

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def show(outputs: list[RequestOutput]) -> None:
    for output in outputs:
        print(output.request_id, repr(output.prompt), len(output.outputs[0].token_ids))


def main() -> None:
    llm = LLM(model="owner/tiny", max_model_len=256)
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    conversation = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go on."},
    ]
    show(llm.chat(conversation, params, use_tqdm=False))
    show(llm.chat([conversation, conversation[:1]], params, use_tqdm=False))
    show(llm.chat(conversation, params, False, None, None, TEMPLATE))


if __name__ == "__main__":
    main()
