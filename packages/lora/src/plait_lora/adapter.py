"""Adapter: a checked adapter in host memory, ready to be copied to a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.errors import AdapterError
from plait_lora.identity import AdapterKey, ModuleContent, TensorContent, content_key
from plait_lora.layout import AdapterLayout, ModuleShape
from plait_lora.weights import ModuleWeights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plait_lora.peft_weights import SiteWeights


@dataclass(frozen=True, eq=False)
class Adapter:
    """One adapter in the host tier.

    Attributes
    ----------
    key : AdapterKey
    modules : Mapping[int, ModuleWeights]
        By site index: a [rank, in_features], b [out_features, rank] in the arena's dtype, scale.
    layout : AdapterLayout
        How its tiles pack into chunks; ``layout.runs`` is what ``AdapterStore.register`` takes.
    groups : frozenset[str]
        Site groups it targets.
    max_rank : int
        The largest rank of a module.
    nbytes : int
        Bytes of host memory that its tensors take.
    """

    key: AdapterKey
    modules: Mapping[int, ModuleWeights]
    layout: AdapterLayout
    groups: frozenset[str]
    max_rank: int
    nbytes: int


@dataclass(frozen=True)
class HostFormat:
    """What every adapter of one engine is brought to.

    Attributes
    ----------
    dtype : torch.dtype
        Of the arena.
    chunk_bytes : int
    tile_rows : int
    """

    dtype: torch.dtype
    chunk_bytes: int
    tile_rows: int


def key_of(weights: Iterable[SiteWeights]) -> AdapterKey:
    """Return the key of what the file says, before any conversion."""
    return content_key(
        {
            each.site.name: ModuleContent(
                each.scale, {"A": _content(each.a), "B": _content(each.b)}
            )
            for each in weights
        }
    )


def build_adapter(
    key: AdapterKey, weights: Sequence[SiteWeights], form: HostFormat, where: str
) -> Adapter:
    """Convert an adapter to the arena's dtype and lay it out.

    Parameters
    ----------
    key : AdapterKey
    weights : Sequence[SiteWeights]
        Not empty.
    form : HostFormat
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
        If a value overflows the arena's dtype.
    """
    # One conversion a tensor: the parts of a packed projection share their A.
    converted: dict[int, torch.Tensor] = {}
    modules: dict[int, ModuleWeights] = {}
    for each in weights:
        for role, tensor in (("A", each.a), ("B", each.b)):
            if id(tensor) not in converted:
                # Of B the transpose lies in one piece, as in a tile: loading is then plain copying.
                rows = tensor if role == "A" else tensor.T
                same = _convert(rows, role, each, form.dtype, where)
                converted[id(tensor)] = same if role == "A" else same.T
        modules[each.site.index] = ModuleWeights(
            a=converted[id(each.a)], b=converted[id(each.b)], scale=each.scale
        )
    layout = AdapterLayout.plan(
        [
            ModuleShape(
                site_index=each.site.index,
                rank=each.a.shape[0],
                in_features=each.site.in_features,
                out_features=each.site.out_features,
            )
            for each in weights
        ],
        chunk_bytes=form.chunk_bytes,
        itemsize=form.dtype.itemsize,
        tile_rows=form.tile_rows,
    )
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in converted.values()}
    return Adapter(
        key=key,
        modules=modules,
        layout=layout,
        groups=frozenset(each.site.group for each in weights),
        max_rank=max(each.a.shape[0] for each in weights),
        nbytes=sum(tensor.untyped_storage().nbytes() for tensor in storages.values()),
    )


def _convert(
    tensor: torch.Tensor, role: str, weights: SiteWeights, dtype: torch.dtype, where: str
) -> torch.Tensor:
    result = tensor.to(dtype).contiguous()
    if result.dtype != tensor.dtype and not bool(torch.isfinite(result).all()):
        msg = (
            f"{where}: lora_{role} of {weights.site.name!r} has values up to "
            f"{float(tensor.abs().max()):.3g}, too large for the adapters' dtype "
            f"{str(dtype).removeprefix('torch.')} (at most {torch.finfo(dtype).max:.3g}). "
            "Serve adapters in bfloat16 or float32."
        )
        raise AdapterError(msg)
    return result


def _content(tensor: torch.Tensor) -> TensorContent:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return TensorContent(
        str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat.numpy().data
    )
