"""The hub without a network: which names are ids, and what the cache on this machine gives."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.engine_args import EngineArgs
from plait.hub import Hub, HubName, local_args
from plait.llm_engine import LLMEngine
from plait.tokenizer import load_tokenizer
from plait_kernels.errors import AdapterError, InputError, ModelError

COMMIT, OLDER = "a" * 40, "b" * 40
MODEL = ("config.json", "model.safetensors", "tokenizer.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """Put a snapshot into a cache, as the hub's library lays it out."""

    def write(repo_id: str, *files: str, commit: str = COMMIT, ref: str | None = "main") -> Path:
        store = tmp_path / "cache" / f"models--{repo_id.replace('/', '--')}"
        root = store / "snapshots" / commit
        for name in files:
            blob = store / "blobs" / f"{commit}-{name.replace('/', '-')}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(name)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(blob)
        if ref is not None:
            (store / "refs").mkdir(exist_ok=True)
            (store / "refs" / ref).write_text(commit)
        return root

    return write


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(cache_dir=str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """Go offline, into a directory without models, and note every attempt to connect."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    made: list[object] = []

    def connect(_: socket.socket, address: object) -> None:
        made.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ("org/name", None)),
        ("org/name-1.5_x", ("org/name-1.5_x", None)),
        ("org/name/a.gguf", ("org/name", "a.gguf")),
        ("org/name/sub/a[1].gguf", ("org/name", "sub/a[[]1].gguf")),
        ("org/name:Q4_K_M", ("org/name", "*[-.]Q4_K_M.gguf")),
        ("name", None),
        ("org/name.gguf", None),
        ("org/name/a.bin", None),
        ("org/name/", None),
        ("org/name:", None),
        ("org/name:Q8_0/a.gguf", None),
        ("/org/name", None),
        ("./org/name", None),
        ("~/name", None),
        ("../name", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_names_on_the_hub(name: str, expected: tuple[str, str | None] | None) -> None:
    assert HubName.parse(name) == (expected and HubName(*expected))


def test_a_cached_snapshot_needs_no_network(
    fill: Fill, hub: Hub, connections: list[object]
) -> None:
    model, adapter = fill("org/model", *MODEL), fill("org/adapter", *ADAPTER)
    assert Path(hub.model("org/model", None, "auto")) == model
    assert Path(hub.model("org/model", "main", "auto")) == model
    assert Path(hub.model("org/model", COMMIT, "auto")) == model
    assert Path(hub.tokenizer("org/model", None)) == model
    assert Path(hub.adapter("org/adapter", "adapter 'x'")) == adapter
    assert connections == []


def test_a_local_path_comes_before_an_id(fill: Fill, hub: Hub) -> None:
    fill("org/model", *MODEL)
    assert hub.model("org/model", None, "auto") != "org/model"
    Path("org/model").mkdir(parents=True)
    assert hub.model("org/model", None, "auto") == "org/model"
    assert hub.tokenizer("org/model", None) == "org/model"


def test_a_local_path_does_not_import_the_library(tmp_path: Path) -> None:
    code = (
        "import sys; from plait.hub import Hub; "
        f"Hub().model({str(tmp_path)!r}, None, 'auto'); Hub().tokenizer('missing', None); "
        "sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ModelError, match="no tokenizer directory 'missing'"):
        load_tokenizer("missing")


def test_revisions(fill: Fill, hub: Hub) -> None:
    new = fill("org/model", *MODEL)
    old = fill("org/model", *MODEL, commit=OLDER, ref="v1")
    assert Path(hub.model("org/model", None, "auto")) == new
    assert Path(hub.model("org/model", "v1", "auto")) == old
    assert Path(hub.model("org/model", OLDER, "auto")) == old


def test_dummy_weights_need_a_config_only(fill: Fill, hub: Hub) -> None:
    root = fill("org/model", "config.json")
    assert Path(hub.model("org/model", None, "dummy")) == root
    with pytest.raises(ModelError, match=r"its snapshot has no config\.json with model"):
        hub.model("org/model", None, "auto")


def test_an_adapter_in_place_of_a_model(fill: Fill, hub: Hub) -> None:
    root = fill("org/sql", *ADAPTER)
    config = (root / "adapter_config.json").resolve()
    config.write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ModelError, match=r"org/sql: is an adapter.* model='org/base'.*'org/sql'\)"):
        hub.model("org/sql", None, "auto")


def test_gguf_files(fill: Fill, hub: Hub) -> None:
    root = fill("org/model", "m-Q4_K_M.gguf", "sub/m.Q8_0.gguf", "n-Q8_0.gguf")
    assert Path(hub.model("org/model/m-Q4_K_M.gguf", None, "auto")) == root / "m-Q4_K_M.gguf"
    assert Path(hub.model("org/model:Q4_K_M", None, "gguf")) == root / "m-Q4_K_M.gguf"
    assert Path(hub.tokenizer("org/model/sub/m.Q8_0.gguf", None)) == root / "sub/m.Q8_0.gguf"
    with pytest.raises(ModelError, match="one file must be meant, and 2 are"):
        hub.model("org/model:Q8_0", None, "auto")
    with pytest.raises(ModelError, match="one file must be meant, and 0 are"):
        hub.model("org/model/other.gguf", None, "auto")
    with pytest.raises(ModelError, match=r"'org/model/<file>\.gguf'"):
        hub.model("org/model", None, "gguf")


def test_offline_and_not_cached(fill: Fill, hub: Hub, connections: list[object]) -> None:
    asks: list[tuple[Callable[[], str], type[InputError]]] = [
        (lambda: hub.model("org/none", None, "auto"), ModelError),
        (lambda: hub.model("org/none/a.gguf", None, "auto"), ModelError),
        (lambda: hub.tokenizer("org/none", None), ModelError),
        (lambda: hub.adapter("org/none", "adapter 'x'"), AdapterError),
    ]
    for ask, kind in asks:
        with pytest.raises(InputError, match=r"no such local path.*'org/none'.*HF_HUB_") as error:
            ask()
        assert type(error.value) is kind
    fill("org/model", *MODEL)
    with pytest.raises(ModelError, match="'org/model' at revision 'v2'"):
        hub.model("org/model", "v2", "auto")
    fill("org/half", ADAPTER[0])
    with pytest.raises(AdapterError, match=r"'x': its snapshot has no adapter_model\.safe"):
        hub.adapter("org/half", "adapter 'x'")
    with pytest.raises(ModelError, match="its snapshot has no tokenizer files"):
        hub.tokenizer("org/half", None)
    assert connections == []


def test_a_model_that_is_missing_is_named_as_such() -> None:
    for name in ("/no/such/model", "model", "no/such/model"):
        with pytest.raises(ModelError, match="no such file or directory"):
            LLMEngine.from_engine_args(EngineArgs(name))


def test_an_id_that_the_hub_does_not_allow(hub: Hub) -> None:
    with pytest.raises(ModelError, match="no id that the hub allows"):
        hub.model("org/two--dashes", None, "auto")


def test_arguments_become_paths_of_one_commit(fill: Fill, tmp_path: Path) -> None:
    new = fill("org/model", *MODEL)
    old = fill("org/model", *MODEL, commit=OLDER, ref="v1")
    other = fill("org/other", "tokenizer.json")

    def made(**keywords: object) -> tuple[str, str | None]:
        args = EngineArgs("org/model", download_dir=tmp_path / "cache", **keywords)
        local = local_args(args)
        assert args.model == "org/model", "the caller's arguments stay as they are"
        return local.model, local.tokenizer

    assert made() == (str(new), str(new))
    assert made(tokenizer="org/model") == (str(new), str(new))
    assert made(revision="v1") == (str(old), str(old))
    assert made(revision="v1", tokenizer="org/other") == (str(old), str(other))
    assert made(tokenizer_revision="v1") == (str(new), str(old))
    assert made(tokenizer="org/none", skip_tokenizer_init=True) == (str(new), "org/none")
    with pytest.raises(ModelError, match="tokenizer 'org/none'"):
        made(tokenizer="org/none")


def test_keywords_of_the_hub_are_checked() -> None:
    args = EngineArgs("org/model", hf_token="secret", download_dir="dir", revision="v1")
    assert (args.hf_token, args.download_dir, args.revision) == ("secret", "dir", "v1")
    assert "secret" not in repr(args)
    assert "secret" not in repr(Hub(args.hf_token))
    assert EngineArgs("org/model", hf_token=False).hf_token is False
    for keywords in ({"hf_token": 3}, {"download_dir": 3}, {"revision": ""}, {"tokenizer": 1}):
        with pytest.raises(InputError, match=next(iter(keywords))):
            EngineArgs("org/model", **keywords)
