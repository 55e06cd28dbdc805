"""Random inputs of the ``lora`` op."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch

from plait_kernels.lora_types import (
    DENSE_ADD,
    DENSE_ROW,
    DENSE_SCALE,
    TILE_ROWS,
    LoraBatch,
    LoraTable,
)
from plait_kernels.sites import LoraSite

REPLACED = 8
"""Token ids below this may have replaced rows at an ``embed`` site."""

ALIGNMENT = 64
"""Byte offsets in an arena are multiples of this."""


@dataclass(frozen=True, eq=False)
class LoraInputs:
    """One call of the op: ``h = shrink(x, sites, batch)``, then ``expand(h, sites, batch, y)``.

    Attributes
    ----------
    x : Tensor [tokens, in_features], or int64 [tokens] for ``embed``
    sites : tuple[LoraSite, ...]
    batch : LoraBatch
    y : Tensor [tokens, columns]
        Has columns that no site owns, unless it is ``packed``.
    """

    x: torch.Tensor
    sites: tuple[LoraSite, ...]
    batch: LoraBatch
    y: torch.Tensor


def inputs(
    seed: int,
    *,
    group: str = "qkv",
    tokens: int = 9,
    slots: int = 4,
    in_features: int = 48,
    out_features: tuple[int, ...] = (64, 24, 24),
    ranks: tuple[int, ...] = (1, 2, 7, 8, 9, 16, 20),
    max_adapters: int = 3,
    dense: bool = True,
    kinds: tuple[int, ...] = (),
    targeted: float = 0.8,
    shared: bool = False,
    layers: int = 1,
    first_site: int = 2,
    dtype: torch.dtype = torch.float32,
    arena_dtype: torch.dtype | None = None,
    tile_rows: int = TILE_ROWS,
    token_slot: tuple[int, ...] | None = None,
    packed: bool = False,
    padding: int = 0,
    device: str = "cpu",
) -> LoraInputs:
    """Make random inputs: ragged ranks, mixes, base tokens, untargeted sites, dense entries.

    Rows of a tile past its rank hold NaN, and so does the arena where nothing lies.

    Parameters
    ----------
    seed : int
    group : str
        Site group; ``embed`` makes ``x`` token ids below ``in_features``.
    tokens : int
        0 and more; every token draws one of the slots, or -1.
    slots : int
        Mixes in the table.
    in_features : int
    out_features : tuple[int, ...]
        One entry a site.
    ranks : tuple[int, ...]
        Every (adapter, site) draws its rank from these.
    max_adapters : int
        A mix has 1 to this many.
    dense : bool
        Whether some (slot, site) get dense entries.
    kinds : tuple[int, ...]
        If there are any, every (slot, site) gets dense entries of these kinds, in this order.
    targeted : float
        Probability that an adapter has a module at a site.
    shared : bool
        Whether every second slot names the tiles of the one before again, and more of its own.
    layers : int
        How many times the sites are there, with columns of the tables of their own.
    first_site : int
        Column of the first site in the tables; those before it belong to sites of other groups.
    dtype, arena_dtype : torch.dtype
        Of the activations, and of the tiles; the second defaults to the first.
    tile_rows : int
    token_slot : tuple[int, ...] | None
        The slot of each token, in place of ``tokens`` that draw theirs.
    packed : bool
        Whether the sites' columns lie side by side and are all that y has.
    padding : int
        Columns between the end of one row of y and the start of the next; they hold NaN.
    device : str

    Returns
    -------
    LoraInputs
        Its sites do not depend on the seed. They are those of the first layer.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    sites, columns = _sites(group, in_features, out_features, first_site, packed=packed)
    every = tuple(site for layer in range(layers) for site in sites_of_layer(sites, layer))
    writer = _Writer(generator, arena_dtype or dtype, tile_rows, slots, first_site + len(every))
    for slot in range(slots):
        has_scale = False
        for site in every:
            if shared and slot % 2:
                writer.again(slot - 1, site, rng.uniform(-2, 2))
            for _ in range(rng.randint(1, max_adapters)):
                if rng.random() < targeted:
                    writer.module(site, rng.choice(ranks), rng.choice((-1, 1)) * rng.uniform(1, 2))
            if kinds or (dense and rng.random() < 0.5):
                has_scale |= writer.dense(site, rng, kinds)
            writer.close(slot, site)
        writer.scaled[slot] = has_scale
    if token_slot is None:
        token_slot = tuple(rng.randrange(-1, slots) for _ in range(tokens))
    tokens = len(token_slot)
    token_weight = torch.tensor(
        [1.0 if s >= 0 and writer.scaled[s] else rng.choice((1.0, 0.5, -2.0)) for s in token_slot]
    )
    table = writer.table(device)
    if group == "embed":
        # Half of them among the few that dense entries replace, and some the last that there is.
        x = torch.randint(0, in_features, (tokens,), generator=generator)
        x[::2] %= min(REPLACED, in_features)
        x[1::4] = in_features - 1
    else:
        x = torch.randn(tokens, in_features, generator=generator).to(dtype)
    wide = torch.full((tokens, columns + padding), torch.nan)
    wide[:, :columns] = torch.randn(tokens, columns, generator=generator)
    y = wide.to(device=device, dtype=dtype)[:, :columns]
    slot_of = torch.tensor(token_slot, dtype=torch.int32)
    batch = batch_of(table, slot_of, token_weight, device)
    return LoraInputs(x.to(device), sites, batch, y)


