"""``lora``: one launch each for shrink and expand of a group of sites, whatever the batch.

Both walk work items of a few tokens of one segment. How many there are is data on the device:
programs past the end stop at once, so a captured graph serves any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from plait_triton.launching import LAUNCHER, Launcher, Recorder
from plait_triton.lora_launch import MAX_SITES, GroupLaunch
from plait_triton.lora_parameters import FEW_TOKENS, LoraParameters
from plait_triton.lora_warm_up import LoraCall, calls
from plait_triton.silu_and_mul import SiluAndMul

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from plait_kernels.config import OpConfig
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.lora_cuts import Products
    from plait_triton.variants import Variant


class Hidden(NamedTuple):
    """What shrink leaves to expand.

    Attributes
    ----------
    x : Tensor
    products : tuple[Products, ...]
        Of each launch.
    is_computed : bool
        Whether the products are there; otherwise expand begins with them.
    known : object
        Since when x is known; None: shrink needs no stream of its own.
    """

    x: torch.Tensor
    products: tuple[Products, ...]
    is_computed: bool
    known: Any = None


_Launches: TypeAlias = tuple[GroupLaunch, ...]


class TritonLora:
    """See ``plait_kernels.ops.lora`` for the contract.

    In small steps, and whenever tokens are decoded, shrink runs beside the linear that reads the
    same x, and is launched after it, so that the linear's programs have the first choice of
    multiprocessors. Of a few tokens it does not wait for the linear, and is done when that is. Of
    more, the linear leaves a part of the bandwidth unused: shrink has a stream of its own, from
    when x is known until expand.

    Parameters
    ----------
    config : OpConfig
    parameters : LoraParameters | None
        None: chosen for the config.
    """

    def __init__(
        self,
        config: OpConfig,
        parameters: LoraParameters | None = None,
        launcher: Launcher = LAUNCHER,
    ) -> None:
        self._config = config
        self._launcher = launcher
        self._parameters = parameters or LoraParameters(config.bucket == "decode")
        self._side: Any = None
        self._silu_and_mul = SiluAndMul(config, launcher)
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
        products = tuple(launch.products(x, batch) for launch in launches)
        if not self._parameters.is_large(x.shape[0]):
            is_beside = x.shape[0] > FEW_TOKENS and self._launcher.has_streams(x.device)
            known = self._launcher.mark() if is_beside else None
            return Hidden(x, products, is_computed=False, known=known)
        _shrink(x, products, launches, batch, x_is_known=False)
        return Hidden(x, products, is_computed=True)

    def expand(
        self, h: Hidden | None, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place; see the contract."""
        if h is None:
            return
        launches = self._of(sites)
        if h.known is not None:
            self._shrink_beside(h.x, h.products, h.known, launches, batch)
        elif not h.is_computed:
            _shrink(h.x, h.products, launches, batch, x_is_known=True)
        for launch, products in zip(launches, h.products, strict=True):
            launch.expand(h.x, products, batch, y)

    def expand_silu_and_mul(
        self, h: Hidden | None, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> torch.Tensor:
        """Return what ``silu_and_mul`` makes of ``y`` [tokens, gate | up] after ``expand``.

        In one launch where reading and writing y takes the time. Of small steps y is in the cache,
        and expand, which starts beside the linear, has more programs.
        """
        # Only of large steps shrink has computed them by now.
        if h is None or not h.is_computed:
            self.expand(h, sites, batch, y)
            return self._silu_and_mul(y)
        return self._of(sites)[0].expand_silu(h.x, h.products[0], batch, y)

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernels; see ``plait_kernels.warm_up``."""
        recorder, group = Recorder(facts.device), self._config.get("group")
        if facts.lora is None:
            return ()
        lora = TritonLora(self._config, self._parameters, recorder)
        for sites in facts.lora.groups:
            if sites[0].group == group:
                for call in calls(self._config, facts.lora, sites):
                    lora._make(call)
        return recorder.variants

    def _make(self, call: LoraCall) -> None:
        """Make a call in each of its ways."""
        h = self.shrink(call.x, call.sites, call.batch)
        self.expand(h, call.sites, call.batch, call.y)
        if call.sites[0].group == "gate_up":
            self.expand_silu_and_mul(h, call.sites, call.batch, call.y)

    def _of(self, sites: tuple[LoraSite, ...]) -> _Launches:
        # By identity: comparing sites costs more than the call that they are for.
        known = self._known.get(id(sites))
        if known is None or known[0] is not sites:
            parts = (sites[i : i + MAX_SITES] for i in range(0, len(sites), MAX_SITES))
            known = (
                sites,
                tuple(GroupLaunch(part, self._parameters, self._launcher) for part in parts),
            )
            self._known[id(sites)] = known
        return known[1]

    def _shrink_beside(
        self,
        x: torch.Tensor,
        products: tuple[Products, ...],
        known: Any,
        launches: _Launches,
        batch: LoraBatch,
    ) -> None:
        """Shrink on a stream of its own from ``known`` on; this stream waits for it."""
        if self._side is None:
            self._side = self._launcher.new_stream(x.device)
        with self._launcher.beside(self._side, known):
            _shrink(x, products, launches, batch, x_is_known=False)


def _shrink(
    x: torch.Tensor,
    products: tuple[Products, ...],
    launches: _Launches,
    batch: LoraBatch,
    *,
    x_is_known: bool,
) -> None:
    for launch, product in zip(launches, products, strict=True):
        launch.shrink(x, product, batch, x_is_known=x_is_known)


def make(config: OpConfig) -> TritonLora:
    """Make the implementation; it takes any config."""
    return TritonLora(config)
