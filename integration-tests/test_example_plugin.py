"""A third party's kernels, from its wheel to the engine that calls them.

The wheel of ``example-plugin`` is built and installed into a folder of its own, which only the
processes that are started here have on their path.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from plait_kernels.ops import OPS

SOURCE = Path(__file__).parent / "example-plugin"
PROGRAMS = SOURCE / "tests" / "programs"
PROMPT = list(range(3, 43))
ORIGIN = "entry point example = plait_example of plait-example 0.1.0"

DECLARING = """
from plait_kernels import Backend, Kernel, hookimpl

@hookimpl
def plait_kernel_backend():
    return {backend}

def make(config):
    raise OSError("libfast.so is missing")

def nothing(config):
    pass

def leave(subject):
    raise SystemExit("no driver")
"""


def declaring(name: str, fields: str = "", of_kernel: str = "", factory: str = "make") -> str:
    kernel = f"Kernel('rms_norm', 'plait_{name}:{factory}'{of_kernel})"
    called = "example" if name == "twin" else name
    return DECLARING.format(backend=f"Backend({called!r}, ({kernel},){fields})")


BAD = {
    "broken": "import a_library_that_is_missing",
    "leaving": "raise SystemExit('no driver')",
    "newer": declaring("newer", ", api_version=2"),
    "older": declaring("older", ", api_version=0"),
    "twin": declaring("twin"),
    "misspelt": declaring("misspelt", of_kernel=", dtypes=('fp32',)"),
    "bare": declaring("bare", of_kernel=", devices='cpu'"),
    "unmade": declaring("unmade", of_kernel=", priority=300"),
    "nothing": declaring("nothing", of_kernel=", priority=200", factory="nothing"),
    "unsure": declaring("unsure", ", probe=leave"),
}
"""A plugin for each way of being wrong: name → source."""

FAILURES = {
    "broken": (
        "backend 'broken' (entry point broken = plait_broken of plait-broken 1.0) was not loaded: "
        "importing plait_broken raised ModuleNotFoundError: "
        "No module named 'a_library_that_is_missing'; "
        "repair or uninstall plait-broken, or install what it needs"
    ),
    "newer": (
        "backend 'newer' (entry point newer = plait_newer of plait-newer 1.0) was not loaded: "
        "it is made for API version 2, this plait has 1; upgrade plait-kernels"
    ),
    "older": (
        "backend 'older' (entry point older = plait_older of plait-older 1.0) was not loaded: "
        "it is made for API version 0, this plait has 1; upgrade the backend"
    ),
    "twin": (
        "backend 'example' (entry point twin = plait_twin of plait-twin 1.0) was not loaded: "
        f"'example' is already the backend of {ORIGIN}; "
        "uninstall one of the two distributions, or rename its backend"
    ),
    "leaving": (
        "backend 'leaving' (entry point leaving = plait_leaving of plait-leaving 1.0) was not "
        "loaded: importing plait_leaving raised SystemExit: no driver; "
        "repair or uninstall plait-leaving, or install what it needs"
    ),
    "misspelt": (
        "backend 'misspelt' (entry point misspelt = plait_misspelt of plait-misspelt 1.0) was not "
        "loaded: of its kernel for rms_norm dtypes has the unknown 'fp32'; "
        "use some of 'float32', 'bfloat16', 'float16', or leave dtypes out for all of them"
    ),
    "bare": (
        "backend 'bare' (entry point bare = plait_bare of plait-bare 1.0) was not loaded: "
        "of its kernel for rms_norm devices is 'cpu', not a tuple of texts: write ('cpu',); "
        "use some of 'cpu', 'cuda', or leave devices out for all of them"
    ),
}
"""What is said of each that cannot be loaded."""


def python(*arguments: str, path: tuple[Path, ...] = (), **environment: str) -> tuple[str, str]:
    """Run Python with folders on its path; return what it printed and logged."""
    done = start(*arguments, path=path, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def start(
    *arguments: str, path: tuple[Path, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "PLAIT_KERNELS"}
    folders = [*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables |= {
        "PYTHONPATH": os.pathsep.join(folders),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # All tensors are small.
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def choose(*requests: str, path: tuple[Path, ...], how: str = "choose") -> tuple[Any, str]:
    """Return what each request leads to, and what was logged."""
    out, err = python(str(PROGRAMS / "choose.py"), how, *requests, path=path)
    return json.loads(out), err


def table(out: str, backend: str) -> dict[str, str]:
    """What ``python -m plait_kernels`` says of one backend: op → status."""
    lines = [line[20:].split(maxsplit=1) for line in out.splitlines()]
    statuses = [line[1] for line in lines if line[:1] == [backend]]
    return dict(zip(OPS, statuses, strict=True))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    python("-m", "pip", "wheel", *build, str(SOURCE))
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the example is installed."""
    folder = tmp_path_factory.mktemp("site")
    install = ("--no-deps", "--no-index", "--target", str(folder))
    python("-m", "pip", "install", *install, str(wheel))
    return folder


