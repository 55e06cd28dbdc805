"""``python -m plait.bench cpu``: what plait and its peers do on the same work, in turns.

``python -m plait.bench decode``, ``prefill``, ``steady``, ``throughput``: what the offline engine
does on a device, beside what the device could do.

``python -m plait.bench profile``: where the time of a step of plait's goes.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from plait.bench import cpu, offline, profile
from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark.

    Parameters
    ----------
    argv : Sequence[str] | None
        Options, None = those of the process.

    Returns
    -------
    int
        0, or 1 if it could not be run to its end.
    """
    parser = argparse.ArgumentParser(prog="python -m plait.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cpu.add_options(commands.add_parser("cpu", help=cpu.HELP, description=cpu.HELP))
    for name, told in offline.HELP.items():
        offline.add_options(commands.add_parser(name, help=told, description=told), name)
    profile.add_options(commands.add_parser("profile", help=profile.HELP, description=profile.HELP))
    options = parser.parse_args(argv)
    runs = {"cpu": cpu.run, "profile": profile.run}
    try:
        runs.get(options.command, offline.run)(options)
    except PlaitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
