"""A kernel for ``sample`` that reads a rule in another way is caught, and so are other mistakes."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from plait_kernels.ops import apply_penalties, kv_write, rotary_embedding, sample

pytest_plugins = ["pytester"]

AGREES = "test_agrees_with_reference"

TOP_K = """    if 0 < top_k < logits.shape[0]:
        weights[scaled < scaled.sort(descending=True).values[top_k - 1]] = 0
"""
MIN_P = "    weights[weights < min_p] = 0\n"
TOP_P = "    if top_p < 1:\n"
DRAWN = "    drawn = uniform("

WRONG_SAMPLE: dict[str, tuple[tuple[str, str], ...]] = {
    "min_p before top_p": ((MIN_P, ""), (TOP_P, MIN_P + TOP_P)),
    "top_p before top_k": ((TOP_K, ""), (DRAWN, TOP_K + DRAWN)),
    "top_k drops ties": (
        (
            "weights[scaled < scaled.sort(descending=True).values[top_k - 1]] = 0",
            "weights[scaled.sort(descending=True, stable=True).indices[top_k:]] = 0",
        ),
    ),
    "top_k of different values": (
        ("scaled.sort(descending=True).values[top_k - 1]", "_kth(scaled, top_k)"),
    ),
    "top_p drops ties": (
        (
            "        for weight in weights.sort(descending=True).values.tolist():\n",
            "        order = weights.sort(descending=True, stable=True)\n"
            "        for place, weight in enumerate(order.values.tolist()):\n",
        ),
        (
            "                weights[weights < weight] = 0\n",
            "                weights[order.indices[place + 1:]] = 0\n",
        ),
    ),
    "top_p leaves out the token that reaches it": (
        ("weights[weights < weight] = 0", "weights[(weights <= weight) & (weights < 1)] = 0"),
    ),
    "top_p adds one more": (("added >= target", "added - weight >= target"),),
    "top_p of all weights together": (
        ("target = 0.0, top_p * float(weights.sum())", "target = 0.0, top_p"),
    ),
    "min_p leaves out its equals": (
        ("weights < min_p", "(weights <= min_p) & (weights.cumsum(0) > weights.max())"),
    ),
    "min_p of probabilities": (("weights < min_p", "weights / weights.sum() < min_p"),),
    "min_p before the temperature": (
        ("weights < min_p", "torch.exp((logits - logits.max()).double()) < min_p"),
    ),
    "no temperature for top_p": (
        (
            "for weight in weights.sort(descending=True).values.tolist():",
            "weights = torch.exp((logits - logits.max()).double()) * (weights > 0)\n"
            "        target = top_p * float(weights.sum())\n"
            "        for weight in weights.sort(descending=True).values.tolist():",
        ),
    ),
    "one temperature for all rows": (
        ("logits / batch.temperature[row]", "logits / batch.temperature.max()"),
    ),
    "the temperature of the row before": (
        ("logits / batch.temperature[row]", "logits / batch.temperature[row - 1].clamp(min=0.3)"),
    ),
    "the number of the row's place": (("int(batch.seed[row])", "int(batch.seed[0]) + row"),),
    "the seed alone": (("int(batch.position[row])", "int(batch.position[0])"),),
    "positions of 32 bits": (
        ("int(batch.position[row])", "int(batch.position[row]) & 0xFFFFFFFF"),
    ),
    "seeds of 32 bits": (("int(batch.seed[row])", "int(batch.seed[row]) & 0xFFFFFFFF"),),
    "the last of equal logits": (("nonzero()[0])\n    scaled", "nonzero()[-1])\n    scaled"),),
    "exp without the largest": (
        ("torch.exp((scaled - scaled.max()).double())", "torch.exp(scaled.double())"),
    ),
    "exp in float32": (("(scaled - scaled.max()).double()", "(scaled - scaled.max())"),),
    "drawn in order of weight": (
        (
            "    cumulative = weights.cumsum(0)\n",
            "    order = weights.sort(descending=True)\n    cumulative = order.values.cumsum(0)\n",
        ),
        (
            "    return int((cumulative > drawn).nonzero()[0])",
            "    return int(order.indices[(cumulative > drawn).nonzero()[0]])",
        ),
    ),
}

FURTHER = """

def _kth(scaled, top_k):
    values = scaled.unique().flip(0)
    return values[min(top_k, len(values)) - 1]

make = reference
"""

OTHERS: dict[str, tuple[Any, str, str]] = {
    "each token counted once": (apply_penalties, "output.count(token)", "1"),
    "the prompt counted too": (
        apply_penalties,
        "output = history[int(batch.prompt_length[row]) :]",
        "output = history",
    ),
    "repetition of the output only": (
        apply_penalties,
        "for token in set(history)",
        "for token in set(output)",
    ),
    "repetition divides what is negative": (
        apply_penalties,
        "logit / repetition if logit > 0 else logit * repetition",
        "logit / repetition",
    ),
    "presence for each token": (apply_penalties, "for token in set(output)", "for token in output"),
    "the first penalty of all rows": (apply_penalties, "batch.presence[row]", "batch.presence[0]"),
    "-1 is the last slot": (kv_write, "if slot == -1:", "if False:"),
    "a token that is skipped ends the batch": (kv_write, "continue", "break"),
    "values where keys belong": (kv_write, "] = v[token]", "] = k[token]"),
    "pairs that lie side by side": (
        rotary_embedding,
        "head[:, :half].double(), head[:, half : 2 * half].double()",
        "head[:, 0 : 2 * half : 2].double(), head[:, 1 : 2 * half : 2].double()",
    ),
}


@pytest.mark.parametrize("changes", WRONG_SAMPLE.values(), ids=WRONG_SAMPLE.keys())
def test_rules_of_sample(
    install: Any, run_pytest: Any, changes: tuple[tuple[str, str], ...]
) -> None:
    source = inspect.getsource(sample)
    for right, wrong in changes:
        assert right in source
        source = source.replace(right, wrong)
    install(source + FURTHER, op="sample")
    run = run_pytest("-x", "-k", f"{AGREES} and decode and not wide and not many")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages


@pytest.mark.parametrize(("op", "right", "wrong"), OTHERS.values(), ids=OTHERS.keys())
def test_rules_of_others(install: Any, run_pytest: Any, op: Any, right: str, wrong: str) -> None:
    source = inspect.getsource(op)
    assert right in source
    name = op.__name__.rpartition(".")[2]
    install(source.replace(right, wrong) + "\n\nmake = reference\n", op=name)
    run = run_pytest("-x", "-k", f"{AGREES} and decode and not wider and not many")
    assert run.failed == {AGREES}
    assert "differs from the reference" in run.messages
