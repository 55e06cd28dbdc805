"""Block sizes of the ``lora`` kernels: functions of shapes that the host knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plait_triton.sizes import ceil_div, power_of_two

FEW_TOKENS = 8
"""Decoding up to so many tokens, the rank rows of each site are multiplied by other programs."""

SOME_TOKENS, MANY_TOKENS = 32, 1024
"""Up to so many tokens, decoding and otherwise, the input columns are shared by more programs."""

PROGRAMS, MANY_PROGRAMS = 528, 792
"""Four and six for each of the 132 multiprocessors of an H100."""

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


def token_class(tokens: int) -> int:
    """Return a number that is the same for all numbers of tokens that are cut alike."""
    return (tokens > FEW_TOKENS) + (tokens > SOME_TOKENS) + (tokens > MANY_TOKENS)


@dataclass(frozen=True)
class LoraParameters:
    """Chooses how launches are cut.

    Attributes
    ----------
    is_decode : bool
        Whether every row runs one token.
    """

    is_decode: bool

    def shrink(
        self, *, tokens: int, sites: int, in_features: int, itemsize: int
    ) -> ShrinkParameters:
        """Choose for shrink of ``tokens`` tokens, of which only the ``token_class`` matters.

        ``itemsize`` is that of the operands of the products.
        """
        if self.is_decode:
            # Every weight is read once: many programs, long reads.
            chosen = ShrinkParameters(16, sites, 16, 256, 64, 128, PROGRAMS, 16, False, 4, 3)
            if tokens > FEW_TOKENS:
                rows = max(16, power_of_two(16 * sites))
                columns = 128 if rows > 32 else 256
                pieces = 16 if tokens <= SOME_TOKENS else 8
                chosen = replace(chosen, chunks=1, rows=rows, columns=columns, pieces=pieces)
        else:
            # x is read once for all sites.
            rows = max(16, power_of_two(16 * sites))
            pieces = 16 if tokens <= MANY_TOKENS else 2
            chosen = ShrinkParameters(64, 1, rows, 64, 64, 64, PROGRAMS, pieces, False, 4, 4)
        if itemsize > 2:
            columns, many = chosen.columns // 2, chosen.many_columns // 2
            chosen = replace(chosen, columns=columns, many_columns=many)
        # No program is left without columns where there are few.
        return replace(chosen, pieces=min(chosen.pieces, ceil_div(in_features, chosen.columns)))

    def expand(self, *, out_features: int, itemsize: int) -> ExpandParameters:
        """Choose for expand; ``out_features`` is the most of a site."""
        if self.is_decode:
            chosen = ExpandParameters(16, 4, 256, PROGRAMS, MANY_PROGRAMS, 1, 16, 16, 4, 1)
        else:
            chosen = ExpandParameters(32, 32, 128, 0, 0, 4, 16, 16, 4, 1)
        if itemsize > 2:
            chosen = replace(chosen, columns=chosen.columns // 2)
        most = max(16, power_of_two(out_features))
        return replace(chosen, columns=min(chosen.columns, most))
