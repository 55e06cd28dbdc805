"""Fill a model's tensors: from a weight file, checked by name and shape, or with random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from plait_kernels.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plait_models.files.source import WeightSource

    Report: TypeAlias = Callable[[int, int], None]

_SHOWN = 8
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
    reads = _match(source, targets, tied)
    total = sum(source.entries[name].nbytes for name in reads)
    done = 0
    report(done, total)
    for name, target in reads.items():
        targets[target].copy_(source.read(name))
        done += source.entries[name].nbytes
        report(done, total)
    for name, target in tied.items():
        if name in source.entries and name not in reads:
            _check_tied(source, name, target, targets[target])


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


def _match(
    source: WeightSource, targets: Mapping[str, torch.Tensor], tied: Mapping[str, str]
) -> dict[str, str]:
    """Tell which tensor of the file goes to which target."""
    reads, unexpected = {}, []
    for name in source.entries:
        if name in targets:
            reads[name] = name
        elif name in tied:
            # A file may hold the pair under this name alone.
            if tied[name] not in source.entries:
                reads[name] = tied[name]
        elif not name.endswith("rotary_emb.inv_freq"):
            unexpected.append(name)
    missing = sorted(set(targets) - set(reads.values()))
    shapes = [
        f"{name} {list(source.entries[name].shape)} instead of {list(targets[target].shape)}"
        for name, target in reads.items()
        if source.entries[name].shape != tuple(targets[target].shape)
    ]
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        message = (
            f"{source.origin}: the weights do not fit the config: {'; '.join(faults)}. Use the "
            "weights and the config of one model"
        )
        raise ModelError(message)
    return reads


def _check_tied(source: WeightSource, name: str, target: str, weight: torch.Tensor) -> None:
    held = source.read(name)
    same_shape = held.shape == weight.shape
    if not same_shape or not torch.equal(held.to(weight.device, weight.dtype), weight):
        message = (
            f"{source.origin}: the config says tie_word_embeddings, but the file holds a {name} "
            f"that differs from {target}. Set tie_word_embeddings to false in the config"
        )
        raise ModelError(message)
