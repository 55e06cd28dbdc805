"""Keywords of an engine: those that plait acts on, those of vLLM's that it knows, and typos."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any

from plait.keyword_tables import RULES, WithoutEffect
from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_logger = logging.getLogger(__name__)


def check_others(given: Mapping[str, Any], honoured: Iterable[str]) -> None:
    """Check the keywords that plait does not act on; one log line names those without effect.

    Parameters
    ----------
    given : Mapping[str, Any]
        Keywords of ``LLM`` or ``EngineArgs``, without those that plait acts on.
    honoured : Iterable[str]
        Names that plait acts on, for hints.

    Raises
    ------
    InputError
        For a keyword that is unknown (the nearest known one is named), or that asks for something
        that plait does not do.
    """
    idle = []
    for name, value in given.items():
        rule = RULES.get(name)
        if rule is None:
            near = difflib.get_close_matches(name[:80], sorted({*honoured, *RULES}), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the documentation of EngineArgs"
            text = f"unknown keyword {shown(name)}: {hint}"
            raise InputError(text)
        rule.check(name, value)
        if isinstance(rule, WithoutEffect) and not asks_for_nothing(value):
            idle.append(name)
    if idle:
        _logger.info("accepted without effect: %s", ", ".join(sorted(idle)))
