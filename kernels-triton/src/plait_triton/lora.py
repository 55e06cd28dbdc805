"""``lora``: one launch each for shrink and expand of a group of sites, whatever the batch.

Both walk work items of a few tokens of one segment. How many there are is data on the device:
programs past the end stop at once, so a captured graph serves any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from plait_triton.lora_launch import MAX_SITES, GroupLaunch, Products
from plait_triton.lora_parameters import FEW_TOKENS, LoraParameters

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite


class Hidden(NamedTuple):
    """What shrink leaves to expand.

    Attributes
    ----------
    x : Tensor
    products : tuple[Products, ...]
        Of each launch.
    known : torch.cuda.Event | None
        Since when x is known; None: the products are computed.
    """

    x: torch.Tensor
    products: tuple[Products, ...]
    known: torch.cuda.Event | None


_Launches: TypeAlias = tuple[GroupLaunch, ...]


class TritonLora:
    """See ``plait_kernels.ops.lora`` for the contract.

    When a few dozen tokens are decoded, shrink runs beside the linear that follows it, which leaves
    a part of the bandwidth unused: on a stream of its own, from when x is known until expand. It is
    launched after the linear, whose programs shall have the first choice of multiprocessors.

    Parameters
    ----------
    config : OpConfig
    parameters : LoraParameters | None
        None: chosen for the config.
    """

    def __init__(self, config: OpConfig, parameters: LoraParameters | None = None) -> None:
        self._is_decode = config.bucket == "decode"
        self._parameters = parameters or LoraParameters(self._is_decode)
        self._side: torch.cuda.Stream | None = None
        self._known: dict[int, tuple[tuple[LoraSite, ...], _Launches]] = {}

    def shrink(
        self, x: torch.Tensor, sites: tuple[LoraSite, ...], batch: LoraBatch
    ) -> Hidden | None:
        """Compute ``x · A`` of every mix in the batch; None where no mix can do anything."""
        table = batch.table
        if not x.shape[0] or not (table.max_tiles or table.max_dense):
            return None
        if x.stride(-1) != 1:
            x = x.contiguous()
        launches = self._of(sites)
        # Before the linear, which may leave memory behind that it still uses.
        products = tuple(launch.products(x, table) for launch in launches)
        if self._is_decode and x.is_cuda and x.shape[0] > FEW_TOKENS:
            return Hidden(x, products, torch.cuda.current_stream().record_event())
        for launch, product in zip(launches, products, strict=True):
            launch.shrink(x, product, batch)
        return Hidden(x, products, None)

    def expand(
        self, h: Hidden | None, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place; see the contract."""
        if h is None:
            return
        launches = self._of(sites)
        if h.known is not None:
            self._shrink_beside(h.x, h.products, h.known, launches, batch)
        for launch, products in zip(launches, h.products, strict=True):
            launch.expand(h.x, products, batch, y)

    def _of(self, sites: tuple[LoraSite, ...]) -> _Launches:
        # By identity: comparing sites costs more than the call that they are for.
        known = self._known.get(id(sites))
        if known is None or known[0] is not sites:
            parts = (sites[i : i + MAX_SITES] for i in range(0, len(sites), MAX_SITES))
            known = sites, tuple(GroupLaunch(part, self._parameters) for part in parts)
            self._known[id(sites)] = known
        return known[1]

    def _shrink_beside(
        self,
        x: torch.Tensor,
        products: tuple[Products, ...],
        known: torch.cuda.Event,
        launches: _Launches,
        batch: LoraBatch,
    ) -> None:
        """Shrink on a stream of its own from ``known`` on; this stream waits for it."""
        if self._side is None:
            self._side = torch.cuda.Stream(x.device)
        self._side.wait_event(known)
        with torch.cuda.stream(self._side):
            for launch, product in zip(launches, products, strict=True):
                launch.shrink(x, product, batch)
        torch.cuda.current_stream().wait_stream(self._side)


def make(config: OpConfig) -> TritonLora:
    """Make the implementation; it takes any config."""
    return TritonLora(config)
