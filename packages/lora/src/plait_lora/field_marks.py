"""Fields that no version of PEFT knows: a tool's own marks, or something that changes the result.

PEFT drops a field that it does not know, with a warning. Here it is dropped only if its value says
nothing or is text, or its name says what it is about: who trained the adapter, when, with which
tool and data. Any other field might come from a newer PEFT and change the result.
"""

from __future__ import annotations

import re

_ABOUT = """
    about accelerate author authors autotrain axolotl batch benchmark benchmarks challenge
    changelog checkpoint citation colossalai comment comments commit competition contact contest
    copyright created creator credits data dataset datasets date deepspeed description epoch
    epochs eval evaluation experiment finetuned framework frameworks fsdp generated generator
    gradient hash homepage id info job kaggle language languages leaderboard learning library
    license lightning llamafactory lmflow loss lr mergekit meta metadata metrics model name note
    notes openrlhf optimizer organization owner participant predibase problem project provenance
    publisher readme repo repository rev run scheduler score scores seed sha sha256 source step
    steps submission submitter swift tag tags task team template time timestamp title tokenizer
    tool tools torchtune trained trainer training transformers trl unsloth uploaded url user
    uuid verl version versions wandb warmup
"""

_MARKS = frozenset(_ABOUT.split())
"""Words that say what a field is about."""

_OF_RESULT = """
    activation adapters add alora alpha alphas attention bias block blocks config dense dim dora
    dropout enable expert experts factor gain gate head heads hyper init kernel layer layers
    lora magnitude mask matrix merge mode module modules multiplier norm offset parameter
    parameters pattern projection quant quantization r rank ranks ratio rope rotary rows rslora
    scale scaled scales scaling shape shift sparse strength target targets temperature tensor
    tensors tie tied tokens use value variant vocab weight weights
"""

_MATHS = frozenset(_OF_RESULT.split())
"""Words that may be about the result; with one of them a field is no mark."""

_CHOICES = frozenset({"algorithm", "function", "kind", "method", "policy", "strategy", "type"})
"""Words whose text may choose how the result is made."""

_TRAINING = frozenset(
    {
        "loraplus_lr_embedding",
        "loraplus_lr_ratio",
        "loraplus_weight_decay",
        "max_seq_length",
        "merge_weights",
        "train_on_inputs",
        "weight_decay",
    }
)
"""Names of training, or of how older PEFT computed, that the words do not tell."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LONGEST = 200


def is_mark(field: str, value: object) -> bool:
    """Whether an unknown field is about the adapter, and not of its maths.

    That is one whose name begins with an underscore, ``$`` or ``x_``, or has a word that says so;
    or whose value is nothing but text. A word that may be about the result outweighs both.

    Examples
    --------
    >>> is_mark("competition_metadata", {"place": 3}), is_mark("hyper_scale", 2.0)
    (True, False)
    """
    if len(field) > _LONGEST:
        return False
    if field in _TRAINING:
        return True
    words = {word.lower() for word in _WORD.findall(field)}
    if words & _MATHS:
        return False
    if field.startswith(("_", "$", "x_", "x-")) or words & _MARKS:
        return True
    return not words & _CHOICES and _is_text(value)


def _is_text(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_text, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_text, value))
    return value is None or isinstance(value, str)
