"""LoRARequest: the handle by which a caller names an adapter."""

from __future__ import annotations

import difflib
import numbers
import os
from dataclasses import dataclass, fields
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_ID = 2**63 - 1
_MOST_TEXT = 4096
"""Characters of a name or a path; no file system takes longer paths."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "long_lora_max_len": "the model's context is not extended for an adapter",
        "tensorizer_config_dict": "adapters are read from safetensors files",
    }
)
"""Keywords of older LoRARequests that are refused when they ask for something, and why."""


@dataclass(frozen=True, init=False)
class LoRARequest:
    """Which adapter a request runs: a name, an id and a directory.

    It is a handle and no identity: two handles on files of the same content share one adapter.

    Parameters
    ----------
    lora_name : str
        Name for people and logs. Not empty.
    lora_int_id : int
        The caller's id of the adapter, at least 1; NumPy's whole numbers are as good as Python's.
        One id names one content until it is removed or a request says ``load_inplace=True``.
    lora_path : str | PathLike[str]
        Directory with ``adapter_config.json`` and ``adapter_model.safetensors``; ``~`` is expanded.
        Or the id of a repository on the hub, ``"owner/adapter"``: it means the commit of its first
        use. Kept as a str.
    base_model_name : str, optional
        vLLM's, for what a server shows as the parent model. Without effect.
    load_inplace : bool, default False
        Let the id name other content than before, if the files have changed.
    is_3d_lora_weight : bool, default False
        vLLM's, about the layout of experts. Without effect: no served model has experts.
    **others
        ``lora_local_path`` is an older name of ``lora_path``; ``long_lora_max_len`` and
        ``tensorizer_config_dict`` may be None.

    Raises
    ------
    AdapterError
        If a field has the wrong type or is out of range, or a keyword is unknown.

    Examples
    --------
    >>> LoRARequest("sql", 1, "~/adapters/sql").adapter_id
    1
    """

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None
    load_inplace: bool
    is_3d_lora_weight: bool

    def __init__(
        self,
        lora_name: str,
        lora_int_id: int,
        lora_path: str | PathLike[str] = "",
        base_model_name: str | None = None,
        load_inplace: bool = False,
        is_3d_lora_weight: bool = False,
        **others: Any,
    ) -> None:
        path = _one_path(lora_path, others.pop("lora_local_path", None))
        for name, value in others.items():
            _refuse_unless_neutral(name, value)
        values = {
            "lora_name": _text("lora_name", lora_name),
            "lora_int_id": _id(lora_int_id),
            "lora_path": path,
            "base_model_name": _name_of_base(base_model_name),
            "load_inplace": _flag("load_inplace", load_inplace),
            "is_3d_lora_weight": _flag("is_3d_lora_weight", is_3d_lora_weight),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen

    @property
    def name(self) -> str:
        """``lora_name``."""
        return self.lora_name

    @property
    def adapter_id(self) -> int:
        """``lora_int_id``."""
        return self.lora_int_id

    @property
    def path(self) -> str:
        """``lora_path``, as it was given."""
        return self.lora_path

    @property
    def lora_local_path(self) -> str:
        """An older name of ``lora_path``."""
        return self.lora_path


def _one_path(path: object, older: object) -> str:
    if asks_for_nothing(older):
        return _path(path)
    if not (isinstance(path, str) and path == "") and _path(path) != _path(older):
        msg = (
            f"LoRARequest.lora_path is {shown(path)} and lora_local_path is {shown(older)}; they "
            "are two names of one field. Pass lora_path."
        )
        raise AdapterError(msg)
    return _path(older)


def _path(value: object) -> str:
    path = _text("lora_path", os.fspath(value) if isinstance(value, PathLike) else value)
    try:
        valid = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        msg = (
            f"LoRARequest.lora_path is {shown(value)}; a path has no null character, and no half "
            "of a surrogate pair. Pass the directory of the adapter."
        )
        raise AdapterError(msg)
    return path


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _MOST_TEXT:
        msg = (
            f"LoRARequest.{name} is {shown(value)}; it must be a string of 1 to {_MOST_TEXT} "
            "characters. Pass LoRARequest(lora_name, lora_int_id, lora_path)."
        )
        raise AdapterError(msg)
    return value


def _id(value: object) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 1 <= int(value) <= _MOST_ID:  # type: ignore[call-overload]
        msg = (
            f"LoRARequest.lora_int_id is {shown(value)}; it must be an integer from 1 to "
            f"{_MOST_ID}. Give every adapter an id of its own, from 1 on."
        )
        raise AdapterError(msg)
    return int(value)  # type: ignore[call-overload, no-any-return]


def _name_of_base(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    msg = (
        f"LoRARequest.base_model_name is {shown(value)}; it must be a string or None. Leave it out."
    )
    raise AdapterError(msg)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        msg = (
            f"LoRARequest.{name} is {shown(value)}; it must be True or False. Leave it out unless "
            "it is needed."
        )
        raise AdapterError(msg)
    return bool(value)


def _refuse_unless_neutral(name: str, value: object) -> None:
    if name not in REFUSED:
        known = [field.name for field in fields(LoRARequest)]
        near = difflib.get_close_matches(name[:80], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}."
        msg = f"LoRARequest got an unknown keyword, {shown(name)}; {hint}"
        raise AdapterError(msg)
    if not asks_for_nothing(value):
        msg = (
            f"LoRARequest does not support {name}: got {shown(value)}, allowed: None; "
            f"{REFUSED[name]}. Leave it out."
        )
        raise AdapterError(msg)
