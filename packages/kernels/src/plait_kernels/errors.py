"""The tree of errors that plait raises::

    PlaitError
    ├── InputError (ValueError)        a request, prompt or parameter that cannot be served
    │   ├── AdapterError               an adapter that cannot be honoured exactly
    │   ├── ModelError                 a model that cannot be loaded
    │   ├── KernelRequestError         a request for kernels that cannot be read or honoured
    │   └── RequestsFailed             some requests of one call failed; carries the other outputs
    ├── KernelError                    a kernel that cannot be chosen or loaded
    │   ├── KernelRequestError         is an InputError too
    │   └── BackendUnusable            what a factory raises where nothing of its backend can run
    └── OutOfMemoryError               what was asked for does not fit in the memory there is

Every message says what is wrong, what was got, what is allowed and what to do about it.
"""

from __future__ import annotations


def _writable(value: object) -> object:
    """Write the lone surrogates of a text as escapes: no file and no terminal takes them."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


class PlaitError(Exception):
    """Base of every error that plait raises on purpose.

    A message can always be written to a file: what it quotes may hold lone surrogates.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*map(_writable, args))


class InputError(PlaitError, ValueError):
    """A request, prompt or parameter that cannot be served. It fails alone."""


class AdapterError(InputError):
    """An adapter that is missing, damaged, or cannot be honoured exactly."""


class ModelError(InputError):
    """A model directory or file that cannot be loaded."""


class KernelError(PlaitError):
    """A kernel or backend that cannot be chosen or loaded."""


class KernelRequestError(KernelError, InputError):
    """A request for kernels that cannot be read, or that cannot be honoured here."""


class BackendUnusable(KernelError):
    """Nothing of a backend can be used on this machine: raised by its kernels' factories.

    The backend is not asked for another kernel of the same engine, so that what takes long, such as
    compiling, fails once. The message says what is wrong and what to do about it.
    """


class OutOfMemoryError(PlaitError):
    """What was asked for does not fit in the memory there is; the message has the numbers."""


class RequestsFailed(InputError):
    """Some requests of one call failed while the others finished.

    Parameters
    ----------
    message : str
        What failed, and why.
    errors : dict[int, PlaitError]
        The error of each failed request, by its place in the call.
    outputs : list[object]
        One output a request, in the order of the call; a failed one has ``error`` set.
    """

    def __init__(self, message: str, errors: dict[int, PlaitError], outputs: list[object]) -> None:
        super().__init__(message)
        self.errors = errors
        self.outputs = outputs

    def __reduce__(
        self,
    ) -> tuple[type[RequestsFailed], tuple[str, dict[int, PlaitError], list[object]]]:
        return type(self), (str(self), self.errors, self.outputs)
