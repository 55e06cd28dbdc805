"""The directory of an adapter: its two files, and what to do about a directory without them."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError
from plait_lora.locations import is_hub_id
from plait_lora.opened_file import unreadable
from plait_lora.shown import shown

if TYPE_CHECKING:
    from collections.abc import Collection

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"
MLX_WEIGHTS_NAME = "adapters.safetensors"

MLX_REMEDY = (
    "It is an adapter of mlx-lm, whose matrices lie transposed under other names. Fuse it into its "
    "base model with mlx_lm.fuse and serve that, or convert it to PEFT's format: lora_A and lora_B "
    "are lora_a and lora_b transposed, and lora_alpha is scale times r."
)

_LOOKED_AT = 1000
"""Names of a directory that are looked at for a hint."""


def adapter_paths(path: str, where: str) -> tuple[Path, Path]:
    """Return the paths of config and weights.

    Parameters
    ----------
    path : str
        Directory; ``~`` is expanded.
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
        If the directory or one of the files is missing.
    """
    directory = Path(os.path.expanduser(path))
    config, weights = directory / CONFIG_NAME, directory / WEIGHTS_NAME
    try:
        if not directory.exists():
            raise AdapterError(_missing(path, directory, where))
        if not directory.is_dir():
            msg = (
                f"{where}: {shown(str(directory))} is not a directory; lora_path is the directory "
                f"that holds {CONFIG_NAME} and {WEIGHTS_NAME}."
            )
            raise AdapterError(msg)
        for file in (config, weights):
            if not file.exists():
                msg = (
                    f"{where}: {shown(str(directory))} has no {file.name}. "
                    f"{hint(_names(directory))}"
                )
                raise AdapterError(msg)
    except OSError as error:
        raise unreadable(directory, where, error) from error
    return config, weights


def hint(names: Collection[str]) -> str:
    """Say what a directory is that is no adapter as PEFT saves it, and what to do.

    Parameters
    ----------
    names : Collection[str]
        What it holds, as paths relative to it.
    """
    inner = sorted(name for name in names if name.endswith(f"/{CONFIG_NAME}"))
    if MLX_WEIGHTS_NAME in names:
        return MLX_REMEDY
    if PICKLE_NAME in names and WEIGHTS_NAME not in names:
        return (
            f"It has {PICKLE_NAME} instead; a pickle can run code when it is read, so it is "
            "refused. Load the adapter with PEFT and save it with "
            "save_pretrained(safe_serialization=True)."
        )
    if CONFIG_NAME not in names and "config.json" in names:
        return (
            "It has config.json, so it is a whole model and no adapter: pass it as model=, without "
            "a LoRARequest."
        )
    if CONFIG_NAME not in names and inner:
        below = shown(inner[0].rpartition("/")[0])
        return f"There is one in {below} below it: pass the directory of that."
    if any(name.endswith(".gguf") for name in names):
        return (
            "It has a GGUF file; adapters are served in PEFT's format only. Fetch the adapter that "
            "it was converted from."
        )
    if CONFIG_NAME not in names:
        return "lora_path is the directory that PEFT's save_pretrained wrote."
    return "Copy or save the whole adapter again."


def _names(directory: Path) -> set[str]:
    with os.scandir(directory) as entries:
        found = list(islice(entries, _LOOKED_AT))
    below = (f"{entry.name}/{CONFIG_NAME}" for entry in found if entry.is_dir())
    return {entry.name for entry in found} | {name for name in below if (directory / name).exists()}


def _missing(path: str, directory: Path, where: str) -> str:
    if is_hub_id(path):
        return (
            f"{where}: there is no directory {shown(path)}. It looks like an id on a model hub; "
            "ids are not resolved here. Download the adapter first and pass the directory."
        )
    return (
        f"{where}: there is no directory {shown(str(directory))}. Pass the directory that holds "
        f"{CONFIG_NAME} and {WEIGHTS_NAME}."
    )
