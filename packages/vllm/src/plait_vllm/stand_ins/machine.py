"""The machine and the process: addresses, ports, the platform, cleaning up."""

from __future__ import annotations

import gc
import os
import socket
import sys
import uuid


class Platform:
    """What the program runs on. vLLM asks for it to choose its code."""

    @property
    def device_type(self) -> str:
        """ "cuda" or "cpu"."""
        return "cuda" if self.is_cuda() or self.is_rocm() else "cpu"

    @property
    def device_name(self) -> str:
        """As ``device_type``."""
        return self.device_type

    def is_cuda(self) -> bool:
        """Return whether there is an NVIDIA GPU."""
        import torch

        return torch.cuda.is_available() and torch.version.hip is None

    def is_rocm(self) -> bool:
        """Return whether there is an AMD GPU."""
        import torch

        return torch.cuda.is_available() and torch.version.hip is not None

    def is_cuda_alike(self) -> bool:
        """Return whether there is a GPU of either kind."""
        return self.is_cuda() or self.is_rocm()

    def is_cpu(self) -> bool:
        """Return whether there is no GPU."""
        return not self.is_cuda_alike()

    def is_tpu(self) -> bool:
        """Return False: TPUs are not served."""
        return False

    def is_xpu(self) -> bool:
        """Return False: Intel's GPUs are not served."""
        return False

    def get_device_name(self, device_id: int = 0) -> str:
        """Return the name of a device."""
        import torch

        return torch.cuda.get_device_name(device_id) if self.is_cuda_alike() else "cpu"


current_platform = Platform()


def random_uuid() -> str:
    """Return 16 random hexadecimal digits, for a request's id."""
    return uuid.uuid4().hex[:16]


def get_ip() -> str:
    """Return an address of this machine: ``VLLM_HOST_IP``, or the one that leads outside."""
    if given := os.environ.get("VLLM_HOST_IP"):
        return given
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                # Nothing is sent: it only says which of our addresses would be used.
                probe.connect((far, 80))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"


def get_open_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def destroy_model_parallel() -> None:
    """Do nothing: there are no process groups."""


def cleanup_dist_env_and_memory(shutdown_ray: bool = False) -> None:
    """Collect what is no longer used, an engine that was deleted included, and give back memory.

    Parameters
    ----------
    shutdown_ray : bool
        Also shut down Ray, if the program has imported it.
    """
    if shutdown_ray and "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
