"""Models and adapters by their ids, from a small hub on this machine that the real library asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from plait import LLM, LoRARequest, SamplingParams
from plait.hub import Hub
from plait_kernels.errors import AdapterError, InputError, ModelError, RequestsFailed

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
PROMPT = [3, 7, 11, 2]
SMALL: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "max_num_seqs": 4,
    "num_gpu_blocks_override": 32,
    "lora_memory_bytes": 4 << 20,
    "enable_lora": True,
}


@dataclass
class Repository:
    """Commits by branch, and how the hub refuses the repository."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusal: tuple[int, dict[str, str]] | None = None
    token: str | None = None
    broken: bool = False

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha


class FakeHub(ThreadingHTTPServer):
    """What ``snapshot_download`` and ``list_repo_files`` need of a hub."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    def push(self, repo_id: str, source: Path | dict[str, bytes], branch: str = "main") -> str:
        if isinstance(source, Path):
            source = {path.name: path.read_bytes() for path in source.iterdir()}
        return self.repositories.setdefault(repo_id, Repository()).push(source, branch)

    def downloads(self) -> set[str]:
        """The files that were asked for so far."""
        marks = [request.partition("/resolve/")[2] for request in self.requests]
        return {mark.partition("/")[2] for mark in marks if mark}


class Handler(BaseHTTPRequestHandler):
    """Answers like the hub's own interface."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) == 6:
            self._answer("/".join(parts[2:4]), parts[4], parts[5], None)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._answer("/".join(parts[:2]), "resolve", parts[3], "/".join(parts[4:]))
        else:
            self._send(404, b"", {})

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, repo_id: str, what: str, revision: str, file: str | None) -> None:
        repository = self.server.repositories.get(repo_id)
        if repository is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        sent = self.headers.get("authorization")
        if repository.refusal and (
            repository.token is None or sent != f"Bearer {repository.token}"
        ):
            status, headers = repository.refusal
            self._send(status, b"", headers)
            return
        sha = repository.refs.get(revision, revision)
        files = repository.commits.get(sha)
        if files is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what == "resolve":
            self._file(repository, sha, files, file)
        else:
            entries: Any = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files.items()
            ]
            if what == "revision":
                siblings = [{"rfilename": name} for name in files]
                entries = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings}
            self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _file(
        self, repository: Repository, sha: str, files: dict[str, bytes], file: str | None
    ) -> None:
        if file not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        elif repository.broken and self.command == "GET":
            self._send(404, b"", {"X-Error-Message": "the disk is gone"})
        else:
            data = files[file]
            self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the library takes for the one that HF_ENDPOINT names."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hub
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache; the working directory holds no models."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "cache"


@pytest.fixture
def offline(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def go() -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        server.requests.clear()

    return go


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    vocabulary = {chr(ord("a") + i): i for i in range(26)} | {"</s>": 26}
    rust = Tokenizer(models.BPE(vocabulary, []))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="</s>").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapters(save_tiny_adapter: Callable[..., Path]) -> list[Path]:
    return [save_tiny_adapter(seed=seed) for seed in range(2)]


def answer(llm: LLM, lora_request: LoRARequest | None = None) -> list[int]:
    outputs = llm.generate(PROMPT, GREEDY, lora_request=lora_request, use_tqdm=False)
    return list(outputs[0].outputs[0].token_ids)


def test_a_model_of_one_commit(
    server: FakeHub,
    cache: Path,
    tiny_model: Path,
    tokenizer_files: Path,
    tmp_path: Path,
    offline: Callable[[], None],
) -> None:
    sharded = tmp_path / "sharded"
    LlamaForCausalLM.from_pretrained(tiny_model).save_pretrained(sharded, max_shard_size="64KB")
    files = {path.name: path.read_bytes() for path in sharded.iterdir()}
    files |= {path.name: path.read_bytes() for path in tokenizer_files.iterdir()}
    useless = ("README.md", "pytorch_model.bin", "original/consolidated.safetensors", "code.py")
    server.push("org/tiny", files | dict.fromkeys(useless, b"x"))
    keywords = SMALL | {"skip_tokenizer_init": False, "download_dir": str(cache)}
    llm = LLM(model="org/tiny", **keywords)
    assert server.downloads() == set(files)
    assert sum(name.endswith(".safetensors") for name in server.downloads()) > 1
    local = LLM(model=str(tiny_model), **SMALL)
    assert answer(llm) == answer(local)
    assert llm.get_tokenizer()("c h l").input_ids == [2, 7, 11]
    server.push("org/tiny", {"config.json": b"{}"})
    offline()
    assert answer(LLM(model="org/tiny", **keywords)) == answer(local)
    assert server.requests == []


