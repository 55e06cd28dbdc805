"""The calls of one implementation of ``lora``: layers of a step, and tables that are written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from plait_testing.usual_calls import (
    beside_a_twin,
    every_size,
    in_memory_that_was_freed,
    two_at_a_time,
)

if TYPE_CHECKING:
    import torch

    from plait_testing.calls import Calls


def lora_calls(calls: Calls) -> None:
    """Call with other sizes, in several layers, and after the tables and the arena were written."""
    if calls.subject.case.is_large:
        every_size(calls)
        if calls.subject.case.inputs.get("layers", 1) > 1:
            many_layers(calls)
        return
    two_at_a_time(calls)
    beside_a_twin(calls)
    layers_of_a_step(calls)
    tables_in_turn(calls)
    written_tables(calls)
    in_memory_that_was_freed(calls)
    calls.call("with the arguments of the first call", calls.make())


def layers_of_a_step(calls: Calls) -> None:
    """Call for every layer, all shrinks first, with one batch and then with others."""
    made = calls.make(0, 40)
    for number, batch in enumerate(_batches(calls, made)):
        tokens = batch.token_slot.shape[0]
        layers = [
            dataclasses.replace(
                made,
                x=_of_length(calls.make(0, 41 + layer + 3 * number).x, tokens),
                y=_of_length(calls.make(0, 41 + layer + 3 * number).y, tokens),
                sites=sites,
                batch=batch,
            )
            for layer, sites in enumerate(_layers(calls, made))
        ]
        context = f"of {len(layers)} layers, with batch {number + 1} of one table"
        calls.call(context, *layers, is_reversed=number % 2 == 1)


def many_layers(calls: Calls) -> None:
    """Call for every layer of two steps, with one table."""
    made = calls.make(0, 40)
    for step in range(2):
        for layer, sites in enumerate(_layers(calls, made)):
            factor = 1 + (layer + step) / 8
            layered = dataclasses.replace(made, x=made.x * factor, y=made.y * factor, sites=sites)
            calls.call(f"of layer {layer + 1} in step {step + 1}", layered)


def _layers(calls: Calls, made: Any) -> list[Any]:
    from plait_kernels.ops.lora_inputs import sites_of_layer

    return [sites_of_layer(made.sites, n) for n in range(calls.subject.case.inputs["layers"])]


def _batches(calls: Calls, made: Any) -> list[Any]:
    """Make batches of one table: of the same tokens backwards, and of three times as many."""
    from plait_kernels.ops.lora_inputs import batch_of

    first = made.batch
    slot, weight = first.token_slot.cpu(), first.token_weight.cpu()
    return [
        first,
        batch_of(first.table, slot.flip(0), weight.flip(0), calls.subject.device),
        batch_of(first.table, slot.repeat(3), weight.repeat(3), calls.subject.device),
        batch_of(first.table, slot[:2], weight[:2], calls.subject.device),
    ]


def _of_length(values: torch.Tensor, length: int) -> torch.Tensor:
    times = -(-length // values.shape[0])
    repeats = (times,) + (1,) * (values.dim() - 1)
    return values.repeat(repeats)[:length]


def tables_in_turn(calls: Calls) -> None:
    """Call with two tables of one shape and version, as two engines of one process have them."""
    made = calls.make(0, 55)
    other = _copy(made)
    _scale_weights(other.batch.table, _layers(calls, made), -0.5)
    other.batch.table.tile_scale.mul_(1.5)
    for number, each in enumerate((made, other, made, other)):
        y = calls.make(0, 56 + number).y
        calls.call("with two tables in turn", dataclasses.replace(each, y=y))


def written_tables(calls: Calls) -> None:
    """Write the arena, the lists or both, each time under a higher version."""
    made, second = _with_room(calls.make(0, 60), calls.make(1, 61))
    first = _copy(made)
    table = made.batch.table
    again = _Again(calls, made)
    again("before the tables are written")
    _scale_weights(table, _layers(calls, made), -0.5)
    again("after the arena was written and the version was raised")
    table.tile_scale.mul_(-1.5)
    again("after the scales were written and the version was raised")
    for name in ("tile_start", "tile_count", "dense_start", "dense_count"):
        values = getattr(table, name)
        values.copy_(values.roll(1, 0))
    again("after slots got each other's mixes and the version was raised")
    _write(table, second.batch.table)
    table.max_tiles, table.max_dense = second.batch.table.max_tiles, second.batch.table.max_dense
    again("after larger adapters took the places of the former ones", second)
    table.arena = table.arena.clone()
    again("after the arena was moved and the version was raised", second)
    _write(table, first.batch.table)
    table.max_tiles, table.max_dense = first.batch.table.max_tiles, first.batch.table.max_dense
    again("after the former adapters came back", first)


class _Again:
    """Calls with new x and y and a new batch; the table is always one object."""

    def __init__(self, calls: Calls, made: Any) -> None:
        self._calls, self._made, self._table = calls, made, made.batch.table
        self._number = 0

    def __call__(self, context: str, other: Any = None) -> None:
        made = other or self._made
        further = self._calls.make(0, 70 + self._number)
        if self._number:
            self._table.version += 1
        self._number += 1
        # Mixes with an output scale take no other weight, and any slot may have got one.
        weight = made.batch.token_weight.fill_(1)
        batch = dataclasses.replace(made.batch, table=self._table, token_weight=weight)
        self._calls.call(context, dataclasses.replace(made, x=further.x, y=further.y, batch=batch))


def _with_room(first: Any, second: Any) -> tuple[Any, Any]:
    """Lengthen the arena and the lists of ``first`` to what ``second`` needs as well."""
    tables = first.batch.table, second.batch.table

    def longer(name: str) -> torch.Tensor:
        mine, theirs = (getattr(table, name) for table in tables)
        long: torch.Tensor = mine.new_zeros(max(mine.shape[0], theirs.shape[0]))
        long[: mine.shape[0]] = mine
        return long

    names = [f"tile_{name}" for name in ("offset", "rank", "scale")]
    names += [f"dense_{name}" for name in ("kind", "offset", "index", "weight")]
    table = dataclasses.replace(tables[0], **{name: longer(name) for name in ("arena", *names)})
    return dataclasses.replace(first, batch=dataclasses.replace(first.batch, table=table)), second


def _copy(made: Any) -> Any:
    from plait_testing.tensors import map_tensors

    return map_tensors(made, lambda path, values: values.clone())


def _write(table: Any, contents: Any) -> None:
    """Write tables and arena in place."""
    from plait_testing.tensors import tensors_of

    for name, values in tensors_of(contents):
        getattr(table, name)[: values.shape[0]] = values


def _scale_weights(table: Any, layers: list[Any], factor: float) -> None:
    """Multiply the B of every tile that a slot names, once."""
    seen = set()
    for sites in layers:
        for site in sites:
            for slot in range(table.tile_start.shape[0]):
                start = int(table.tile_start[slot, site.index])
                for tile in range(start, start + int(table.tile_count[slot, site.index])):
                    offset = int(table.tile_offset[tile])
                    if offset in seen:
                        continue
                    seen.add(offset)
                    size = table.dtype.itemsize * table.tile_rows
                    begin = offset + size * site.in_features
                    b = table.arena[begin : begin + size * site.out_features].view(table.dtype)
                    b.mul_(factor)
