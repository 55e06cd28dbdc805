"""``python -m plait_kernels``."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from plait_kernels.__main__ import main
from plait_kernels.device import Device
from plait_kernels.errors import KernelError
from plait_kernels.ops import OPS
from plait_kernels.probe import device_of


@pytest.fixture(autouse=True)
def _bare_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, no request, and of the installed backends only those of the test."""
    installed = importlib.metadata.entry_points

    def of_the_test(group: str) -> list[EntryPoint]:
        folders = [(found, found.dist.locate_file("")) for found in installed(group=group)]
        return [found for found, folder in folders if Path(str(folder)) == tmp_path]

    monkeypatch.setattr(importlib.metadata, "entry_points", of_the_test)
    monkeypatch.delenv("PLAIT_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def statuses(out: str, backend: str) -> list[str]:
    """What the table says of one backend, in the order of the ops."""
    lines = [line[20:] for line in out.splitlines()]
    return [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [backend]]


def install(site: Path, name: str, source: str) -> None:
    (site / f"plait_{name}.py").write_text(source)
    info = site / f"plait_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plait-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[plait.kernels]\n{name} = plait_{name}\n")


FAST = """
from plait_kernels import Backend, Kernel, hookimpl

def reasons(config):
    return () if config.bucket == "decode" else ("only for decode",)

@hookimpl
def plait_kernel_backend():
    return Backend("fast", (
        Kernel("lora", "nowhere:make", supports=reasons, priority=5),
        Kernel("sample", "nowhere:make", devices=("cuda",)),
    ))
"""


WIDE = """
from plait_kernels import Backend, Kernel, hookimpl

def reasons(config):
    return (f"hidden is {config.get('hidden')}",) if config.get("hidden") < 64 else ()

@hookimpl
def plait_kernel_backend():
    return Backend("wide", (Kernel("rms_norm", "nowhere:make", supports=reasons, priority=1),))
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "fast", FAST)
    install(tmp_path, "broken", "import a_library_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_as_a_program(plugins: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(plugins), "PLAIT_KERNELS": "*=torch"}
    done = subprocess.run(
        [sys.executable, "-m", "plait_kernels", "--dtype", "float16"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "float16" in done.stdout
    assert "*=torch" in done.stdout
    assert set(statuses(done.stdout, "torch")) == {"chosen"}
    assert done.stdout.count("No module named 'a_library_that_is_missing'") == 1


@pytest.mark.usefixtures("plugins")
def test_the_table_shows_every_op_and_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    titles = [line[:20].strip() for line in out.splitlines()[4:]]
    assert [title for title in titles if title in OPS] == list(OPS)
    assert statuses(out, "reference") == ["usable, by name only"] * len(OPS)
    of_torch = dict(zip(OPS, statuses(out, "torch"), strict=True))
    assert of_torch.pop("lora") == "decode: usable (priority 0) | prefill: chosen"
    assert set(of_torch.values()) == {"chosen"}
    of_fast = dict(zip(OPS, statuses(out, "fast"), strict=True))
    assert of_fast.pop("lora") == "decode: chosen | prefill: not usable: only for decode"
    assert of_fast.pop("sample") == "not usable: runs on cuda, not on cpu"
    assert set(of_fast.values()) == {"has no kernel for this op"}


@pytest.mark.usefixtures("plugins")
def test_failures_of_loading_are_printed_with_their_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "backend 'broken' (entry point broken = plait_broken of plait-broken 1.0)" in out
    assert "repair or uninstall plait-broken" in out


@pytest.mark.usefixtures("plugins")
def test_option_over_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIT_KERNELS", "*=torch")
    assert main(["--kernels", "rms_norm=reference"]) == 0
    out = capsys.readouterr().out
    assert statuses(out, "reference") == ["chosen"] + ["usable, by name only"] * (len(OPS) - 1)
    assert "request  rms_norm=reference" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lor=torch", "did you mean 'lora'?"),
        ("lora=tirch", "did you mean 'torch'?"),
        ("broken", "a_library_that_is_missing"),
        ("lora=fast", "fast: only for decode"),
    ],
)
@pytest.mark.usefixtures("plugins")
def test_a_request_that_cannot_be_honoured_exits_with_2(
    text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kernels", text]) == 2
    assert message in capsys.readouterr().err


def test_params_stand_in_for_a_small_models(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(plugins, "wide", WIDE)
    assert main(["--param", "hidden=50", "--param", "window=8", "--param", "format=q4_0"]) == 2
    out, err = capsys.readouterr()
    of_torch = dict(zip(OPS, statuses(out, "torch"), strict=True))
    assert of_torch["attention"] == "not usable: window=8 is not implemented"
    assert of_torch["linear"] == "not usable: weight format 'q4_0' is not implemented"
    of_wide = dict(zip(OPS, statuses(out, "wide"), strict=True))
    assert of_wide["rms_norm"] == "not usable: hidden is 50"
    assert of_torch["rms_norm"] == "chosen"
    assert "no kernel for linear[float32, bias=False, format=q4_0" in err


@pytest.mark.parametrize("text", ["hiden=50", "hidden", "=50"])
def test_an_unknown_param_exits_with_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--param", text])
    assert caught.value.code == 2
    message = f"{text!r} is not NAME=VALUE with a name of bias, block_size"
    assert message in capsys.readouterr().err


def test_an_unknown_dtype_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--dtype", "int4"])
    assert caught.value.code == 2
    assert "bfloat16" in capsys.readouterr().err


def test_device_of() -> None:
    assert device_of("cpu") == device_of(torch.device("cpu", 0)) == Device("cpu", name="CPU")
    with pytest.raises(KernelError, match="'meta'; use 'cpu' or 'cuda'"):
        device_of("meta")
    with pytest.raises(KernelError, match="no CUDA device 'cuda:99'"):
        device_of("cuda:99")


def test_device_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        major, minor, name = 9, 0, "NVIDIA H100"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert device_of("cuda") == Device("cuda", (9, 0), "NVIDIA H100")


ODD = """
import sys
from plait_kernels import Backend, Kernel, hookimpl

