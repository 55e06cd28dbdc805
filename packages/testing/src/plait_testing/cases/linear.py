"""Cases of ``linear``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS
from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import MANY_TIMES, every_size, of_any_size, usual_calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_kernels.config import Scalar
    from plait_testing.calls import Calls


def case(
    name: str,
    tokens: int,
    in_features: int = 40,
    out_features: int = 24,
    *,
    bias: bool = True,
    padding: int = 0,
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
    keeps_outputs: bool = False,
    **inputs: Any,
) -> Case:
    """Make a case with a dense weight; ``padding`` > 0 strides the rows of x."""
    shape = {"in_features": in_features, "out_features": out_features, "bias": bias}
    made = {**shape, "tokens": tokens, "padding": padding, **inputs}
    params: dict[str, Scalar] = {**shape, "format": "dense"}
    most = max(4100 if is_large else 64, tokens)
    return Case(
        name,
        params,
        made,
        further=further,
        max_tokens=most,
        is_large=is_large,
        keeps_outputs=keeps_outputs,
        has_nan="bad_row" in inputs,
    )


def make(seed: int, *, scale: float = 1.0, bad_row: int = -1, **shape: Any) -> Any:
    """Make the arguments: activations times ``scale``, and a row of NaN if one is named."""
    made: Any = load_op("linear").inputs(seed, **shape)
    x, weight = made
    x.mul_(scale)
    if bad_row >= 0:
        x[bad_row] = float("nan")
    return x, weight


def prepare(kernel: Any, arguments: Any) -> Any:
    """Put the prepared weight in the place of the dense one."""
    x, weight = arguments
    return x, kernel.prepare(weight)


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return the product of what is positive."""
    x, weight = arguments
    product: torch.Tensor = x.abs() @ weight.weight.abs().T
    return product if weight.bias is None else product + weight.bias.abs()


def calls(calls: Calls) -> None:
    """Besides the usual, prepare several weights first and call with them in turn."""
    if calls.subject.case.is_large:
        every_size(calls)
        return
    several_weights(calls)
    a_weight_of_the_other_bucket(calls)
    usual_calls(calls)


def several_weights(calls: Calls) -> None:
    """Prepare three weights, as layers have them, and call with each, more than once."""
    made = [calls.make(0, further) for further in range(3)]
    prepared = [calls.prepare(arguments)[1] for arguments in made]
    later: Any = None
    for further, layer in enumerate((0, 1, 2, 1, 0, 0, 2)):
        if further == 3:
            later = calls.make(0, 3)
            prepared.append(calls.prepare(later)[1])
            made.append(later)
        x = calls.make(further % calls.variants, 20 + further)[0]
        context = f"with weight {layer + 1} of {len(prepared)} that are prepared"
        calls.call(context, (x, made[layer][1]), prepared=(x, prepared[layer]))


def a_weight_of_the_other_bucket(calls: Calls) -> None:
    """Kernels of one layout share what is prepared: call with what another kernel prepared."""
    subject = calls.subject
    bucket = next(name for name in BUCKETS if name != subject.bucket)
    if subject.kernel.supports(subject.case.config("linear", subject.dtype, bucket)):
        return
    other = subject.make(bucket)
    if other.layout != calls.implementation.layout:
        return
    arguments = calls.make(0, 30)
    prepared = calls.prepare(arguments, by=other)
    calls.call(f"with a weight prepared for bucket {bucket}", arguments, prepared=prepared)


UNKNOWN: dict[str, Scalar] = {
    "in_features": 40,
    "out_features": 24,
    "bias": True,
    "format": "no-such-format",
}

CASES = OpCases(
    "linear",
    (
        case("no_token", 0),
        case("one_token", 1),
        case("ragged", 7),
        case("more_tokens", 33),
        case("without_bias", 7, bias=False),
        case("one_by_one", 5, 1, 1),
        case("odd_features", 9, 37, 29),
        case("wide", 3, 328, 136),
        case("strided", 7, padding=8),
        case("strided_odd", 11, 37, 29, padding=3),
        case("even_features", 5, 512, 64, is_large=True),
        case("large_numbers", 5, scale=500.0),
        case("bad_row", 6, bad_row=2),
        case("many_tokens", 520, 24, 17, is_large=True),
        case("one_token_wide", 1, 4104, 24, is_large=True),
        case("wide_4096", 3, 4096, 17, is_large=True),
        case("wide_4104", 20, 4104, 17, is_large=True),
        case("wide_8200", 3, 8200, 17, is_large=True),
        case("wide_16392", 3, 16392, 9, is_large=True),
        case("tall_4104", 3, 24, 4104, is_large=True),
        case("tall_16392", 2, 16, 16392, bias=False, is_large=True),
        case("tall_131080", 2, 9, 131_080, bias=False, is_large=True),
        case("calls", 7, further=({"tokens": 1}, {"tokens": 33}, {"tokens": 3, "padding": 8})),
        case(
            "many_times",
            3,
            24,
            17,
            further=of_any_size(tokens=(2,) * MANY_TIMES),
            is_large=True,
            keeps_outputs=True,
        ),
        case(
            "calls_of_many_tokens",
            8195,
            16,
            9,
            further=of_any_size(tokens=(4101, 2050)),
            is_large=True,
        ),
        case("calls_of_any_size", 4099, 40, 24, further=of_any_size(tokens=MANY), is_large=True),
        Case("unknown_format", UNKNOWN, has_reference=False, is_nonsense=True),
    ),
    ("x", "weight"),
    lambda kernel, arguments: kernel(*arguments),
    calls=calls,
    prepare=prepare,
    magnitude=magnitude,
    # Weights are prepared once; nothing changes them between steps.
    fixed=frozenset({"weight.weight", "weight.bias"}),
    is_contiguous=True,
    make=make,
)
