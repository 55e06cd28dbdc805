# ruff: noqa: T201
"""Runs programs one after another, as each would run by itself, in one process.

Prints what they print, as one JSON object. The first argument is a JSON list of argument lists.
"""

import contextlib
import io
import json
import runpy
import sys

if __name__ == "__main__":
    printed = {}
    for program, *arguments in json.loads(sys.argv[1]):
        sys.argv = [program, *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            runpy.run_path(program, run_name="__main__")
        printed[program] = output.getvalue()
    print(json.dumps(printed))