def test_a_revision_and_a_tokenizer_of_another_repository(
    server: FakeHub, cache: Path, tiny_model: Path, tokenizer_files: Path
) -> None:
    first = server.push("org/tiny", tiny_model)
    server.push("org/tiny", {"config.json": b"{}"})
    server.push("org/words", tokenizer_files)
    llm = LLM(
        model="org/tiny",
        revision=first,
        tokenizer="org/words",
        **SMALL | {"download_dir": cache, "skip_tokenizer_init": False},
    )
    assert llm.generate("c h l", GREEDY, use_tqdm=False)[0].prompt_token_ids == [2, 7, 11]
    with pytest.raises(ModelError, match=r"no revision 'v9'; allowed: a branch"):
        LLM(model="org/tiny", revision="v9", download_dir=cache, **SMALL)


def test_a_gguf_file_of_a_repository(server: FakeHub, cache: Path) -> None:
    server.push("org/quants", {"m-Q8_0.gguf": b"GGUF eight", "m-Q4_K_M.gguf": b"GGUF four"})
    hub = Hub(cache_dir=str(cache))
    assert Path(hub.model("org/quants:Q8_0", None, "auto")).read_bytes() == b"GGUF eight"
    assert server.downloads() == {"m-Q8_0.gguf"}
    assert Path(hub.model("org/quants/m-Q4_K_M.gguf", None, "auto")).read_bytes() == b"GGUF four"
    for name, load_format in (("org/quants", "auto"), ("org/quants", "gguf")):
        with pytest.raises(ModelError, match=r"holds m-Q4_K_M\.gguf, .*'org/quants/<file>\.gguf'"):
            hub.model(name, None, load_format)
    with pytest.raises(ModelError, match=r"0 are; the repository holds m-Q4_K_M\.gguf, m-Q8_0"):
        hub.model("org/quants:Q2_K", None, "auto")


