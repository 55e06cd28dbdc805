"""The hook by which a distribution brings kernels.

A module that is named by an entry point of group ``plait.kernels`` implements the hook::

    from plait_kernels import Backend, Kernel, hookimpl

    @hookimpl
    def plait_kernel_backend():
        return Backend("fast", (Kernel("rms_norm", "fast_kernels.norm:make"),), api_version=1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from plait_kernels.backend import Backend

PROJECT: Final = "plait"
"""Name under which pluggy keeps plait's hooks apart from those of other projects."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function as the implementation of a hook."""


@hookspec
def plait_kernel_backend() -> Backend:  # type: ignore[empty-body]  # pluggy runs plugins only
    """Declare a backend: called once each time backends are loaded.

    Declaring is cheap: neither the module nor the hook imports torch or the library that the
    kernels need. Those are imported by a kernel's factory, once it has been chosen; whether the
    library is there is for ``Backend.probe`` to say.

    Returns
    -------
    Backend
        Its ``name`` is best the entry point's own: that is how a backend is found that could not
        be loaded. Every ``Kernel.op`` is a key of ``plait_kernels.ops.OPS``.
    """
