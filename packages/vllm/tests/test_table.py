"""The table of names: each leads somewhere, and what is not there is told about."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys

import pytest

import plait
import plait_vllm
from plait_vllm.names import is_module, names_of, submodules_of
from plait_vllm.table import ABSENT, TABLE

NAMES = [(path, name) for path, names in TABLE.items() for name in names]


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_every_name_leads_to_what_it_is_called(path: str, name: str) -> None:
    module = importlib.import_module(f"plait_vllm.{path}" if path else "plait_vllm")
    value = getattr(module, name)
    assert value is not None
    if name not in ("__version__", "__version_tuple__"):
        assert name in module.__all__
        assert name in dir(module)
    home, _, attribute = TABLE[path][name].partition(":")
    if not name.startswith("__"):
        assert value is getattr(importlib.import_module(home), attribute)


def test_the_package_exports_what_the_table_says() -> None:
    versions = {"__version__", "__version_tuple__"}
    assert set(plait_vllm.__all__) == set(names_of("")) - versions


def test_own_modules_hide_none_of_the_table() -> None:
    own = {module.name for module in pkgutil.iter_modules(plait_vllm.__path__)}
    assert own >= {"table", "finder"}
    assert not own & set(submodules_of(""))
    assert not own & set(names_of(""))


def test_plait_is_the_same_under_every_name() -> None:
    from plait_vllm.engine.arg_utils import AsyncEngineArgs
    from plait_vllm.lora.request import LoRARequest
    from plait_vllm.v1.engine.async_llm import AsyncLLM

    from plait_vllm import LLM, sampling_params

    assert LLM is plait.LLM
    assert sampling_params.SamplingParams is plait.SamplingParams
    assert AsyncEngineArgs is plait.AsyncEngineArgs
    assert LoRARequest is plait.LoRARequest
    assert AsyncLLM is plait.AsyncLLM is plait.AsyncLLMEngine


def test_errors_of_bad_requests_are_caught_under_vllms_names() -> None:
    from plait_vllm.exceptions import VLLMError, VLLMValidationError

    from plait_kernels.errors import AdapterError, InputError, ModelError, RequestsFailed

    # One bad prompt of several raises RequestsFailed, where vLLM raises this one.
    for kind in (InputError, AdapterError, ModelError, RequestsFailed):
        assert issubclass(kind, VLLMValidationError)
        assert issubclass(kind, VLLMError)


def test_it_has_a_version_of_its_own_and_that_of_the_names() -> None:
    version = importlib.import_module("plait_vllm.version")
    assert plait_vllm.__version__ == plait.__version__
    assert version.__version__.startswith("0.33.0+plait")
    assert version.__version_tuple__ == (0, 33, 0)


def test_importing_the_package_changes_nothing_for_others() -> None:
    assert "vllm" not in sys.modules
    assert importlib.util.find_spec("vllm") is None


def test_the_table_is_of_modules_that_there_are() -> None:
    assert is_module("v1")
    assert is_module("v1.engine")
    assert not is_module("v1.eng")
    assert not is_module("sampling_params.SamplingParams")
    assert submodules_of("v1") == ["attention", "engine", "metrics"]
    assert submodules_of("v1.engine") == ["async_llm", "llm_engine"]
    assert submodules_of("version") == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("from plait_vllm import LMM", ["no plait_vllm.LMM", "Nearest: LLM", "AsyncLLMEngine"]),
        ("from plait_vllm import PoolingParams", ["pooling, embedding, scoring and reward"]),
        ("from plait_vllm import EmbeddingRequestOutput", ["plait generates text"]),
        ("from plait_vllm import multimodal", ["plait serves text models only"]),
        ("import plait_vllm.multimodal.utils", ["plait serves text models only"]),
        ("from plait_vllm.assets.image import ImageAsset", ["plait serves text models only"]),
        ("from plait_vllm.sampling_params import SamplingParms", ["Nearest: SamplingParams"]),
        ("from plait_vllm.outputs import PoolingOutput", ["plait generates text"]),
        ("from plait_vllm.inputs import EmbedsPrompt", ["prompts are text or token ids"]),
        ("from plait_vllm.inputs import DataPrompt", ["no plait_vllm.inputs.DataPrompt"]),
        ("from plait_vllm.config import VllmConfig", ["keywords of LLM and EngineArgs"]),
        (
            "from plait_vllm.v1.sample.logits_processor import LogitsProcessor",
            ["custom logits processors are not supported"],
        ),
        ("import plait_vllm.engine.arg_util", ["Nearest: arg_utils"]),
        ("import plait_vllm.engin.arg_utils", ["Nearest: engine", "names of vLLM 0.33.0"]),
        (
            "from plait_vllm.utils import FlexibleArgumentParser",
            ["FlexibleArgumentParser is in plait_vllm.utils.argparse_utils"],
        ),
        ("from plait_vllm.distributed import weight_transfer", ["are not replaced"]),
        ("from plait_vllm.entrypoints.openai import api_server", ["no server in this version"]),
        ("import plait_vllm.nonsense", ["plait has no plait_vllm.nonsense"]),
    ],
)
def test_what_is_missing_is_an_import_error_that_says_so(statement: str, says: list[str]) -> None:
    with pytest.raises(ImportError) as caught:
        exec(statement)
    for part in ["plait has no", *says]:
        assert part in str(caught.value)


def test_a_missing_attribute() -> None:
    assert not hasattr(plait_vllm, "LMM")
    module = importlib.import_module("plait_vllm.sampling_params")
    with pytest.raises(AttributeError, match=r"has no attribute 'Foo': plait has no plait_vllm\."):
        _ = module.Foo


def test_reasons_are_for_what_is_not_there() -> None:
    for known in ABSENT:
        parent, _, name = known.rpartition(".")
        assert name not in TABLE.get(parent, {}), known
