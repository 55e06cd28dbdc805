"""The sizes that steps are padded to, and the site sets that most of them have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from plait_kernels.sites import LoraSite

SiteSet: TypeAlias = frozenset[str]
"""The site groups on which the adapters of a step act."""

MOST_MIXED_TOKENS = 512
"""Steps with a prompt in them and more tokens than this keep a device busy for longer than the host
takes to launch their kernels one by one: padding them would cost more than it saves."""

_MIXED_STRIDE = 64


@dataclass(frozen=True)
class StepSize:
    """Room for a step.

    Attributes
    ----------
    tokens, rows : int
        The most that it has; each at least 1.
    is_decode : bool
        Whether every row runs one token and draws the next; then there are as many tokens as rows.
    """

    tokens: int
    rows: int
    is_decode: bool


def decode_sizes(max_rows: int) -> tuple[StepSize, ...]:
    """Return the sizes of decode steps of up to ``max_rows`` rows, ascending.

    Close together where a row more costs little beside the weights, further apart above, so that
    there are few graphs: 1, 2, 4, then every 8th to 64, every 16th to 128, every 32nd.

    >>> [size.rows for size in decode_sizes(40)]
    [1, 2, 4, 8, 16, 24, 32, 40]
    """
    steps = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, max_rows, 32)]
    counts = (*(count for count in steps if count < max_rows), max_rows)
    return tuple(StepSize(count, count, is_decode=True) for count in counts)


def mixed_sizes(max_rows: int, max_tokens: int) -> tuple[StepSize, ...]:
    """Return the sizes of small steps in which prompts run, alone or beside decoding rows.

    Ascending, up to ``max_tokens`` or ``MOST_MIXED_TOKENS`` tokens.

    >>> [(size.tokens, size.rows) for size in mixed_sizes(100, 200)]
    [(64, 64), (128, 100), (192, 100), (200, 100)]
    """
    most = min(max_tokens, MOST_MIXED_TOKENS)
    counts = (*range(_MIXED_STRIDE, most, _MIXED_STRIDE), most)
    return tuple(StepSize(count, min(count, max_rows), is_decode=False) for count in counts)


def common_site_sets(
    sites: Iterable[LoraSite], target_modules: Collection[str] | None
) -> tuple[SiteSet, ...]:
    """Return the site sets that most steps will have, ascending.

    None; that of the queries, keys and values, which PEFT's adapters of a Llama target unless they
    are told otherwise; and that of all linears of a layer.

    Parameters
    ----------
    sites : Iterable[LoraSite]
        Of the model.
    target_modules : Collection[str] | None
        Names of the modules on which adapters are served; None: all.
    """
    every = frozenset(
        site.group
        for site in sites
        if site.group not in ("embed", "head")
        and (target_modules is None or site.name.rpartition(".")[2] in target_modules)
    )
    return tuple(dict.fromkeys((frozenset[str](), every & {"qkv"}, every)))
