"""The Hugging Face hub: turns ids of repositories into paths of snapshots on this machine."""

from __future__ import annotations

import copy
import glob
import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError, InputError, ModelError
from plait_lora.adapter_directory import CONFIG_NAME, WEIGHTS_NAME, hint
from plait_lora.locations import is_hub_id
from plait_lora.shown import shortened
from plait_models.hints import ADAPTER_CONFIG, is_adapter, tell_adapter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.engine_args import EngineArgs

_CONFIG = "config.json"
_GENERATION_CONFIG = "generation_config.json"
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_CODE_FILES = ("*.py",)
_SHOWN = 8
"""Files that a message names."""


def local_args(args: EngineArgs) -> EngineArgs:
    """Return a copy of the arguments whose model and tokenizer are local paths.

    The model's config, tokenizer and weights then come from one commit, unless another tokenizer
    or ``tokenizer_revision`` is asked for.

    Raises
    ------
    ModelError
        If a hub id cannot be resolved.
    """
    hub = Hub(args.hf_token, args.download_dir)
    local = copy.copy(args)
    code = _CODE_FILES if args.trust_remote_code else ()
    local.model = hub.model(args.model, args.revision, args.load_format, code)
    name = args.tokenizer or args.model
    if name == args.model and args.tokenizer_revision in (None, args.revision):
        local.tokenizer = local.model
    elif not args.skip_tokenizer_init:
        local.tokenizer = hub.tokenizer(name, args.tokenizer_revision, code)
    return local


@dataclass(frozen=True)
class HubName:
    """What a name on the hub says.

    Attributes
    ----------
    repo_id : str
        ``"owner/repository"``.
    file : str | None
        Path of a GGUF file in it; may hold ``*``.
    """

    repo_id: str
    file: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """Read ``owner/repository``, with ``/file.gguf`` or ``:QUANTIZATION`` after it, or not.

        None: the name has another form, or is a path that is there.
        """
        owner, _, rest = name.partition("/")
        repository, _, file = rest.partition("/")
        repository, _, quantization = repository.partition(":")
        repo_id = f"{owner}/{repository}"
        if not is_hub_id(repo_id) or repository.endswith(".gguf") or os.path.exists(name):
            return None
        if quantization:
            return None if file else cls(repo_id, f"*[-.]{glob.escape(quantization)}.gguf")
        if file:
            return cls(repo_id, glob.escape(file)) if file.endswith(".gguf") else None
        return cls(repo_id) if name == repo_id else None


