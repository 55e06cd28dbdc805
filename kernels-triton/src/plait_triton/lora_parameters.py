"""Block sizes of the ``lora`` kernels: functions of shapes that the host knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait_triton.sizes import ceil_div, power_of_two

FEW_TOKENS = 8
"""Of up to so many tokens, the rank rows of each site are multiplied by other programs."""

SOME_TOKENS, MANY_TOKENS = 32, 1024
"""Up to so many tokens, of small steps and of others, more programs share the input columns."""

SMALL_STEP = 512
"""Steps of up to so many tokens are cut as if all were decoded, though some be of prompts: most
mixes have a token or two in them, and what takes the time is reading the tiles."""

SHRINK_PROGRAMS = 528
"""Four for each of the 132 multiprocessors of an H100."""

EXPAND_PROGRAMS, EXPAND_MANY_PROGRAMS = 396, 792
"""Three and six."""

FEW_TILES = 2
"""Where the longest mix has more tiles at a site, mixes may differ so much that expand is cut
finer."""


@dataclass(frozen=True)
class ShrinkParameters:
    """How shrink is cut.

    Attributes
    ----------
    tokens : int
        Most tokens of a work item.
    chunks : int
        Programs that share the rank rows of a work item.
    rows, columns : int
        Rank rows and input columns that a program multiplies at a time, where ``chunks`` times
        ``rows`` are enough for all rank rows.
    many_rows, many_columns : int
        The same where they are not.
    programs : int
        As many programs share the input columns of all work items, but for those that share their
        rank rows.
    pieces : int
        The most of them for one work item; their sums are added by expand.
    one : bool
        Whether work items of one token are multiplied without tensor cores.
    plan : bool
        Whether expand's plan is written; its work items must be of as many tokens.
    warps, stages : int
    """

    tokens: int
    chunks: int
    rows: int
    columns: int
    many_rows: int
    many_columns: int
    programs: int
    pieces: int
    one: bool
    plan: bool
    warps: int
    stages: int


@dataclass(frozen=True)
class ExpandParameters:
    """How expand is cut.

    Attributes
    ----------
    tokens : int
        Most tokens of a work item.
    few_tokens : int
        Work items of so many tokens are as if there could be no more: that takes fewer registers.
    columns : int
        Columns of y that a program updates at a time.
    programs, many_programs : int
        As many programs share the columns of all work items, where the longest mix has up to
        ``FEW_TILES`` tiles at a site, and where it has more. 0: as many as it takes.
    blocks : int
        Times that a program takes as many ``columns``, at least; if ``programs`` is 0, at most.
    rows, many_rows : int
        Rank rows that are multiplied first, and rows at a time of those that are left.
    warps, stages : int
    """

    tokens: int
    few_tokens: int
    columns: int
    programs: int
    many_programs: int
    blocks: int
    rows: int
    many_rows: int
    warps: int
    stages: int


_CLASSES = (FEW_TOKENS, SOME_TOKENS, SMALL_STEP, MANY_TOKENS)


def token_class(tokens: int) -> int:
    """Return a number that is the same for all numbers of tokens that are cut alike."""
    return sum(tokens > most for most in _CLASSES)


def token_counts(most: int) -> tuple[int, ...]:
    """Return the largest number of tokens of each ``token_class`` that has any up to ``most``.

    >>> token_counts(600), token_counts(4)
    ((8, 32, 512, 600), (4,))
    """
    return (*(tokens for tokens in _CLASSES if tokens < most), most)


@dataclass(frozen=True)
class LoraParameters:
    """Chooses how launches are cut.

    Attributes
    ----------
    is_decode : bool
        Whether every row runs one token.
    """

    is_decode: bool

    def is_large(self, tokens: int) -> bool:
        """Tell whether so many tokens are cut as those of prompts."""
        return not self.is_decode and tokens > SMALL_STEP

    def shrink(
        self, *, tokens: int, sites: int, in_features: int, itemsize: int
    ) -> ShrinkParameters:
        """Choose for shrink of ``tokens`` tokens, of which only the ``token_class`` matters.

        ``itemsize`` is that of the operands of the products.
        """
        if not self.is_large(tokens):
            # Every weight is read once: many programs, long reads.
            chosen = ShrinkParameters(
                tokens=16, chunks=sites, rows=16, columns=256, many_rows=64, many_columns=128,
                programs=SHRINK_PROGRAMS, pieces=16, one=False, plan=False, warps=4, stages=3,
            )  # fmt: skip
            if tokens > FEW_TOKENS:
                rows = max(16, power_of_two(16 * sites))
                columns = 128 if rows > 32 else 256
                pieces = 16 if tokens <= SOME_TOKENS else 8
                chosen = replace(
                    chosen, chunks=1, rows=rows, columns=columns, pieces=pieces, plan=True
                )
        else:
            # x is read once for all sites.
            rows = max(16, power_of_two(16 * sites))
            pieces = 16 if tokens <= MANY_TOKENS else 2
            chosen = ShrinkParameters(
                tokens=64, chunks=1, rows=rows, columns=64, many_rows=64, many_columns=64,
                programs=SHRINK_PROGRAMS, pieces=pieces, one=False, plan=False, warps=4, stages=4,
            )  # fmt: skip
        if itemsize > 2:
            columns, many = chosen.columns // 2, chosen.many_columns // 2
            chosen = replace(chosen, columns=columns, many_columns=many)
        # No program is left without columns where there are few.
        return replace(chosen, pieces=min(chosen.pieces, ceil_div(in_features, chosen.columns)))

    def expand(self, *, tokens: int, out_features: int, itemsize: int) -> ExpandParameters:
        """Choose for expand of ``tokens`` tokens, of which only the ``token_class`` matters.

        ``out_features`` is the most of a site.
        """
        if not self.is_large(tokens):
            chosen = ExpandParameters(
                tokens=16, few_tokens=4, columns=256, programs=EXPAND_PROGRAMS,
                many_programs=EXPAND_MANY_PROGRAMS, blocks=1, rows=16, many_rows=16,
                warps=4, stages=1,
            )  # fmt: skip
        else:
            chosen = ExpandParameters(
                tokens=32, few_tokens=32, columns=128, programs=0, many_programs=0, blocks=4,
                rows=16, many_rows=16, warps=4, stages=1,
            )  # fmt: skip
        return _as_wide_as(chosen, out_features, itemsize)

    def expand_silu(self, *, out_features: int, itemsize: int) -> ExpandParameters:
        """Choose for expand with ``silu_and_mul``, of a large step.

        ``out_features`` is that of each site.
        """
        chosen = ExpandParameters(
            tokens=16, few_tokens=16, columns=128, programs=0, many_programs=0, blocks=16,
            rows=16, many_rows=16, warps=4, stages=1,
        )  # fmt: skip
        return _as_wide_as(chosen, out_features, itemsize)


def _as_wide_as(chosen: ExpandParameters, out_features: int, itemsize: int) -> ExpandParameters:
    """Take fewer columns at a time where operands are large, or there are not as many."""
    columns = chosen.columns // 2 if itemsize > 2 else chosen.columns
    return replace(chosen, columns=min(columns, max(16, power_of_two(out_features))))