@pytest.fixture(scope="module")
def bad_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every bad plugin is installed."""
    folder = tmp_path_factory.mktemp("bad-site")
    for name, source in BAD.items():
        (folder / f"plait_{name}.py").write_text(source)
        info = folder / f"plait_{name}-1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: plait-{name}\nVersion: 1.0\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[plait.kernels]\n{name} = plait_{name}\n")
    return folder


def test_the_wheel_needs_plait_kernels_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modules = {name for name in archive.namelist() if ".dist-info" not in name}
        metadata = archive.read("plait_example-0.1.0.dist-info/METADATA").decode()
    files = ("__init__.py", "py.typed", "rms_norm.py", "silu_and_mul.py")
    assert modules == {f"plait_example/{name}" for name in files}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert required == ["Requires-Dist: plait-kernels>=0.1"]


def test_auto_takes_the_highest_priority_for_what_it_supports(site: Path) -> None:
    (chosen,) = choose("", path=(site,))[0].values()
    lanes = "example: hidden=50 is not a multiple of 8"
    assert chosen == {
        "rms_norm float32 48": [True],
        "rms_norm float32 50": [False, lanes],
        "rms_norm bfloat16 48": [True],
        "rms_norm bfloat16 50": [False, lanes],
        "silu_and_mul float32 None": [False, "example: takes bfloat16, float16, not float32"],
        "silu_and_mul bfloat16 None": [True],
    }


def test_by_name_it_is_that_or_an_error(site: Path) -> None:
    chosen = choose("rms_norm=example,torch", "rms_norm=example", "torch", path=(site,))[0]
    assert chosen["rms_norm=example,torch"]["rms_norm float32 48"][0]
    assert not chosen["rms_norm=example,torch"]["rms_norm float32 50"][0]
    assert not any(by_example for by_example, *_ in chosen["torch"].values())
    assert chosen["rms_norm=example"].startswith(
        "no kernel for rms_norm[float32, hidden=50] in decode on cpu satisfies "
        "kernels='rms_norm=example'; name a usable one, or write 'rms_norm=example,*' for auto "
        "where example cannot. Candidates:\n"
    )
    assert "\n  example: hidden=50 is not a multiple of 8" in chosen["rms_norm=example"]
    assert "\n  torch: usable (priority 0)" in chosen["rms_norm=example"]


def test_where_it_is_not_installed_asking_for_it_says_so() -> None:
    (error,) = choose("rms_norm=example", path=())[0].values()
    assert "unknown backend 'example' in kernels='rms_norm=example'" in error
    assert "or install the distribution that brings 'example'" in error


def test_an_engine_calls_it(site: Path, bad_site: Path, tiny_model: Path) -> None:
    cases: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"PLAIT_KERNELS": "rms_norm=example"}, {}),
        ({}, {"kernels": {"rms_norm": "example"}}),
        ({}, {}),
        ({}, {"dtype": "bfloat16"}),
        ({"PLAIT_KERNELS": "example,*"}, {"kernels": "torch"}),
        ({}, {"kernels": "silu_and_mul=example"}),
        ({}, {"kernels": "rms_norm=broken"}),
        ({}, {"kernels": "rms_norm=nothing"}),
        ({}, {"kernels": "example"}),
    ]
    arguments = (str(tiny_model), json.dumps(PROMPT), json.dumps(cases))
    out, err = python(str(PROGRAMS / "serve.py"), *arguments, path=(site, bad_site))
    *answers, in_bfloat16, by_torch, refused, broken, nothing, lacking = json.loads(out)
    # One call a step, and the prompt fits in one step.
    rms_norm = in_bfloat16["rms_norm"]
    assert rms_norm >= 6
    assert [answer.get("rms_norm") for answer in answers] == [rms_norm] * 3
    assert all("silu_and_mul" not in answer for answer in answers)
    assert in_bfloat16["silu_and_mul"] == 2 * rms_norm
    assert set(by_torch) == {"tokens"}
    wanted = greedy(tiny_model)
    assert [answer["tokens"] for answer in [*answers, by_torch]] == [wanted] * 4
    assert len(in_bfloat16["tokens"]) == len(wanted)
    assert "example: takes bfloat16, float16, not float32" in refused
    assert FAILURES["broken"] in broken
    assert FAILURES["broken"] in err
    assert "\n  nothing: its factory plait_nothing:nothing returned None" in nothing
    assert "satisfies kernels='example'; name a usable one, or write 'example,*'" in lacking
    # Under auto, those whose factories fail cost themselves only.
    for name in ("unmade", "nothing"):
        assert f"backend {name!r} could not make its kernel for rms_norm[float32, " in err


def greedy(model: Path) -> list[int]:
    """What transformers answers."""
    oracle = LlamaForCausalLM.from_pretrained(model)
    answer = oracle.generate(
        torch.tensor([PROMPT]),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(answer.logits).topk(2).values  # [6, 1, 2]
    assert float((best[..., 0] - best[..., 1]).min()) > 1e-3
    tokens: list[int] = answer.sequences[0, len(PROMPT) :].tolist()
    return tokens


def test_those_that_fail_hinder_no_other(site: Path, bad_site: Path) -> None:
    out, err = python("-m", "plait_kernels", "--param", "hidden=50", path=(site, bad_site))
    assert err == ""
    of_example = table(out, "example")
    assert of_example.pop("rms_norm") == "not usable: hidden=50 is not a multiple of 8"
    reason = "takes bfloat16, float16, not float32"
    assert of_example.pop("silu_and_mul") == f"not usable: {reason}"
    assert set(of_example.values()) == {"has no kernel for this op"}
    assert table(out, "unmade")["rms_norm"] == "chosen", "it only looks"
    assert table(out, "unsure")["rms_norm"] == "not usable: its probe raised SystemExit: no driver"
    for failure in FAILURES.values():
        assert f"\n{failure}\n" in out


def test_by_its_priority_it_is_chosen_in_the_table(site: Path) -> None:
    out, _ = python("-m", "plait_kernels", "--dtype", "bfloat16", path=(site,))
    of_example, of_torch = table(out, "example"), table(out, "torch")
    for op in ("rms_norm", "silu_and_mul"):
        assert (of_example[op], of_torch[op]) == ("chosen", "usable (priority 0)")


def test_a_failure_is_logged_and_raised_by_name(site: Path, bad_site: Path) -> None:
    names = ("", "broken", "leaving", "newer", "older", "misspelt", "bare", "unmade", "unsure")
    requests = [f"rms_norm={name}" if name else "" for name in names]
    said, err = choose(*requests, path=(site, bad_site), how="make")
    assert said[""]["rms_norm float32 48"] == [True]
    for failure in FAILURES.values():
        # Logged once, for backends are loaded once.
        assert err.count(f"{failure}\n") == 1
    for name in names[1:7]:
        honoured = f"kernels='rms_norm={name}' cannot be honoured: {FAILURES[name]}"
        assert said[f"rms_norm={name}"] == honoured
    unmade = said["rms_norm=unmade"]
    assert unmade.startswith("no kernel for rms_norm[float32, hidden=48] in decode on cpu satisfi")
    reason = "its factory plait_unmade:make raised OSError: libfast.so is missing"
    assert f"\n  unmade: {reason}\n" in unmade
    assert "\n  unsure: its probe raised SystemExit: no driver" in said["rms_norm=unsure"]


def test_a_broken_one_asked_for_by_name_is_explained(site: Path, bad_site: Path) -> None:
    done = start("-m", "plait_kernels", path=(site, bad_site), PLAIT_KERNELS="rms_norm=broken")
    assert done.returncode == 2
    reason = FAILURES["broken"]
    message = f"PLAIT_KERNELS='rms_norm=broken' cannot be honoured: {reason}"
    assert done.stderr.startswith(message)
    assert reason not in done.stdout, "it has been said"
    assert FAILURES["newer"] in done.stdout


def test_it_passes_the_conformance_tests(site: Path) -> None:
    out, _ = python("-m", "pytest", "-p", "no:cacheprovider", str(SOURCE), path=(site,))
    (summary,) = re.findall(r"^=+ (.*) in .*s =+$", out, re.MULTILINE)
    assert re.fullmatch(r"\d+ passed", summary), out
