"""The two files of an adapter directory: looked at, and read once into our own memory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError
from plait_lora.adapter_directory import CONFIG_NAME, adapter_paths
from plait_lora.opened_file import FileStat, OpenedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CONFIG_BYTES = 4 << 20
"""The largest config that is read. One that names every module of a large model has some KiB."""


@dataclass(frozen=True)
class AdapterStat:
    """The state of both files of an adapter."""

    config: FileStat
    weights: FileStat


@dataclass(frozen=True)
class AdapterFiles:
    """Both files; the config is read, the weights are open.

    Attributes
    ----------
    stat : AdapterStat
        Of the very files that are read.
    config : bytes
    weights : OpenedFile
    """

    stat: AdapterStat
    config: bytes
    weights: OpenedFile


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
    config, weights = adapter_paths(path, where)
    return AdapterStat(FileStat.look(config, where), FileStat.look(weights, where))


@contextmanager
def read_adapter(path: str, where: str) -> Iterator[AdapterFiles]:
    """Read the config of an adapter directory and open its weights.

    Files are read and never mapped: a file that shrinks under a memory map kills the process.

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
    config_path, weights_path = adapter_paths(path, where)
    with OpenedFile(config_path, where) as config:
        if config.stat.size > MAX_CONFIG_BYTES:
            msg = (
                f"{where}: {CONFIG_NAME} has {config.stat.size} bytes, and at most "
                f"{MAX_CONFIG_BYTES} are read. Save the adapter again with PEFT's save_pretrained."
            )
            raise AdapterError(msg)
        config_stat, config_data = config.stat, config.whole()
    with OpenedFile(weights_path, where) as weights:
        yield AdapterFiles(AdapterStat(config_stat, weights.stat), config_data, weights)
