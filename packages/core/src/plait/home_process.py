"""HomeProcess: an engine that finds itself in a forked process."""

from __future__ import annotations

import logging
import os

import torch

from plait_kernels.errors import InputError

logger = logging.getLogger(__name__)


class HomeProcess:
    """The process that an engine computes in.

    The threads with which torch computes stay behind in a fork, and a step in the child would wait
    for them for ever. So the child computes with one thread. A GPU cannot be used there at all.

    Parameters
    ----------
    device : torch.device
        Of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = os.getpid()

    def enter(self) -> None:
        """Get ready to compute in this process.

        Raises
        ------
        InputError
            If the engine is on a GPU and was made in another process.
        """
        if self._process == os.getpid():
            return
        if self._device.type != "cpu":
            text = (
                f"this engine was made on {self._device} in process {self._process}, of which this "
                "one is a fork; a GPU cannot be used across a fork. Make the engine in this "
                "process, or start processes with the method 'spawn'"
            )
            raise InputError(text)
        torch.set_num_threads(1)
        self._process = os.getpid()
        logger.warning(
            "this engine was made in another process, of which this one is a fork: it computes "
            "with one thread here. Make an engine in this process to use more"
        )