def exits(subject):
    sys.exit("no driver")

def make(config):
    return None

@hookimpl
def plait_kernel_backend():
    return Backend("odd", (
        Kernel("rms_norm", "plait_odd:make", priority=9),
        Kernel("lora", "plait_odd:make", uses=("torch",), priority=9),
        Kernel("sample", "plait_odd:make", supports=exits, priority=9),
    ))
"""

WRONG = """
from plait_kernels import Backend, Kernel, hookimpl

@hookimpl
def plait_kernel_backend():
    return Backend("wrong", (Kernel("rms_norm", "nowhere:make", dtypes=("fp32",)),))
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "odd", ODD)
    install(tmp_path, "wrong", WRONG)
    install(tmp_path, "leaving", "raise SystemExit('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("odd")
def test_what_is_wrong_with_others_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    of_odd = dict(zip(OPS, statuses(out, "odd"), strict=True))
    assert of_odd["rms_norm"] == "chosen", "it only looks"
    assert of_odd["lora"] == "chosen, uses torch"
    assert of_odd["sample"] == "not usable: its supports() raised SystemExit: no driver"
    assert "dtypes has the unknown 'fp32'; use some of 'float32', 'bfloat16'" in out
    assert "importing plait_leaving raised SystemExit: no driver" in out


@pytest.mark.usefixtures("odd")
def test_making_shows_which_factories_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--make"]) == 0
    out = capsys.readouterr().out
    of_odd = dict(zip(OPS, statuses(out, "odd"), strict=True))
    reason = "not usable: its factory plait_odd:make returned None, which "
    assert of_odd["rms_norm"] == f"{reason}cannot be called"
    assert of_odd["lora"] == f"{reason}has no method 'shrink'"
    assert set(statuses(out, "torch")) == {"chosen"}
    assert main(["--make", "--kernels", "rms_norm=odd"]) == 2
    assert "\n  odd: its factory plait_odd:make returned None" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wrong", "leaving", "unheard-of"])
@pytest.mark.usefixtures("odd")
def test_a_failure_is_printed_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kernels", name]) == 2
    printed = "".join(capsys.readouterr())
    assert printed.count("dtypes has the unknown 'fp32'") == 1
    assert printed.count("SystemExit: no driver") == 1
    assert f"{name!r} in kernels={name!r}" in printed or f"kernels={name!r} cannot" in printed
