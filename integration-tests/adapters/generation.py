"""What the evaluation scripts share: generators of completions, scoring, the command line."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from base import MAX_NEW_TOKENS, STOP, gguf_path
from sql_data import cut

ADAPTERS = Path(__file__).parents[2] / "packages/core/src/plait/demo/adapters"
BATCH = 8


class HasPrompt(Protocol):
    """A held-out question."""

    @property
    def prompt(self) -> str:
        """What the model is asked."""


QuestionT = TypeVar("QuestionT", bound=HasPrompt)

Generate = Callable[[Sequence[str], Path | None], list[str]]
"""Complete the prompts greedily, with the adapter in the folder or with the base alone."""


def plait_generator() -> Generate:
    """Return a generator on the plait engine, which loads its own copy of the GGUF file."""
    # Imported here: with the other engine, plait need not be installed.
    from plait import LLM, LoRARequest, SamplingParams

    llm = LLM(model=str(gguf_path()), enable_lora=True)
    sampling = SamplingParams(temperature=0, max_tokens=MAX_NEW_TOKENS, stop=[STOP])

    def generate(prompts: Sequence[str], adapter: Path | None) -> list[str]:
        request = LoRARequest(adapter.name, 1, str(adapter)) if adapter else None
        outputs = llm.generate(list(prompts), sampling, lora_request=request)
        return [str(output.outputs[0].text) for output in outputs]

    return generate


def peft_generator() -> Generate:
    """Return a generator on transformers and peft, all in fp32."""
    # Imported here: with the other engine, torch need not be installed.
    import torch
    from base import load_model, load_tokenizer
    from peft import PeftModel
    from transformers import PreTrainedModel

    tokenizer = load_tokenizer()

    def complete(model: PreTrainedModel | PeftModel, prompts: Sequence[str]) -> list[str]:
        batch = tokenizer(list(prompts), return_tensors="pt", padding=True)
        ids = batch["input_ids"]
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=batch["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
                stop_strings=[STOP],
                tokenizer=tokenizer,
            )
        return [
            str(tokenizer.decode(row, skip_special_tokens=True))
            for row in output[:, ids.shape[1] :]
        ]

    def generate(prompts: Sequence[str], adapter: Path | None) -> list[str]:
        # A fresh base each time: peft changes the model that it wraps.
        model: PreTrainedModel | PeftModel = load_model()
        if adapter:
            model = PeftModel.from_pretrained(model, adapter).eval().float()
        texts: list[str] = []
        for start in range(0, len(prompts), BATCH):
            texts += complete(model, prompts[start : start + BATCH])
        return texts

    return generate


def generator(engine: str) -> Generate:
    """Return the generator for the engine's name."""
    return plait_generator() if engine == "plait" else peft_generator()


def evaluate(
    description: str | None,
    adapter: str,
    questions: Sequence[QuestionT],
    check: Callable[[QuestionT, str], bool],
    *,
    goal: int,
    base_below: int,
) -> int:
    """Run the command line of an evaluation script; return 0 when the goals are met."""
    arguments = _parser(description, adapter).parse_args()
    generate = generator(arguments.engine)
    prompts = [question.prompt for question in questions]

    def score(folder: Path | None) -> int:
        right = 0
        for question, completion in zip(questions, generate(prompts, folder), strict=True):
            passed = check(question, completion)
            right += passed
            if arguments.show:
                print("ok  " if passed else "FAIL", question.prompt.split("\n\n")[-1])
                print("     ", cut(completion))
        return right

    trained = score(arguments.adapter)
    print(f"{adapter} adapter: {trained}/{len(questions)}", flush=True)
    base = score(None)
    print(f"base: {base}/{len(questions)}")
    return 0 if trained >= goal and base < base_below else 1


def _parser(description: str | None, adapter: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--engine", choices=("plait", "peft"), default="plait")
    made.add_argument("--adapter", type=Path, default=ADAPTERS / adapter)
    made.add_argument("--show", action="store_true", help="print every completion")
    return made
