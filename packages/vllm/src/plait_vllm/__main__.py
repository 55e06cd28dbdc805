"""``python -m plait_vllm PROGRAM.py ARGUMENTS…`` runs a program written for vLLM on plait."""

from __future__ import annotations

import sys

from plait_kernels.errors import InputError
from plait_vllm.finder import install_alias, share_with_children
from plait_vllm.program import run_file, run_module
from plait_vllm.table import VLLM_VERSION

USAGE = f"""\
usage: python -m plait_vllm PROGRAM.py [ARGUMENT ...]
       python -m plait_vllm -m MODULE [ARGUMENT ...]

Run a program written for vLLM on plait. In its process, and in those that it starts with
multiprocessing, "import vllm" brings plait's classes under vLLM's names ({VLLM_VERSION}).
"""


def prepare() -> None:
    """Make vllm mean plait, and say so if there is another."""
    hidden = install_alias()
    if hidden is not None:
        print(
            f"plait_vllm: in this process vllm is plait; the vLLM in {hidden} is not used",
            file=sys.stderr,
        )
    share_with_children()


def main(arguments: list[str]) -> None:
    """Run the program that the arguments name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    as_module = name == "-m"
    if as_module:
        if not rest:
            sys.exit("plait_vllm: -m needs the name of a module")
        name, *rest = rest
    elif name.startswith("-"):
        sys.exit(f"plait_vllm: unknown option {name}; see python -m plait_vllm --help")
    try:
        if as_module:
            run_module(name, rest, prepare)
        else:
            run_file(name, rest, prepare)
    except InputError as error:
        if sys.modules["__main__"].__dict__ is globals():
            # The program was not even started.
            print(f"plait_vllm: {error}", file=sys.stderr)
            sys.exit(2)
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