@dataclass(frozen=True)
class Hub:
    """Finds snapshots in the hub's cache, and downloads what is missing.

    A path that is there is never looked for on the hub. With ``HF_HUB_OFFLINE=1`` only the cache
    is used. Weights are downloaded as safetensors or GGUF only: pickles can run code.

    Attributes
    ----------
    token : str | bool | None
        None or True: the one that ``hf auth login`` saved, or ``HF_TOKEN``; False: none.
    cache_dir : str | None
        None: that of ``HF_HOME``.
    """

    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | None = None

    def model(
        self, name: str, revision: str | None, load_format: str, code: Sequence[str] = ()
    ) -> str:
        """Return the path of a model: a directory, or a GGUF file.

        Parameters
        ----------
        name : str
            A path, or ``owner/repository`` with ``/file.gguf`` or ``:QUANTIZATION`` after it, or
            not.
        revision : str | None
            Branch, tag or commit.
        load_format : str
            As of ``EngineArgs``; with "dummy" no weights are downloaded.
        code : Sequence[str]
            Patterns of files to download besides.

        Raises
        ------
        ModelError
            If the hub does not give it, or it is not there in a form that can be served.
        """
        found = HubName.parse(name)
        if found is None:
            return name
        where = f"model {name!r}"
        if found.file:
            return self._gguf_file(found.repo_id, found.file, revision, where)
        weights = () if load_format == "dummy" else _WEIGHT_FILES
        if load_format == "gguf":
            raise self._without_weights(found.repo_id, revision, where)
        wanted = (_CONFIG, _GENERATION_CONFIG, ADAPTER_CONFIG, *weights, *_TOKENIZER_FILES, *code)
        root = self._snapshot(found.repo_id, revision, wanted, where, ModelError)
        if is_adapter(root):
            raise ModelError(tell_adapter(root, found.repo_id))
        if not (_holds(root, [_CONFIG]) and (load_format == "dummy" or _holds(root, weights))):
            raise self._without_weights(found.repo_id, root.name, where)
        return str(root)

    def tokenizer(self, name: str, revision: str | None, code: Sequence[str] = ()) -> str:
        """Return the path of a tokenizer; parameters and errors are those of ``model``."""
        found = HubName.parse(name)
        if found is None:
            return name
        where = f"tokenizer {name!r}"
        if found.file:
            return self._gguf_file(found.repo_id, found.file, revision, where)
        # Some tokenizers are named by the model's config only.
        wanted = (*_TOKENIZER_FILES, _CONFIG, *code)
        root = self._snapshot(found.repo_id, revision, wanted, where, ModelError)
        if not _holds(root, _TOKENIZER_FILES):
            text = (
                f"{where}: its snapshot has no tokenizer files; the repository holds "
                f"{_listed(self._files(found.repo_id, root.name))}. Name another one, or a local "
                "directory"
            )
            raise ModelError(text)
        return str(root)

    def adapter(self, path: str, where: str) -> str:
        """Return the directory of an adapter's newest snapshot.

        Parameters
        ----------
        path : str
            ``owner/repository``.
        where : str
            Names the adapter in messages.

        Raises
        ------
        AdapterError
            If the hub does not give it, or it holds no adapter as PEFT saves it.
        """
        wanted = (CONFIG_NAME, WEIGHTS_NAME)
        root = self._snapshot(path, None, wanted, where, AdapterError)
        missing = [name for name in wanted if not _holds(root, [name])]
        if missing:
            files = self._files(path, root.name)
            remedy = (
                hint(files) if files else "Name one with both, as PEFT's save_pretrained writes"
            )
            text = (
                f"{where}: its snapshot has no {' and no '.join(missing)}; the repository holds "
                f"{_listed(files)}. {remedy}"
            )
            raise AdapterError(text)
        return str(root)

    def _snapshot(
        self,
        repo_id: str,
        revision: str | None,
        wanted: Sequence[str],
        where: str,
        kind: type[InputError],
    ) -> Path:
        """Return the directory of a commit, with those of the wanted files that it has."""
        from huggingface_hub import is_offline_mode, snapshot_download

        from plait.hub_errors import explain

        try:
            return Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    cache_dir=self.cache_dir,
                    token=self.token,
                    allow_patterns=list(wanted),
                    # Said twice: older versions ask for the files of a commit all the same.
                    local_files_only=is_offline_mode(),
                )
            )
        except Exception as error:  # whatever the library makes of networks, hubs and disks
            text = f"{where}: there is no such local path, and {explain(error, repo_id, revision)}"
            raise kind(text) from error

    def _gguf_file(self, repo_id: str, pattern: str, revision: str | None, where: str) -> str:
        root = self._snapshot(repo_id, revision, [pattern], where, ModelError)
        names = (str(path.relative_to(root)) for path in root.rglob("*.gguf"))
        found = [name for name in names if fnmatchcase(name, pattern)]
        if len(found) != 1:
            text = (
                f"{where}: one file must be meant, and {len(found)} are; the repository holds "
                f"{_listed(self._files(repo_id, root.name), '.gguf')}. Pass '{repo_id}/<file>.gguf'"
            )
            raise ModelError(text)
        return str(root / found[0])

    def _without_weights(self, repo_id: str, revision: str | None, where: str) -> ModelError:
        return ModelError(
            f"{where}: its snapshot has no {_CONFIG} with model.safetensors (or its index and "
            f"shards); the repository holds {_listed(self._files(repo_id, revision))}. If "
            f"they are GGUF files, pass one, '{repo_id}/<file>.gguf'; pickles (.bin, .pt) "
            "can run code "
            "when they are read and are never loaded"
        )

    def _files(self, repo_id: str, revision: str | None) -> list[str] | None:
        """List the files of a repository for a message; None if that fails."""
        from huggingface_hub import HfApi

        try:
            return HfApi(token=self.token).list_repo_files(repo_id, revision=revision)
        except Exception:  # the error that is being written says more than this one
            return None


def _listed(files: Sequence[str] | None, ending: str = "") -> str:
    """Name files for a message, GGUF files first."""
    if files is None:
        return "files that cannot be listed now (if HF_HUB_OFFLINE is set, unset it)"
    names = sorted(
        (name for name in files if name.endswith(ending)),
        key=lambda name: (not name.endswith(".gguf"), name),
    )
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(shortened, names[:_SHOWN])) or "none") + more


def _holds(root: Path, patterns: Sequence[str]) -> bool:
    return any(any(root.glob(pattern)) for pattern in patterns)