def _sites(
    group: str, in_features: int, out_features: tuple[int, ...], first: int, *, packed: bool
) -> tuple[tuple[LoraSite, ...], int]:
    """Return the sites of the first layer, and how many columns y has."""
    sites, columns = [], 0 if packed else 3
    for column, out in enumerate(out_features):
        name = f"layers.0.{group}.{column}"
        sites.append(LoraSite(first + column, name, group, in_features, out, columns))
        columns += out + (0 if packed else (5, 0)[column % 2])
    return tuple(sites), columns


def sites_of_layer(sites: tuple[LoraSite, ...], layer: int) -> tuple[LoraSite, ...]:
    """Return the like of the first layer's sites in another layer."""
    if layer == 0:
        return sites
    return tuple(
        dataclasses.replace(
            site,
            index=site.index + layer * len(sites),
            name=site.name.replace("layers.0", f"layers.{layer}"),
        )
        for site in sites
    )


class _Writer:
    def __init__(
        self, generator: torch.Generator, dtype: torch.dtype, t: int, slots: int, sites: int
    ) -> None:
        self.generator, self.dtype, self.t = generator, dtype, t
        self.pieces: list[torch.Tensor] = []
        self.size = 0
        self.tiles: list[tuple[int, int, float]] = []
        self.entries: list[tuple[int, int, int, float]] = []
        self.first_tile = self.first_entry = 0
        self.ranges = torch.zeros(4, slots, sites, dtype=torch.int32)
        self.scaled = [False] * slots

    def module(self, site: LoraSite, rank: int, scale: float) -> None:
        a = self._randn(rank, site.in_features) / site.in_features**0.5
        b = self._randn(rank, site.out_features) / rank**0.5
        for start in range(0, rank, self.t):
            rows = min(self.t, rank - start)
            tile_a = torch.full((self.t, site.in_features), torch.nan)
            tile_b = torch.full((self.t, site.out_features), torch.nan)
            tile_a[:rows], tile_b[:rows] = a[start : start + rows], b[start : start + rows]
            tile = torch.cat((tile_a.flatten(), tile_b.flatten())).to(self.dtype)
            self.tiles.append((self._store(tile), rows, scale))

    def again(self, slot: int, site: LoraSite, scale: float) -> None:
        """Name the tiles of a former slot once more, with another scale."""
        start, count = self.ranges[:2, slot, site.index].tolist()
        self.tiles += [(*tile[:2], scale) for tile in self.tiles[start : start + count]]

    def dense(self, site: LoraSite, rng: random.Random, kinds: tuple[int, ...]) -> bool:
        some = (DENSE_ADD, DENSE_SCALE, DENSE_ROW, DENSE_ROW, DENSE_ADD)
        kinds = kinds or tuple(rng.sample(some, 3))
        is_embed = site.group == "embed"
        rows = min(REPLACED, site.in_features) if is_embed else site.out_features
        index = rng.randrange(rows)
        for number, kind in enumerate(kinds):
            # Sometimes one row is replaced twice.
            index = index if number and rng.random() < 0.3 else rng.randrange(rows)
            if kind == DENSE_ROW:
                width = site.out_features if is_embed else site.in_features
                row = (self._randn(width) / (1 if is_embed else width**0.5)).to(self.dtype)
            else:
                row = self._randn(site.out_features)
            weight = rng.uniform(-2, 2) if kind == DENSE_ADD else 1.0
            self.entries.append((kind, self._store(row), index, weight))
        return DENSE_SCALE in kinds

    def close(self, slot: int, site: LoraSite) -> None:
        ends = len(self.tiles), len(self.entries)
        starts = self.first_tile, self.first_entry
        self.ranges[:, slot, site.index] = torch.tensor(
            (starts[0], ends[0] - starts[0], starts[1], ends[1] - starts[1])
        )
        self.first_tile, self.first_entry = ends

    def table(self, device: str) -> LoraTable:
        # bytes 0xFF are NaN in every float dtype
        arena = torch.full((self.size + ALIGNMENT,), 0xFF, dtype=torch.uint8)
        end = 0
        for piece in self.pieces:
            arena[end : end + piece.numel()] = piece
            end += piece.numel() + (-piece.numel()) % ALIGNMENT
        offset, rank, scale = zip(*(self.tiles or [(0, 1, 1.0)]), strict=True)
        kind, row, index, weight = zip(*(self.entries or [(0, 0, 0, 1.0)]), strict=True)
        i32, i64 = torch.int32, torch.int64
        return LoraTable(
            arena=arena.to(device),
            dtype=self.dtype,
            tile_rows=self.t,
            tile_start=self.ranges[0].to(device),
            tile_count=self.ranges[1].to(device),
            tile_offset=torch.tensor(offset, dtype=i64, device=device),
            tile_rank=torch.tensor(rank, dtype=i32, device=device),
            tile_scale=torch.tensor(scale, dtype=torch.float32, device=device),
            dense_start=self.ranges[2].to(device),
            dense_count=self.ranges[3].to(device),
            dense_kind=torch.tensor(kind, dtype=i32, device=device),
            dense_offset=torch.tensor(row, dtype=i64, device=device),
            dense_index=torch.tensor(index, dtype=i32, device=device),
            dense_weight=torch.tensor(weight, dtype=torch.float32, device=device),
            max_tiles=int(self.ranges[1].max()),
            max_dense=int(self.ranges[3].max()),
        )

    def _randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _store(self, values: torch.Tensor) -> int:
        offset = self.size
        self.pieces.append(values.view(torch.uint8))
        self.size += values.nbytes + (-values.nbytes) % ALIGNMENT
        return offset


def batch_of(
    table: LoraTable, token_slot: torch.Tensor, token_weight: torch.Tensor, device: str
) -> LoraBatch:
    """Group tokens, int32 [tokens] on the CPU, by slot.

    Entries past the ends of the lists are out of range on purpose.
    """
    tokens, i32 = token_slot.numel(), torch.int32
    slots = sorted({slot for slot in token_slot.tolist() if slot >= 0})
    order = torch.full((tokens,), 2**30, dtype=i32)
    segment_slot = torch.full((tokens,), 2**30, dtype=i32)
    segment_start = torch.full((tokens + 1,), 2**30, dtype=i32)
    end = 0
    segment_start[0] = 0
    for segment, slot in enumerate(slots):
        members = (token_slot == slot).nonzero().flatten()
        order[end : end + members.numel()] = members.to(i32)
        end += members.numel()
        segment_slot[segment], segment_start[segment + 1] = slot, end
    return LoraBatch(
        table=table,
        token_slot=token_slot.to(device),
        token_weight=token_weight.to(device),
        order=order.to(device),
        segment_slot=segment_slot.to(device),
        segment_start=segment_start.to(device),
        num_segments=torch.tensor([len(slots)], dtype=i32, device=device),
    )
