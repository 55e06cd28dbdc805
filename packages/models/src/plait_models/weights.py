"""Fill a model's tensors: from a weight file, checked by name and shape, or with random numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import torch

from plait_kernels.errors import ModelError
from plait_models.files.opening import shortened
from plait_models.files.source import FLOATING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from plait_models.files.source import WeightSource

    Report: TypeAlias = Callable[[int, int], None]

_SHOWN = 8
_PREFIX = "model."

_LEFTOVER = re.compile(
    r"(.+\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached|original_inv_freq)"
    r"|(.+\.)?(v_head|value_head|reward_head|score)\..+"
    r"|(.+\.)?(self_attn|attn)\.(masked_bias|bias|causal_mask)"
    r"|(.+\.)?position_ids|(.+\.)?_extra_state"
)
"""Names of what older versions and trainers leave in a file and no answer depends on: tables of
rotary embeddings, masks, positions, and heads for rewards."""

_QUANTISED = re.compile(r"\.(qweight|qzeros|scales|biases|g_idx|weight_scale\w*|absmax|SCB)$")
_DUMMY_STD = 0.02
_DUMMY_NORM_STD = 0.1


def copy_weights(
    source: WeightSource,
    targets: Mapping[str, torch.Tensor],
    *,
    tied: Mapping[str, str],
    report: Report,
) -> None:
    """Copy every tensor of a file into its target, converting dtype and device on the way.

    Parameters
    ----------
    source : WeightSource
    targets : Mapping[str, Tensor]
        By name, views of the packed matrices included. All are filled.
    tied : Mapping[str, str]
        Names that need not be in the file, and the target each must be equal to if it is.
    report : Callable[[int, int], None]
        Called with bytes done and bytes in all, first with 0.

    Raises
    ------
    ModelError
        Names every missing, unexpected and wrong-shaped tensor, before any is read; also if a
        tied tensor differs from the one that it is tied to.
    """
    reads = match_weights(source, {n: tuple(t.shape) for n, t in targets.items()}, tied)
    total = sum(source.entries[name].nbytes for name in reads)
    done = 0
    report(done, total)
    for name, target in reads.items():
        targets[target].copy_(source.read(name))
        done += source.entries[name].nbytes
        report(done, total)
    prefix = prefix_of(source, targets)
    for name, target in tied.items():
        held = name if name in source.entries else name.removeprefix(prefix)
        if held in source.entries and held not in reads:
            _check_tied(source, held, target, targets[target])


def fill_with_dummies(targets: Mapping[str, torch.Tensor], *, seed: int, report: Report) -> None:
    """Fill every target with random numbers by which activations stay finite.

    Matrices are normal with a deviation of 0.02, vectors of norms too, around 1. The numbers
    depend on ``seed``, the dtype and the kind of device.
    """
    total = sum(target.nbytes for target in targets.values())
    done = 0
    report(done, total)
    device = next(iter(targets.values())).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, target in targets.items():
        if name.endswith("norm.weight"):
            target.normal_(1.0, _DUMMY_NORM_STD, generator=generator)
        else:
            target.normal_(0.0, _DUMMY_STD, generator=generator)
        done += target.nbytes
        report(done, total)


def prefix_of(source: WeightSource, targets: Collection[str]) -> str:
    """Tell what the names of a file lack: ``"model."`` if it holds the network without its head."""
    entries = source.entries
    with_prefix = any(name.startswith(_PREFIX) for name in entries)
    without = any(f"{_PREFIX}{name}" in targets for name in entries)
    return _PREFIX if without and not with_prefix else ""


def match_weights(
    source: WeightSource, shapes: Mapping[str, tuple[int, ...]], tied: Mapping[str, str]
) -> dict[str, str]:
    """Tell which tensor of a file goes to which target, reading none.

    Parameters
    ----------
    source : WeightSource
    shapes : Mapping[str, tuple[int, ...]]
        Of every target.
    tied : Mapping[str, str]
        As in ``copy_weights``.

    Raises
    ------
    ModelError
        Names every missing, unexpected and wrong-shaped tensor.
    """
    prefix = prefix_of(source, shapes)
    reads, unexpected = {}, []
    for held in source.entries:
        name = held if held in shapes or held in tied else f"{prefix}{held}"
        if name in shapes:
            reads[held] = name
        elif name in tied:
            # A file may hold the pair under this name alone.
            if not {tied[name], tied[name].removeprefix(prefix)} & source.entries.keys():
                reads[held] = tied[name]
        elif not _LEFTOVER.fullmatch(held):
            unexpected.append(held)
    missing = sorted(set(shapes) - set(reads.values()))
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", [shortened(name)[1:-1] for name in unexpected]),
            ("of another shape", _other_shapes(source, reads, shapes)),
        )
        if names
    ]
    if faults:
        message = (
            f"{source.origin}: the weights do not fit the config: {'; '.join(faults)}. "
            f"{_remedy(missing, unexpected)}"
        )
        raise ModelError(message)
    _check_dtypes(source, reads)
    return reads


def _other_shapes(
    source: WeightSource, reads: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    return [
        f"{name} {list(source.entries[name].shape)} instead of {list(shapes[target])}"
        for name, target in reads.items()
        if source.entries[name].shape != shapes[target]
    ]


def _remedy(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if any(_QUANTISED.search(name) for name in unexpected):
        return "These are quantised weights, which are not supported; use the unquantised model"
    if list(missing) == ["lm_head.weight"]:
        return (
            "The file holds no head: use one saved with it (LlamaForCausalLM), or set "
            "tie_word_embeddings to true if the model's head is its embedding"
        )
    return "Use the weights and the config of one model"


def _check_dtypes(source: WeightSource, reads: Collection[str]) -> None:
    for name in reads:
        dtype = source.entries[name].dtype
        if dtype not in FLOATING:
            message = (
                f"{source.origin}: {name} is of dtype {dtype}; allowed: {', '.join(FLOATING)}. "
                "Quantised weights are not supported; use the unquantised model"
            )
            raise ModelError(message)


def _check_tied(source: WeightSource, name: str, target: str, weight: torch.Tensor) -> None:
    held = source.read(name)
    same_shape = held.shape == weight.shape
    if not same_shape or not torch.equal(held.to(weight.device, weight.dtype), weight):
        message = (
            f"{source.origin}: the config says tie_word_embeddings, but the file holds a {name} "
            f"that differs from {target}. Set tie_word_embeddings to false in the config"
        )
        raise ModelError(message)
