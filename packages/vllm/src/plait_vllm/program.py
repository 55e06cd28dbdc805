"""Runs a program in this process, as Python itself would."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING

from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, TracebackType


def run_file(path: str, arguments: Sequence[str], prepare: Callable[[], None]) -> None:
    """Run a file as ``python path arguments…`` does.

    ``prepare`` is called when ``sys.path`` is the program's, before anything of it is imported.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    full = os.path.abspath(path)
    try:
        with io.open_code(full) as file:
            source = file.read()
    except OSError as error:
        text = f"cannot read the program {path!r}: {error.strerror}; pass the path of a .py file"
        raise InputError(text) from error
    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(full))
    prepare()
    main = _main_module()
    main.__file__ = full
    main.__loader__ = SourceFileLoader("__main__", full)
    _execute(lambda: compile(source, full, "exec", dont_inherit=True), main)


def run_module(name: str, arguments: Sequence[str], prepare: Callable[[], None]) -> None:
    """Run a module as ``python -m name arguments…`` does; ``prepare`` as of ``run_file``.

    Raises
    ------
    InputError
        There is no such module.
    """
    sys.argv = ["-m", *arguments]
    prepare()
    spec = _find(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _find(f"{name}.__main__")
    loader = None if spec is None else spec.loader
    get_code: Callable[[str], CodeType | None] | None = getattr(loader, "get_code", None)
    if spec is None or get_code is None:
        text = f"there is no module {name!r} that can be run; pass one that python -m takes"
        raise InputError(text)
    sys.argv[0] = spec.origin or name
    main = _main_module()
    main.__spec__ = spec
    main.__file__ = spec.origin
    vars(main)["__cached__"] = spec.cached
    main.__loader__ = spec.loader
    main.__package__ = spec.parent

    def code() -> CodeType:
        found = get_code(spec.name)
        if found is None:
            text = f"there is no code of module {spec.name!r}; pass one that python -m takes"
            raise InputError(text)
        return found

    _execute(code, main)


def _find(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:
        text = f"there is no module {name!r} that can be run: {error}"
        raise InputError(text) from error


def _main_module() -> ModuleType:
    main = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    vars(main)["__annotations__"] = {}
    return main


def _execute(compiled: Callable[[], CodeType], main: ModuleType) -> None:
    sys.modules["__main__"] = main
    try:
        exec(compiled(), vars(main))
    except BaseException as error:
        _hide_own_frames(error, main)
        raise


def _hide_own_frames(error: BaseException, main: ModuleType) -> None:
    """Let the traceback begin in the program, as it does when Python runs it."""
    start = error.__traceback__
    while start is not None and start.tb_frame.f_globals is not vars(main):
        start = start.tb_next
    # Taken only now: the program may have set its own.
    show = sys.excepthook

    def show_program(
        kind: type[BaseException], value: BaseException, traceback: TracebackType | None
    ) -> None:
        if value is error:
            value, traceback = value.with_traceback(start), start
        show(kind, value, traceback)

    sys.excepthook = show_program
