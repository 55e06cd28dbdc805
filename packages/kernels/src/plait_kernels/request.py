"""KernelRequest: which backends a user asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from plait_kernels.errors import KernelError
from plait_kernels.ops import OPS

ANY: Final = "*"
"""As an op: every op that is not named. At the end of a list of backends: whatever auto picks."""

SYNTAX: Final = "write 'op=backend,backend;*=backend', as in 'lora=cuda,triton;*=torch'"

RequestLike: TypeAlias = "KernelRequest | str | Mapping[str, str | Sequence[str]] | None"
"""What a request is parsed from."""


@dataclass(frozen=True)
class KernelRequest:
    """For each op the backends to use, in order of preference.

    Attributes
    ----------
    choices : tuple[tuple[str, tuple[str, ...]], ...]
        (op, backends), sorted by op; the op ``"*"`` stands for every op that is not named.
        Empty = auto.
    """

    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def backends_for(self, op: str) -> tuple[str, ...]:
        """Return the backends asked for, first choice first; ``("*",)`` = auto."""
        choices = dict(self.choices)
        return choices.get(op, choices.get(ANY, (ANY,)))

    @classmethod
    def parse(cls, value: RequestLike) -> KernelRequest:
        """Read a request.

        Parameters
        ----------
        value : KernelRequest | str | Mapping[str, str | Sequence[str]] | None
            ``"lora=cuda,triton;*=torch"``, or the same as a dict from op to a backend or a list
            of backends. A list of backends alone means ``*=…``. The first usable of a list is
            taken; a final ``*`` falls back to auto (``"lora=triton,*"``). None or an empty
            text = auto.

        Raises
        ------
        KernelError
            It cannot be read, or names an unknown op.

        Examples
        --------
        >>> KernelRequest.parse("lora=cuda,triton;*=torch").backends_for("lora")
        ('cuda', 'triton')
        >>> KernelRequest.parse("torch") == KernelRequest.parse({"*": ["torch"]})
        True
        """
        if value is None:
            return cls()
        if isinstance(value, KernelRequest):
            return value
        if isinstance(value, str):
            return cls._of(_split(value))
        if isinstance(value, Mapping):
            return cls._of((op, _names(op, names)) for op, names in value.items())
        msg = (
            f"a request for kernels was a {type(value).__name__}; "
            f"a text, a dict or None is allowed: {SYNTAX}"
        )
        raise KernelError(msg)

    @classmethod
    def resolve(cls, argument: RequestLike, environment_value: str | None) -> KernelRequest:
        """Choose between the sources of a request: the argument of ``LLM``, then the environment.

        Parameters
        ----------
        argument : KernelRequest | str | Mapping[str, str | Sequence[str]] | None
            ``LLM(kernels=…)``; None = not given.
        environment_value : str | None
            What the caller found in ``PLAIT_KERNELS``; None or blank = not set.

        Raises
        ------
        KernelError
            The request that counts cannot be read; the message names its source.
        """
        value, source = (
            (argument, "kernels=")
            if argument is not None
            else (environment_value, "environment variable PLAIT_KERNELS")
        )
        try:
            return cls.parse(value)
        except KernelError as error:
            msg = f"{source}: {error}"
            raise KernelError(msg) from None

    @classmethod
    def _of(cls, parts: Iterable[tuple[str, tuple[str, ...]]]) -> KernelRequest:
        choices: dict[str, tuple[str, ...]] = {}
        for op, backends in parts:
            if op not in OPS and op != ANY:
                known = ", ".join((*OPS, ANY))
                msg = f"unknown op {op!r} in a request for kernels{nearest(op, OPS)}; use {known}"
                raise KernelError(msg)
            if op in choices:
                msg = f"op {op!r} is asked for twice; name it once, with a list: {SYNTAX}"
                raise KernelError(msg)
            _check_backends(op, backends)
            choices[op] = backends
        return cls(tuple(sorted(choices.items())))

    def __str__(self) -> str:
        return ";".join(f"{op}={','.join(names)}" for op, names in self.choices) or "auto"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name most like ``name``, or ``""``."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _split(text: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for part in filter(None, (part.strip() for part in text.split(";"))):
        op, equals, names = part.rpartition("=")
        op = op.strip() if equals else ANY
        yield op, _names(op, names)


def _names(op: str, value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        msg = f"the backends for op {op!r} were {value!r}; a text or a list of texts is allowed"
        raise KernelError(msg)
    return tuple(name.strip() for name in names)


def _check_backends(op: str, backends: tuple[str, ...]) -> None:
    if not backends or not all(backends):
        msg = f"a name of a backend for op {op!r} is empty: {SYNTAX}"
    elif len(set(backends)) < len(backends):
        msg = f"a backend for op {op!r} is named twice in {','.join(backends)!r}; name it once"
    elif ANY in backends[:-1]:
        msg = f"{ANY!r} is not the last backend for op {op!r}; nothing after it could be reached"
    else:
        return
    raise KernelError(msg)
