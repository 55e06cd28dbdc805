"""Chat templates that programs read from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.chat_template_file import read_chat_template

if TYPE_CHECKING:
    from os import PathLike


def load_chat_template(
    chat_template: str | PathLike[str] | None, *, is_literal: bool = False
) -> str | None:
    """Return the text of a chat template.

    Parameters
    ----------
    chat_template : str | PathLike[str] | None
        The template, or the path of a file that holds it.
    is_literal : bool
        It is the template.

    Raises
    ------
    TypeError
        A path shall be the template.
    InputError
        There is no such file, or it is no text.
    """
    if chat_template is None or not is_literal:
        return read_chat_template(chat_template)
    if not isinstance(chat_template, str):
        text = f"with is_literal=True the template is a str, got {type(chat_template).__name__}"
        raise TypeError(text)
    return chat_template
