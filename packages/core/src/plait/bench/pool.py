"""The systems that are loaded: one worker each, started when first needed."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from plait.bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from plait.bench.cells import System

_MODULES = MappingProxyType(
    {
        "plait": "plait_system",
        "transformers": "transformers_system",
        "peft": "transformers_system",
        "vllm": "vllm_system",
    }
)
OFFLINE: Mapping[str, str] = MappingProxyType({"HF_HUB_OFFLINE": "1"})
_TITLES = MappingProxyType(
    {
        "plait": "plait",
        "transformers": "transformers",
        "peft": "transformers + peft",
        "vllm": "vLLM",
    }
)


@dataclass(frozen=True)
class Setting:
    """What is the same for all systems of a run.

    Attributes
    ----------
    model : str
        What plait and transformers load.
    checkpoint : str
        What vLLM loads: a directory.
    threads, max_model_len, max_num_seqs : int
    peer_python : str
        Interpreter of vLLM's environment.
    peer_environment : Mapping[str, str]
        Variables of vLLM's worker.
    options, peer_options : Mapping[str, Any]
        More keywords of plait's ``LLM``, and of the peer's.
    """

    model: str
    checkpoint: str
    threads: int
    max_model_len: int
    max_num_seqs: int
    peer_python: str = sys.executable
    peer_environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    peer_options: Mapping[str, Any] = field(default_factory=dict)


def title(system: System) -> str:
    """Return a system's name for people, without its dtype."""
    suffix = ", LoRA on" if system.name == "plait" and system.lora else ""
    return _TITLES[system.name] + suffix


def full_title(system: System) -> str:
    """Return a system's name for people."""
    return f"{title(system)}, {system.dtype}"


def variables(threads: int) -> dict[str, str]:
    """Return the environment variables of a worker that runs in this environment."""
    # Libraries that start their threads on import would not see a later call.
    return {**OFFLINE, "OMP_NUM_THREADS": str(threads)}


class Pool:
    """Workers by system. Use it in a ``with`` block.

    Parameters
    ----------
    setting : Setting
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._workers: dict[System, tuple[Worker, dict[str, str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.keep(())

    def get(self, system: System) -> tuple[Worker, dict[str, str]]:
        """Return a loaded system, and the versions of what it is made of.

        Raises
        ------
        PlaitError
            If it cannot be started or loaded.
        """
        if system not in self._workers:
            self._workers[system] = self._start(system)
        return self._workers[system]

    def keep(self, systems: Iterable[System]) -> None:
        """End every worker of a system that is not among ``systems``: memory is for the others."""
        for system in set(self._workers).difference(systems):
            worker, _ = self._workers.pop(system)
            worker.close()

    def _start(self, system: System) -> tuple[Worker, dict[str, str]]:
        setting = self._setting
        if system.name == "vllm":
            # It binds its threads itself, and warns of OMP_NUM_THREADS that it makes it slower.
            environment = {**OFFLINE, **setting.peer_environment}
            python = setting.peer_python
        else:
            environment = variables(setting.threads)
            python = sys.executable
        worker = Worker(
            full_title(system), _MODULES[system.name], python=python, environment=environment
        )
        arguments = {k: v for k, v in asdict(system).items() if k != "name"}
        try:
            answer = worker.call(
                "load",
                model=setting.checkpoint if system.name == "vllm" else setting.model,
                max_model_len=setting.max_model_len,
                max_num_seqs=setting.max_num_seqs,
                threads=setting.threads,
                options=dict(setting.options if system.name == "plait" else setting.peer_options),
                **arguments,
            )
        except BaseException:
            worker.close()
            raise
        return worker, answer.result
