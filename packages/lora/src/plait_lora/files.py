"""The two files of an adapter directory: found, looked at, and read once into our own memory."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from plait_kernels.errors import AdapterError
from plait_lora.locations import is_hub_id

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"


@dataclass(frozen=True)
class FileStat:
    """What tells a file from what it was before, without reading it.

    Attributes
    ----------
    path : str
    device, inode : int
    size : int
        Bytes.
    mtime_ns, ctime_ns : int
        Times of the last change of content and of metadata. The second also changes when the
        first is set by hand.
    """

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path, result: os.stat_result) -> FileStat:
        """Make one from the answer of ``os.stat``."""
        return cls(
            str(path),
            result.st_dev,
            result.st_ino,
            result.st_size,
            result.st_mtime_ns,
            result.st_ctime_ns,
        )


@dataclass(frozen=True)
class AdapterStat:
    """The state of both files of an adapter."""

    config: FileStat
    weights: FileStat


@dataclass(frozen=True)
class AdapterFiles:
    """Both files, read.

    Attributes
    ----------
    stat : AdapterStat
        Of the very files that were read.
    config, weights : bytes
    """

    stat: AdapterStat
    config: bytes
    weights: bytes


def stat_adapter(path: str, where: str) -> AdapterStat:
    """Look at the files of an adapter directory without reading them.

    Parameters
    ----------
    path : str
        Directory; ``~`` is expanded.
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
        If the directory or one of the files is missing, or is not what it has to be.
    """
    config, weights = _paths(path, where)
    return AdapterStat(_stat(config, where), _stat(weights, where))


def read_adapter(path: str, where: str) -> AdapterFiles:
    """Read the files of an adapter directory, each once.

    They are read and never mapped: a file that shrinks under a memory map kills the process.

    Parameters
    ----------
    path : str
        Directory; ``~`` is expanded.
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
        If a file is missing, cannot be read, or changes while it is read.
    """
    config_path, weights_path = _paths(path, where)
    config_stat, config = _read(config_path, where)
    weights_stat, weights = _read(weights_path, where)
    return AdapterFiles(AdapterStat(config_stat, weights_stat), config, weights)


def _paths(path: str, where: str) -> tuple[Path, Path]:
    directory = Path(os.path.expanduser(path))
    config, weights = directory / CONFIG_NAME, directory / WEIGHTS_NAME
    try:
        if not directory.exists():
            raise AdapterError(_missing(path, directory, where))
        if not directory.is_dir():
            msg = (
                f"{where}: {str(directory)!r} is not a directory; lora_path is the directory that "
                f"holds {CONFIG_NAME} and {WEIGHTS_NAME}."
            )
            raise AdapterError(msg)
        if not config.exists():
            msg = (
                f"{where}: {str(directory)!r} has no {CONFIG_NAME}; lora_path is the directory "
                "that PEFT's save_pretrained wrote."
            )
            raise AdapterError(msg)
        if not weights.exists():
            raise AdapterError(_no_weights(directory, where))
    except OSError as error:
        raise AdapterError(_unreadable(directory, where, error)) from error
    return config, weights


def _missing(path: str, directory: Path, where: str) -> str:
    if is_hub_id(path):
        return (
            f"{where}: there is no directory {path!r}. It looks like an id on a model hub; ids are "
            "not resolved here. Download the adapter first and pass the directory."
        )
    return (
        f"{where}: there is no directory {str(directory)!r}. Pass the directory that holds "
        f"{CONFIG_NAME} and {WEIGHTS_NAME}."
    )


def _no_weights(directory: Path, where: str) -> str:
    if (directory / PICKLE_NAME).exists():
        return (
            f"{where}: {str(directory)!r} has {PICKLE_NAME} but no {WEIGHTS_NAME}. A pickle can "
            "run code when it is read, so it is refused. Load the adapter with PEFT and save it "
            "with save_pretrained(safe_serialization=True)."
        )
    return (
        f"{where}: {str(directory)!r} has no {WEIGHTS_NAME}. Copy or save the whole adapter again."
    )


def _unreadable(path: Path, where: str, error: OSError) -> str:
    reason = error.strerror or str(error)
    return (
        f"{where}: {str(path)!r} cannot be read ({reason}); it must be readable by this process. "
        "Check the path and its permissions."
    )


def _stat(path: Path, where: str) -> FileStat:
    try:
        result = path.stat()
    except OSError as error:
        raise AdapterError(_unreadable(path, where, error)) from error
    _check_regular(path, result, where)
    return FileStat.of(path, result)


def _check_regular(path: Path, result: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(result.st_mode):
        msg = f"{where}: {str(path)!r} is not a regular file. Save or copy the adapter again."
        raise AdapterError(msg)


def _read(path: Path, where: str) -> tuple[FileStat, bytes]:
    before = _stat(path, where)
    try:
        with path.open("rb", buffering=0) as file:
            opened = FileStat.of(path, os.fstat(file.fileno()))
            data = file.readall()
            after = FileStat.of(path, os.fstat(file.fileno()))
    except OSError as error:
        raise AdapterError(_unreadable(path, where, error)) from error
    if not before == opened == after or len(data) != opened.size:
        msg = (
            f"{where}: {str(path)!r} changed while it was read. Write an adapter to a new "
            "directory and rename it when it is complete."
        )
        raise AdapterError(msg)
    return opened, data
