"""Walk through the tensors of an op's arguments: tuples and dataclasses that hold tensors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INTEGER_OF = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def map_tensors(
    tree: Any, function: Callable[[str, torch.Tensor], torch.Tensor], path: str = ""
) -> Any:
    """Copy a tree with ``function(path, tensor)`` in the place of every tensor.

    Parameters
    ----------
    tree : object
    function : Callable[[str, Tensor], Tensor]
    path : str
        Of the tree itself.

    Returns
    -------
    object
        What is neither a tensor nor a tuple nor a dataclass is the same object.
    """
    if isinstance(tree, torch.Tensor):
        return function(path, tree)
    changes = {
        name: map_tensors(value, function, f"{path}.{name}" if path else name)
        for name, value in _children(tree)
    }
    if isinstance(tree, tuple):
        return tuple(changes.values())
    return dataclasses.replace(tree, **changes) if changes else tree


def tensors_of(tree: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the path and the tensor of every tensor of a tree."""
    if isinstance(tree, torch.Tensor):
        yield path, tree
    for name, value in _children(tree):
        yield from tensors_of(value, f"{path}.{name}" if path else name)


def _children(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, tuple):
        return [(str(place), value) for place, value in enumerate(tree)]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    return []


def named(path: str, names: tuple[str, ...]) -> str:
    """Replace the number at the start of a path by the name of that argument."""
    first, dot, rest = path.partition(".")
    return f"{names[int(first)]}{dot}{rest}" if names else path


def bits(values: torch.Tensor) -> torch.Tensor:
    """View a tensor as integers, so that NaN equals itself and -0 does not equal 0."""
    return values.view(_INTEGER_OF[values.element_size()])


def view_of(
    memory: torch.Tensor, like: torch.Tensor, *, offset: int = 0, as_bits: bool = False
) -> torch.Tensor:
    """View bytes as ``like`` views its own storage.

    Parameters
    ----------
    memory : Tensor, uint8 [bytes]
        The whole of a storage.
    like : Tensor
        Gives dtype, shape, strides and place.
    offset : int
        Bytes of ``memory`` before the place where the storage of ``like`` would begin.
    as_bits : bool
        Whether the view is of integers as wide as the dtype.
    """
    width = like.element_size()
    dtype = _INTEGER_OF[width] if as_bits else like.dtype
    empty = torch.empty(0, dtype=dtype, device=memory.device)
    start = offset // width + like.storage_offset()
    return empty.set_(memory.untyped_storage(), start, like.size(), like.stride())
