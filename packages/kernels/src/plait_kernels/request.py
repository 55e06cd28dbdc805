"""KernelRequest: which backends a user asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from plait_kernels.containment import shorten, show
from plait_kernels.errors import KernelRequestError
from plait_kernels.ops import OPS

ANY: Final = "*"
"""As an op: every op that is not named. At the end of a list of backends: whatever auto picks."""

AUTO: Final = "auto"
"""As a backend the same as ``"*"``; no backend may have this name."""

ARGUMENT: Final = "kernels"
VARIABLE: Final = "PLAIT_KERNELS"

SYNTAX: Final = "write 'op=backend,backend;*=backend', as in 'lora=triton,cpu;*=torch'"

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
    written : str
        What the user wrote, for messages: ``"kernels='acme'"``. Requests that mean the same are
        equal however they were written.
    """

    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()
    written: str = field(default="", compare=False)

    def backends_for(self, op: str) -> tuple[str, ...]:
        """Return the backends asked for, first choice first; ``("*",)`` = auto."""
        choices = dict(self.choices)
        return choices.get(op, choices.get(ANY, (ANY,)))

    @property
    def quoted(self) -> str:
        """The request as its user wrote it, shortened."""
        return shorten(self.written) if self.written else f"{ARGUMENT}={str(self)!r}"

    def with_auto_for(self, op: str) -> str:
        """Write the request that goes on with auto where this one finds nothing for an op."""
        choices = dict(self.choices)
        key = op if op in choices else ANY
        choices[key] = (*(name for name in choices.get(key, ()) if name != ANY), ANY)
        if list(choices) == [ANY]:
            return ",".join(choices[ANY])
        return str(replace(self, choices=tuple(choices.items())))

    @classmethod
    def parse(cls, value: RequestLike) -> KernelRequest:
        """Read a request.

        Parameters
        ----------
        value : KernelRequest | str | Mapping[str, str | Sequence[str]] | None
            ``"lora=triton,cpu;*=torch"``, or the same as a dict from op to a backend or a list
            of backends. A list of backends alone means ``*=…``. The first usable of a list is
            taken; a final ``*`` (or ``auto``) goes on with auto (``"lora=triton,*"``). None or an
            empty text = auto.

        Raises
        ------
        KernelRequestError
            It cannot be read, or names an unknown op.

        Examples
        --------
        >>> KernelRequest.parse("lora=triton,cpu;*=torch").backends_for("lora")
        ('triton', 'cpu')
        >>> KernelRequest.parse("torch") == KernelRequest.parse({"*": ["torch"]})
        True
        """
        return cls._parse(value, ARGUMENT)

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
        KernelRequestError
            The request that counts cannot be read; the message names its source.
        """
        value, name, source = (
            (argument, ARGUMENT, f"{ARGUMENT}=")
            if argument is not None
            else (environment_value, VARIABLE, f"environment variable {VARIABLE}")
        )
        try:
            return cls._parse(value, name)
        except KernelRequestError as error:
            msg = f"{source}: {error}"
            raise KernelRequestError(msg) from None

    @classmethod
    def _parse(cls, value: RequestLike, source: str) -> KernelRequest:
        if value is None:
            return cls()
        if isinstance(value, KernelRequest):
            return value
        if isinstance(value, str):
            parts = _split(value)
        elif isinstance(value, Mapping):
            parts = ((op, _names(op, names)) for op, names in value.items())
        else:
            msg = (
                f"a request for kernels was a {type(value).__name__}; "
                f"a text, a dict or None is allowed: {SYNTAX}"
            )
            raise KernelRequestError(msg)
        return replace(cls._of(parts), written=f"{source}={value!r}")

    @classmethod
    def _of(cls, parts: Iterable[tuple[str, tuple[str, ...]]]) -> KernelRequest:
        choices: dict[str, tuple[str, ...]] = {}
        for op, backends in parts:
            if not isinstance(op, str) or (op not in OPS and op != ANY):
                known = ", ".join((*OPS, ANY))
                hint = nearest(op, OPS) if isinstance(op, str) else ""
                msg = f"unknown op {show(op)} in a request for kernels{hint}; use {known}"
                raise KernelRequestError(msg)
            if op in choices:
                msg = f"op {op!r} is asked for twice; name it once, with a list: {SYNTAX}"
                raise KernelRequestError(msg)
            _check_backends(op, backends)
            choices[op] = backends
        return cls(tuple(sorted(choices.items())))

    def __str__(self) -> str:
        return ";".join(f"{op}={','.join(names)}" for op, names in self.choices) or AUTO


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name most like ``name``, or ``""``."""
    # Nobody means a short name by a long text, and comparing it takes long.
    if len(name) > 64:
        return ""
    by_lower = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""


def _split(text: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for part in filter(None, (part.strip() for part in text.split(";"))):
        op, equals, names = part.rpartition("=")
        op = op.strip() if equals else ANY
        yield op, _names(op, names)


def _names(op: object, value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(names, Sequence)
        or isinstance(names, bytes)
        or not all(isinstance(name, str) for name in names)
    ):
        msg = (
            f"the backends for op {show(op)} were {show(value)}; "
            "a text or a list of texts is allowed"
        )
        raise KernelRequestError(msg)
    stripped = (name.strip() for name in names)
    return tuple(ANY if name == AUTO else name for name in stripped)


def _check_backends(op: str, backends: tuple[str, ...]) -> None:
    if not backends or not all(backends):
        msg = f"a name of a backend for op {op!r} is empty: {SYNTAX}"
    elif len(set(backends)) < len(backends):
        listed = shorten(",".join(backends))
        msg = f"a backend for op {op!r} is named twice in {listed!r}; name it once"
    elif ANY in backends[:-1]:
        msg = f"{ANY!r} is not the last backend for op {op!r}; nothing after it could be reached"
    else:
        return
    raise KernelRequestError(msg)
