"""``python -m plait_vllm``: a program runs as Python itself would run it, and vllm is plait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plait_vllm.table import VLLM_VERSION


def run(
    *arguments: str, cwd: Path | None = None, code: int = 0, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "plait_vllm", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=input,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def program(folder: Path, text: str, name: str = "program.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_alias(tmp_path: Path) -> None:
    path = program(
        tmp_path,
        """
import importlib.metadata, importlib.util, sys
import vllm
from vllm import LLM, SamplingParams
import vllm.lora.request as request
from vllm.sampling_params import *
print(vllm.__version__, importlib.metadata.version("vllm"))
print(LLM.__module__, SamplingParams.__module__, request.LoRARequest.__module__)
print(vllm.outputs.RequestOutput.__name__, RequestOutputKind.DELTA.name)
print(importlib.util.find_spec("vllm") is not None, "torch" in sys.modules)
try:
    from vllm import ModelRegistry
except ImportError as error:
    print(error)
""",
    )
    lines = run(path).stdout.splitlines()
    assert lines[0] == f"{VLLM_VERSION} {VLLM_VERSION}"
    assert lines[1] == "plait.llm plait_sampling.params plait_lora.request"
    assert lines[2] == "RequestOutput DELTA"
    assert lines[3].startswith("True")
    assert lines[4].startswith("plait has no vllm.ModelRegistry: models run on plait's own")


def test_a_file_is_run_as_python_runs_it(tmp_path: Path) -> None:
    text = """
import sys, pickle
import beside
class Thing: ...
print(__name__, __spec__, __package__, __file__, __builtins__ is not None)
print(sys.argv, sys.path[0], sys.modules["__main__"].Thing is Thing)
print(pickle.loads(pickle.dumps(Thing)) is Thing, __annotations__)
"""
    program(tmp_path, "", "beside.py")
    path = program(tmp_path, text)
    arguments = [path, "-m", "x", "--help"]
    plain = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd="/"
    )
    assert run(*arguments, cwd=Path("/")).stdout == plain.stdout
    # A path that leads there through where one is.
    assert "['program.py', 'x']" in run("program.py", "x", cwd=tmp_path).stdout


@pytest.mark.parametrize("name", ["package.inside", "package"])
def test_a_module_is_run_as_python_runs_it(tmp_path: Path, name: str) -> None:
    text = """
import sys
from . import beside
print(__name__, __spec__.name, __package__, __file__, sys.argv, sys.path[0])
"""
    for file in ("__init__.py", "beside.py"):
        program(tmp_path, "", f"package/{file}")
    for file in ("inside.py", "__main__.py"):
        program(tmp_path, text, f"package/{file}")
    plain = subprocess.run(
        [sys.executable, "-m", name, "a", "-m"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert run("-m", name, "a", "-m", cwd=tmp_path).stdout == plain.stdout


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    1 / 0\nf()\n",
        "import sys\nsys.excepthook = lambda *a: print('mine', a[2].tb_lineno, file=sys.stderr)\n"
        "1 / 0\n",
        "x = (\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        "    raise ValueError('a') from error\n",
        "import sys\nsys.exit('enough')\n",
        "raise SystemExit(7)\n",
        "import atexit\natexit.register(print, 'bye')\nraise KeyError(3)\n",
        "raise KeyboardInterrupt\n",
    ],
)
def test_errors_look_as_when_python_runs_it(tmp_path: Path, text: str) -> None:
    path = program(tmp_path, text)
    plain = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    done = run(path, code=plain.returncode)
    assert plain.returncode != 0
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)


CHILDREN = """
import multiprocessing, sys
def work(n):
    from vllm.sampling_params import SamplingParams
    import vllm
    return f"{n} {SamplingParams.__module__} {vllm.__version__}"
import vllm  # noqa: also at the top, as programs do
if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(work, [1, 2]))
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_children_know_the_alias(tmp_path: Path, method: str) -> None:
    path = program(tmp_path, CHILDREN)
    expected = [f"{n} plait_sampling.params {VLLM_VERSION}" for n in (1, 2)]
    done = run(path, method)
    assert done.stdout == f"{expected}\n"
    assert done.stderr == ""
    assert run("-m", "program", method, cwd=tmp_path).stdout == f"{expected}\n"


def test_other_processes_do_not_know_it(tmp_path: Path) -> None:
    text = """
import subprocess, sys
code = "import importlib.util as u; print(u.find_spec('vllm'))"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
"""
    assert run(program(tmp_path, text)).stdout.strip() == "None"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_real_vllm_is_hidden_and_that_is_said_once(tmp_path: Path, method: str) -> None:
    real = program(tmp_path, "raise AssertionError('the real one')\n", "vllm/__init__.py")
    path = program(tmp_path, CHILDREN)
    said = f"plait_vllm: in this process vllm is plait; the vLLM in {real} is not used\n"
    for done in (run(path, method), run("-m", "program", method, cwd=tmp_path)):
        assert "plait_sampling.params" in done.stdout
        assert done.stderr == said


def test_usage(tmp_path: Path) -> None:
    assert run("--help").stdout.startswith("usage: python -m plait_vllm PROGRAM.py")
    assert run(code=2).stderr.startswith("usage: python -m plait_vllm PROGRAM.py")
    assert "cannot read the program 'none.py'" in run("none.py", code=2).stderr
    assert "cannot read the program" in run(str(tmp_path), code=2).stderr
    assert "no module 'no_such' that can be run" in run("-m", "no_such", code=2).stderr
    assert "no module 'no.such' that can be run" in run("-m", "no.such", code=2).stderr
    assert "-m needs the name of a module" in run("-m", code=1).stderr
    assert "unknown option -x" in run("-x", code=1).stderr