REFUSALS: dict[str, tuple[tuple[int, dict[str, str]], str]] = {
    "private": (
        (401, {"X-Error-Code": "RepoNotFound"}),
        "no repository 'org/x' that may be read .*hf_token",
    ),
    "no access": ((401, {}), "refuses access to 'org/x' .*hf_token"),
    "gated": ((403, {"X-Error-Code": "GatedRepo"}), "access to 'org/x' is gated: .*hf_token"),
    "bad token": (
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "refuses access to 'org/x' .*hf_token",
    ),
    "server error": ((500, {}), "the hub cannot be reached .*500 .*HF_ENDPOINT"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_of_the_hub(server: FakeHub, cache: Path, tiny_model: Path, name: str) -> None:
    refusal, match = REFUSALS[name]
    server.push("org/x", tiny_model)
    server.repositories["org/x"].refusal = refusal
    hub = Hub(cache_dir=str(cache))
    with pytest.raises(ModelError, match=match):
        hub.model("org/x", None, "auto")
    with pytest.raises(AdapterError, match=match):
        hub.adapter("org/x", "adapter 'x'")


def test_a_token_opens_a_private_repository(
    server: FakeHub, cache: Path, tiny_model: Path, adapters: list[Path]
) -> None:
    for repo_id, files in (("org/model", tiny_model), ("org/adapter", adapters[0])):
        server.push(repo_id, files)
        server.repositories[repo_id].refusal = (401, {})
        server.repositories[repo_id].token = "hf_secret"
    llm = LLM(model="org/model", hf_token="hf_secret", download_dir=cache, **SMALL)
    assert answer(llm, LoRARequest("a", 1, "org/adapter")) != answer(llm)


def test_repositories_without_what_is_needed(server: FakeHub, cache: Path) -> None:
    hub = Hub(cache_dir=str(cache))
    server.push("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(ModelError, match=r"holds config\.json, pytorch_model\.bin.* never loaded"):
        hub.model("org/pickle", None, "auto")
    server.push("org/old", {"adapter_config.json": b"{}", "adapter_model.bin": b"x"})
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors; .*bin.* is refused"):
        hub.adapter("org/old", "adapter 'x'")
    mlx = {"adapter_config.json": b"{}", "adapters.safetensors": b"x"}
    server.push("org/mlx", mlx)
    with pytest.raises(AdapterError, match=r"holds adapter_config\.json, adapters.*mlx_lm\.fuse"):
        hub.adapter("org/mlx", "adapter 'x'")
    server.push("org/model", {"config.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(AdapterError, match="it is a whole model and no adapter"):
        hub.adapter("org/model", "adapter 'x'")
    server.push("org/text", {"README.md": b"x"})
    with pytest.raises(AdapterError, match=r"no adapter_config\.json and no .*holds README\.md"):
        hub.adapter("org/text", "adapter 'x'")
    with pytest.raises(ModelError, match=r"no tokenizer files; the repository holds README\.md"):
        hub.tokenizer("org/text", None)
    assert not any(name.endswith(".bin") for name in server.downloads())
    with pytest.raises(ModelError, match="no repository 'org/none'"):
        hub.model("org/none", None, "auto")
    server.push("org/broken", {"config.json": b"{}"})
    server.repositories["org/broken"].broken = True
    with pytest.raises(ModelError, match=r"download of 'org/broken' .* failed .*Try again"):
        hub.model("org/broken", None, "auto")


def test_a_hub_that_cannot_be_reached(server: FakeHub, cache: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match=r"the hub cannot be reached .*Check the connection"):
        Hub(cache_dir=str(cache)).model("org/x", None, "auto")


def test_an_adapter_id_is_pinned_to_its_commit(
    server: FakeHub, cache: Path, tiny_model: Path, adapters: list[Path]
) -> None:
    llm = LLM(model=str(tiny_model), download_dir=cache, **SMALL)
    first, second = (answer(llm, LoRARequest("l", 7 + i, str(a))) for i, a in enumerate(adapters))
    assert first != second
    server.push("org/adapter", adapters[0])
    by_id = LoRARequest("a", 1, "org/adapter")
    assert answer(llm, by_id) == first
    assert server.downloads() == {"adapter_config.json", "adapter_model.safetensors"}
    asked = len(server.requests)
    server.push("org/adapter", adapters[1])
    assert answer(llm, by_id) == first
    assert answer(llm, LoRARequest("b", 2, "org/adapter")) == first
    assert len(server.requests) == asked
    assert answer(llm, LoRARequest("a", 1, "org/adapter", load_inplace=True)) == second
    assert answer(llm, by_id) == second
    other = LLM(model=str(tiny_model), download_dir=cache, **SMALL)
    assert answer(other, by_id) == second


def test_a_cached_adapter_offline(
    server: FakeHub,
    cache: Path,
    tiny_model: Path,
    adapters: list[Path],
    offline: Callable[[], None],
) -> None:
    server.push("org/adapter", adapters[0])
    by_id = LoRARequest("a", 1, "org/adapter")
    online = LLM(model=str(tiny_model), download_dir=cache, **SMALL)
    expected = answer(online, by_id)
    offline()
    llm = LLM(model=str(tiny_model), download_dir=cache, **SMALL)
    assert answer(llm, by_id) == expected
    with pytest.raises(AdapterError, match="HF_HUB_OFFLINE"):
        answer(llm, LoRARequest("n", 2, "org/none"))
    assert server.requests == []


def test_a_bad_id_fails_its_own_request(
    server: FakeHub, cache: Path, tiny_model: Path, adapters: list[Path]
) -> None:
    server.push("org/adapter", adapters[0])
    server.push("org/text", {"README.md": b"x"})
    llm = LLM(model=str(tiny_model), download_dir=cache, **SMALL)
    good = LoRARequest("a", 1, "org/adapter")
    expected = [answer(llm), answer(llm, good)]
    with pytest.raises(RequestsFailed) as caught:
        llm.generate(
            [PROMPT] * 4,
            GREEDY,
            lora_request=[
                None,
                LoRARequest("none", 2, "org/none"),
                good,
                LoRARequest("text", 3, "org/text"),
            ],
            use_tqdm=False,
        )
    assert {i: type(error) for i, error in caught.value.errors.items()} == {
        1: AdapterError,
        3: AdapterError,
    }
    assert "no repository 'org/none'" in str(caught.value.errors[1])
    assert "adapter_config.json" in str(caught.value.errors[3])
    outputs: list[Any] = caught.value.outputs
    assert [list(outputs[i].outputs[0].token_ids) for i in (0, 2)] == expected
    assert llm.llm_engine.list_loras() == {1}
    assert not llm.llm_engine.core.has_work


def test_an_adapter_id_where_lora_is_not_enabled(
    server: FakeHub, cache: Path, tiny_model: Path
) -> None:
    llm = LLM(model=str(tiny_model), **SMALL | {"enable_lora": False, "lora_memory_bytes": None})
    with pytest.raises(InputError, match="enable_lora=True"):
        answer(llm, LoRARequest("a", 1, "org/adapter"))
    assert server.requests == []
