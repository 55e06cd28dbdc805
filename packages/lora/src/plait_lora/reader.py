"""AdapterReader: from files or tensors to a checked adapter. Keeps no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import safetensors.torch

from plait_kernels.errors import AdapterError
from plait_lora.adapter import Adapter, HostFormat, build_adapter, key_of
from plait_lora.files import AdapterStat, read_adapter
from plait_lora.peft_config import PeftConfig, decode_config
from plait_lora.peft_weights import SiteWeights, parse_weights
from plait_lora.safetensors_header import damaged, read_header
from plait_lora.target_modules import keep_target_modules

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_lora.adapter_room import AdapterRoom
    from plait_lora.identity import AdapterKey
    from plait_lora.request import LoRARequest
    from plait_lora.tensor_checks import Sites

_HEADER_BYTES = 1 << 20
_HEADER_BYTES_A_SITE = 2 << 10
"""What a header may have: a site has two tensors, whose entries have some 200 bytes each."""


@dataclass(frozen=True, eq=False)
class ReadAdapter:
    """What was read for a handle.

    Attributes
    ----------
    request : LoRARequest
    stat : AdapterStat
        Of the files that were read.
    adapter : Adapter
    """

    request: LoRARequest
    stat: AdapterStat
    adapter: Adapter


@dataclass(frozen=True)
class AdapterReader:
    """Reads and checks adapters for one model.

    Attributes
    ----------
    sites : Sites
    form : HostFormat
    max_lora_rank : int | None
    target_modules : frozenset[str] | None
        Names of the modules that adapters act on; None = all.
    room : AdapterRoom
        The memory that an adapter may take.
    """

    sites: Sites
    form: HostFormat
    max_lora_rank: int | None
    target_modules: frozenset[str] | None
    room: AdapterRoom

    def read(self, request: LoRARequest, where: str) -> ReadAdapter:
        """Read the files of a handle, once; AdapterError if they cannot be honoured exactly.

        Names, shapes and sizes are checked by the header of the weights, so that no more data are
        read than an adapter of this model can have.
        """
        with read_adapter(request.path, where) as files:
            # The config is checked first: of an adapter that is not served at all it says why.
            config = PeftConfig.parse(decode_config(files.config, where), where)
            longest = _HEADER_BYTES + _HEADER_BYTES_A_SITE * len(self.sites.index.modules)
            header = read_header(files.weights, longest, where)
            self.room.check(self._parse(config, header, where), files.weights.stat.size, where)
            tensors = _decode_tensors(files.weights.whole(), where)
        weights = self._parse(config, tensors, where)
        adapter = build_adapter(key_of(weights), weights, self.form, where)
        return ReadAdapter(request, files.stat, adapter)

    def build(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        where: str,
        key: AdapterKey,
    ) -> Adapter:
        """Check tensors in memory and copy them; AdapterError as ``read``."""
        parsed = PeftConfig.parse(config, where)
        own = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return build_adapter(key, self._parse(parsed, own, where), self.form, where)

    def _parse(
        self, config: PeftConfig, tensors: Mapping[str, torch.Tensor], where: str
    ) -> tuple[SiteWeights, ...]:
        weights = parse_weights(config, tensors, self.sites, where)
        if self.target_modules is not None:
            weights = keep_target_modules(weights, self.target_modules, where)
        highest = max(weights, key=lambda each: each.a.shape[0])
        rank = highest.a.shape[0]
        if self.max_lora_rank is not None and rank > self.max_lora_rank:
            msg = (
                f"{where}: {highest.site.name!r} has rank {rank}, more than max_lora_rank "
                f"{self.max_lora_rank}. Raise max_lora_rank (None: no cap), or use an adapter of "
                "lower rank."
            )
            raise AdapterError(msg)
        return weights


def _decode_tensors(data: bytes, where: str) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    except Exception as error:  # whatever the library makes of bytes that anybody may have written
        raise damaged(str(error), where) from error
    return tensors
