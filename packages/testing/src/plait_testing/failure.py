"""How a standard test fails."""

from __future__ import annotations

from typing import NoReturn

import pytest


def fail(message: str, *, shows_where: bool = False) -> NoReturn:
    """Fail the running test.

    Parameters
    ----------
    message : str
        What the backend does, and what its contract says.
    shows_where : bool
        Whether pytest prints the traceback: where the kernel called what it must not call.
    """
    pytest.fail(message, pytrace=shows_where)
