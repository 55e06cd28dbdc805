"""Keywords of vLLM's that nothing in plait acts on, by subject, each with its rule."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.devices import DEVICES
from plait.keyword_tables.kernels import KERNELS
from plait.keyword_tables.media import MEDIA
from plait.keyword_tables.models import MODELS
from plait.keyword_tables.older import OLDER
from plait.keyword_tables.outputs import OBSERVATION, OUTPUTS
from plait.keyword_tables.rules import Refused, Rule, WithoutEffect
from plait.keyword_tables.scheduling import MEMORY, SCHEDULING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RULES", "SUBJECTS", "Refused", "Rule", "WithoutEffect"]

SUBJECTS: Mapping[str, Mapping[str, Rule]] = MappingProxyType(
    {
        "Models": MODELS,
        "Requests and outputs": OUTPUTS,
        "Scheduling": SCHEDULING,
        "Memory": MEMORY,
        "Kernels": KERNELS,
        "Several devices": DEVICES,
        "Images, video and sound": MEDIA,
        "Logs, metrics and traces": OBSERVATION,
        "Older keywords": OLDER,
    }
)
"""The tables, each by keyword."""

RULES: Mapping[str, Rule] = MappingProxyType(
    {name: rule for table in SUBJECTS.values() for name, rule in table.items()}
)
"""All of them."""
