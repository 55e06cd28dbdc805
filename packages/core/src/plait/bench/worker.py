"""A system that runs in a process of its own and stays loaded; this is the parent's end of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

WORKERS = Path(__file__).parent / "workers"
_LAST_LINES = 12
_STOP_SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """What a call gave, and how long it took inside the worker.

    Attributes
    ----------
    seconds : float
    result : Any
        Of what JSON can say.
    """

    seconds: float
    result: Any


class Worker:
    """One process. Use it in a ``with`` block.

    Parameters
    ----------
    name : str
        For messages.
    module : str
        A module of ``workers``; its ``System`` is made once and called.
    python : str
        The interpreter; needs what the module imports, and not plait itself.
    environment : Mapping[str, str]
        Variables beside those of this process.
    workers : Path
        Folder of the modules.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        workers: Path = WORKERS,
    ) -> None:
        self.name = name
        # A pipe that nobody reads would fill up and stop the worker.
        self._log = tempfile.TemporaryFile(  # noqa: SIM115 (close() closes it)
            "w+", encoding="utf-8", errors="replace"
        )
        try:
            self._process = subprocess.Popen(
                [python, str(workers), module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **(environment or {})},
                encoding="utf-8",
            )
        except OSError as error:
            self._log.close()
            text = f"{python} cannot be started for {name}: {error}; pass an interpreter that runs"
            raise PlaitError(text) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, method: str, **arguments: Any) -> Answer:
        """Call a method of the worker's system and wait for its answer.

        Raises
        ------
        PlaitError
            If the call fails, or the process ends; with the last lines that it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            what = f"ended in {method!r} with exit status {status}"
            raise self._failed(what)
        answer = json.loads(line)
        if "error" in answer:
            what = f"failed in {method!r}: {answer['error']}"
            raise self._failed(what)
        return Answer(answer["seconds"], answer["result"])

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        assert self._process.stdout is not None
        try:
            # Closes stdin, which tells the worker to end.
            self._process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def _failed(self, what: str) -> PlaitError:
        self._log.seek(0)
        lines = self._log.read().splitlines()[-_LAST_LINES:]
        wrote = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        text = (
            f"the worker of {self.name} {what}. Repair what it says, or leave this system out "
            f"(--peer, --cells). It wrote last:\n{wrote}"
        )
        return PlaitError(text)
