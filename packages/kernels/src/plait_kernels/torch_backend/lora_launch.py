"""Prepared calls of the ``torch`` backend's ``lora``: views into the arena, ready to multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from plait_kernels.torch_backend.lora_dense import DenseSite, dense_site

if TYPE_CHECKING:
    from plait_kernels.sites import LoraSite
    from plait_kernels.torch_backend.lora_bundles import Bundle
    from plait_kernels.torch_backend.lora_slots import Run, SlotTable


class Down(NamedTuple):
    """One matmul of shrink.

    ``a`` is [in_features, rows], or [places, in_features, rows] of several places; of an
    ``embed`` site it is [rows, vocabulary]. ``scale`` [places, 1, rows] multiplies h; it is None
    where ``Up.alpha`` has the scale.
    """

    a: torch.Tensor
    scale: torch.Tensor | None


class Up(NamedTuple):
    """One matmul of expand: ``y += alpha * (h[source][..., first:first + rows] @ b)``."""

    source: int
    first: int
    rows: int
    b: torch.Tensor
    alpha: float


class SiteLaunch(NamedTuple):
    """What one site does to its columns, counted from ``Launch.column``."""

    column: int
    width: int
    ups: tuple[Up, ...]
    dense: DenseSite | None


@dataclass(frozen=True, eq=False)
class Launch:
    """All matmuls of one bundle at the sites of one call, and the columns of y that they touch."""

    downs: tuple[Down, ...]
    sites: tuple[SiteLaunch, ...]
    column: int
    width: int
    has_dense: bool


class _Part(NamedTuple):
    """A run, and its scale at each place (that of the first place, for a hole)."""

    run: Run
    scales: tuple[float, ...]


def prepare(tables: SlotTable, bundle: Bundle, sites: tuple[LoraSite, ...]) -> Launch | None:
    """Prepare the matmuls of a bundle; None where its adapters do nothing at these sites."""
    parts = [_parts(tables, bundle, site) for site in sites]
    downs = _join([part for of_site in parts for part in of_site], sites[0].group)
    where = {}
    uniform = []
    for source, members in enumerate(downs):
        uniform.append(all(len(set(part.scales)) == 1 for part in members))
        row = 0
        for part in members:
            where[id(part)] = source, row
            row += part.run.rows
    launches = []
    first = bundle.slots[0]
    assert first is not None
    for site, of_site in zip(sites, parts, strict=True):
        ups = []
        for part in of_site:
            source, row = where[id(part)]
            run = part.run
            b = _view(tables, bundle, run.b, (run.rows, site.out_features), (run.b_stride, 1))
            alpha = part.scales[0] if uniform[source] else 1.0
            ups.append(Up(source, row, run.rows, b, alpha))
        dense = dense_site(tables, first.number, site) if first.has_dense else None
        if ups or dense is not None:
            launches.append(SiteLaunch(site.out_offset, site.out_features, tuple(ups), dense))
    if not launches:
        return None
    column = min(launch.column for launch in launches)
    return Launch(
        downs=tuple(
            _down(tables, bundle, members, sites[0], has_scale=not same)
            for members, same in zip(downs, uniform, strict=True)
        ),
        sites=tuple(launch._replace(column=launch.column - column) for launch in launches),
        column=column,
        width=max(launch.column + launch.width for launch in launches) - column,
        has_dense=any(launch.dense is not None for launch in launches),
    )


def _parts(tables: SlotTable, bundle: Bundle, site: LoraSite) -> list[_Part]:
    first = bundle.slots[0]
    assert first is not None
    return [
        _Part(run, tuple(tables.scale(slot or first, site, run) for slot in bundle.slots))
        for run in tables.runs(first, site)
    ]


def _join(parts: list[_Part], group: str) -> list[list[_Part]]:
    """Put runs together whose A rows follow each other at one distance: they share a matmul."""
    joined: list[list[_Part]] = []
    for part in parts:
        run = part.run
        if joined and group != "embed":
            last = joined[-1][-1].run
            if run.a_stride == last.a_stride and run.a == last.a + last.rows * last.a_stride:
                joined[-1].append(part)
                continue
        joined.append([part])
    return joined


def _down(
    tables: SlotTable, bundle: Bundle, members: list[_Part], site: LoraSite, *, has_scale: bool
) -> Down:
    run = members[0].run
    rows = sum(part.run.rows for part in members)
    if site.group == "embed":
        a = _view(tables, bundle, run.a, (rows, site.in_features), (run.a_stride, 1))
    else:
        a = _view(tables, bundle, run.a, (site.in_features, rows), (1, run.a_stride))
    if not has_scale:
        return Down(a, None)
    scale = torch.tensor([part.scales for part in members], device=a.device)
    repeats = torch.tensor([part.run.rows for part in members], device=a.device)
    return Down(a, scale.repeat_interleave(repeats, 0).T.unsqueeze(1))


def _view(
    tables: SlotTable, bundle: Bundle, offset: int, size: tuple[int, int], stride: tuple[int, int]
) -> torch.Tensor:
    flat, first = tables.flat, bundle.slots[0]
    assert first is not None
    begin = flat.storage_offset() + first.base + offset
    if len(bundle.slots) == 1:
        return flat.as_strided(size, stride, begin)
    return flat.as_strided((len(bundle.slots), *size), (bundle.stride, *stride), begin)
