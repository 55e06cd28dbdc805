"""LoRARequest: the handle by which a caller names an adapter."""

from __future__ import annotations

from dataclasses import dataclass

from plait_kernels.errors import AdapterError


@dataclass(frozen=True)
class LoRARequest:
    """Which adapter a request runs: a name, an id and a directory.

    It is a handle and no identity: two handles on files of the same content share one adapter.

    Parameters
    ----------
    lora_name : str
        Name for people, logs and the server. Not empty.
    lora_int_id : int
        The caller's id of the adapter, at least 1. One id names one content until it is removed
        or a request says ``load_inplace=True``.
    lora_path : str
        Directory with ``adapter_config.json`` and ``adapter_model.safetensors``; ``~`` is expanded.
        Or the id of a repository on the hub, ``"owner/adapter"``: it means the commit of its first
        use.
    base_model_name : str, optional
        What the server shows as the parent model. It changes nothing else.
    load_inplace : bool, default False
        Let the id name other content than before, if the files have changed.

    Raises
    ------
    AdapterError
        If a field has the wrong type or is out of range.

    Examples
    --------
    >>> LoRARequest("sql", 1, "~/adapters/sql").adapter_id
    1
    """

    lora_name: str
    lora_int_id: int
    lora_path: str
    base_model_name: str | None = None
    load_inplace: bool = False

    def __post_init__(self) -> None:
        for field in ("lora_name", "lora_path"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                msg = (
                    f"LoRARequest.{field} is {value!r}; it must be a string that is not empty. "
                    f"Pass LoRARequest(lora_name, lora_int_id, lora_path)."
                )
                raise AdapterError(msg)
        if "\0" in self.lora_path:
            msg = (
                f"LoRARequest.lora_path is {self.lora_path!r}; a path has no null character. "
                "Pass the directory of the adapter."
            )
            raise AdapterError(msg)
        number = self.lora_int_id
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            msg = (
                f"LoRARequest.lora_int_id is {number!r}; it must be an integer of at least 1. "
                "Give every adapter an id of its own, from 1 on."
            )
            raise AdapterError(msg)
        if self.base_model_name is not None and not isinstance(self.base_model_name, str):
            msg = (
                f"LoRARequest.base_model_name is {self.base_model_name!r}; it must be a string or "
                "None. Leave it out."
            )
            raise AdapterError(msg)
        if not isinstance(self.load_inplace, bool):
            msg = (
                f"LoRARequest.load_inplace is {self.load_inplace!r}; it must be True or False. "
                "Leave it out unless the id is to name new content."
            )
            raise AdapterError(msg)

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
