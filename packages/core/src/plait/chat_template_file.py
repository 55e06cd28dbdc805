"""A chat template that a caller gives: a file, or the text itself."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError

_MOST_BYTES = 2**20
_MARKS = "{}\n"
"""What a template has and no name of a file."""


def read_chat_template(given: str | PathLike[str] | None) -> str | None:
    """Return the text of a chat template.

    Parameters
    ----------
    given : str | PathLike[str] | None
        The template, or the path of a file that holds it. A text with a brace or a line break is
        a template.

    Raises
    ------
    InputError
        There is no such file, or it is no text of at most 1 MiB.
    """
    if given is None:
        return None
    if isinstance(given, str) and any(mark in given for mark in _MARKS):
        return given
    if not isinstance(given, str | PathLike) or not str(given):
        raise _unusable(given, "it is neither a str nor a path")
    try:
        path = Path(given).expanduser()
        if not path.is_file():
            raise _unusable(given, "there is no such file")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(given, str(error)) from error
    if len(content) > _MOST_BYTES:
        raise _unusable(given, f"it has more than {_MOST_BYTES} bytes")
    return text


def _unusable(given: object, why: str) -> InputError:
    text = (
        f"chat_template={shown(given)} cannot be used: {why[:200]}. Allowed: a Jinja template, or "
        "the path of a file that holds one."
    )
    return InputError(text)
