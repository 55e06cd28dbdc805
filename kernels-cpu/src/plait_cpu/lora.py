"""``lora`` over the tiles where they lie: a weight is read once a step, whatever the batch.

The backend ``torch`` runs embedding sites, tiles of a dtype that the library does not take, and the
tokens of mixes with dense entries (bias, output scale, replaced rows); the other tokens of such a
batch stay here. The declaration says so: ``uses=("torch",)``.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from plait_cpu.library import DTYPES, Segments, Sites, load_library
from plait_cpu.lora_tables import BatchView, TableView
from plait_kernels.torch_backend.lora import TorchLora

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite


@dataclass(frozen=True, eq=False)
class Hidden:
    """What shrink leaves to expand.

    Attributes
    ----------
    h : Tensor, float32 [tokens, width]
        Rows in the order of the work list; scales are in it.
    batch : BatchView
    segments : Segments
        The work list.
    dense : object
        What the backend ``torch`` leaves for the tokens of ``batch.dense``.
    """

    h: torch.Tensor
    batch: BatchView
    segments: Segments
    dense: Any


@dataclass(frozen=True, eq=False)
class SitesView:
    """A tuple of sites, as the library reads it."""

    sites: tuple[LoraSite, ...]
    arrays: tuple[Any, ...]
    struct: Sites

    @classmethod
    def of(cls, sites: tuple[LoraSite, ...]) -> SitesView:
        """Describe sites that share an input."""
        arrays = tuple(
            np.array([getattr(site, name) for site in sites], np.int32)
            for name in ("index", "out_features", "out_offset")
        )
        pointers = (array.ctypes.data for array in arrays)
        return cls(sites, arrays, Sites(*pointers, len(sites), sites[0].in_features))


class CpuLora:
    """See ``plait_kernels.ops.lora`` for the contract."""

    def __init__(self) -> None:
        library = load_library()
        self._shrink = library.plait_lora_shrink
        self._expand = library.plait_lora_expand
        self._torch = TorchLora()
        self._table: TableView | None = None
        self._batch: BatchView | None = None
        self._sites: dict[int, SitesView] = {}

    def shrink(self, x: torch.Tensor, sites: tuple[LoraSite, ...], batch: LoraBatch) -> Any:
        """Compute ``x · A`` of every mix in the batch; see the contract."""
        view = self._view(batch)
        segments = view.struct
        if sites[0].group == "embed" or view.table.dtype not in DTYPES or segments is None:
            return self._torch.shrink(x, sites, batch)
        dense = None if view.dense is None else self._torch.shrink(x, sites, view.dense)
        of_sites = self._of(sites)
        x = x if x.stride(1) == 1 else x.contiguous()
        width = view.table.width(of_sites.arrays[0], id(sites))
        h = torch.empty(x.shape[0], width)
        self._shrink(
            DTYPES[x.dtype],
            DTYPES[view.table.dtype],
            x.data_ptr(),
            x.stride(0),
            h.data_ptr(),
            width,
            batch.token_weight.data_ptr(),
            ctypes.byref(view.table.struct),
            ctypes.byref(segments),
            ctypes.byref(of_sites.struct),
            torch.get_num_threads(),
        )
        return Hidden(h, view, segments, dense)

    def expand(
        self, h: Any, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place; see the contract."""
        if not isinstance(h, Hidden):
            self._torch.expand(h, sites, batch, y)
            return
        view = h.batch
        if view.dense is not None:
            self._torch.expand(h.dense, sites, view.dense, y)
        self._expand(
            DTYPES[y.dtype],
            DTYPES[view.table.dtype],
            h.h.data_ptr(),
            h.h.shape[1],
            y.data_ptr(),
            y.stride(0),
            ctypes.byref(view.table.struct),
            ctypes.byref(h.segments),
            ctypes.byref(self._of(sites).struct),
            torch.get_num_threads(),
        )

    def _view(self, batch: LoraBatch) -> BatchView:
        known = self._batch
        if known is not None and known.is_of(batch):
            return known
        if self._table is None or not self._table.is_of(batch.table):
            self._table = TableView(batch.table)
        self._batch = BatchView(batch, self._table)
        return self._batch

    def _of(self, sites: tuple[LoraSite, ...]) -> SitesView:
        # By identity: comparing sites costs more than the call that they are for.
        known = self._sites.get(id(sites))
        if known is None or known.sites is not sites:
            known = self._sites[id(sites)] = SitesView.of(sites)
        return known


def make(config: OpConfig) -> CpuLora:
    """Make the implementation; it takes any config."""
    return CpuLora()
