"""The files of a tokenizer directory: checked before transformers reads them, and mended copies."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import ModelError
from plait_models.fields import Fields
from plait_models.files.opening import open_regular, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 2**28
"""Bytes of a file of a tokenizer; the largest known have 35 million."""

_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_MARK = b"\xef\xbb\xbf"
_LFS_POINTER = b"version https://git-lfs"

_OF_CONFIG = ("architectures", "auto_map", "model_type", "tokenizer_class", "transformers_version")
"""The fields of ``config.json`` by which transformers chooses a tokenizer."""


def check_tokenizer_files(directory: Path) -> None:
    """Check what transformers would take as it is.

    Raises
    ------
    ModelError
        Names the file, and the field in it.
    """
    for name in _NAMES:
        if (directory / name).exists():
            _check_file(directory / name)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        if path.exists():
            _check_config(read_json(path), str(path))
    _check_sentencepiece(directory)


def check_json_files(directory: Path) -> None:
    """Name a file that is no JSON object at all; for when a tokenizer could not be loaded.

    Raises
    ------
    ModelError
        Names the file.
    """
    for name in (*_NAMES, "config.json"):
        if name.endswith(".json") and (directory / name).exists():
            read_json(directory / name)


@contextmanager
def mended(directory: Path) -> Iterator[Path]:
    """Give a directory with the same tokenizer, less what transformers stumbles over.

    Byte order marks are cut off, and of the model's ``config.json`` only what chooses the
    tokenizer is kept.
    """
    with tempfile.TemporaryDirectory(prefix="plait-tokenizer-") as made:
        copy = Path(made)
        for file in directory.iterdir():
            if file.name == "config.json" or not file.is_file():
                continue
            is_small = file.name in _NAMES
            if is_small and _start(file).startswith(_MARK):
                (copy / file.name).write_bytes(file.read_bytes().removeprefix(_MARK))
            else:
                (copy / file.name).symlink_to(file.resolve())
        config = directory / "config.json"
        if config.exists():
            fields = read_json(config)
            kept = {name: fields[name] for name in _OF_CONFIG if name in fields}
            (copy / "config.json").write_text(json.dumps(kept), encoding="utf-8")
        yield copy


def _start(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(len(_LFS_POINTER))


def _check_file(path: Path) -> None:
    try:
        start, size = _start(path), path.stat().st_size
    except OSError as error:
        message = f"{path}: cannot be read: {error}. Fetch the file again"
        raise ModelError(message) from error
    if size > MAX_BYTES:
        message = f"{path}: has {size} bytes; allowed: at most {MAX_BYTES}. Fetch the file again"
        raise ModelError(message)
    if start == _LFS_POINTER:
        message = f"{path}: is a pointer of Git LFS, not the file. Run git lfs pull there"
        raise ModelError(message)


def _check_config(config: dict[str, Any], origin: str) -> None:
    fields = Fields(config, origin)
    for name in _TOKENS:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if token is not None and not isinstance(content, str):
            fields.refuse(name, "a text, an object with 'content', or null")
    fields.text("tokenizer_class", nullable=True)
    fields.number("model_max_length", 0, 1e300, nullable=True)
    for name in ("add_bos_token", "add_eos_token", "clean_up_tokenization_spaces"):
        fields.flag(name)
    added = fields.fields("added_tokens_decoder")
    if added is not None:
        for place, token in config["added_tokens_decoder"].items():
            content = token.get("content") if isinstance(token, dict) else None
            if not place.isdecimal() or not isinstance(content, str):
                added.refuse(place, "an object with 'content' under the number of a token")
    template = config.get("chat_template")
    is_list = isinstance(template, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("template"), str)
        for one in template
    )
    if template is not None and not isinstance(template, str) and not is_list:
        fields.refuse("chat_template", "a text, or a list of objects with 'name' and 'template'")


def _check_sentencepiece(directory: Path) -> None:
    if not (directory / "tokenizer.model").exists() or (directory / "tokenizer.json").exists():
        return
    missing = [
        package
        for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf"))
        if not _is_installed(module)
    ]
    if missing:
        message = (
            f"{directory}: holds tokenizer.model and no tokenizer.json; to read it "
            f"{' and '.join(missing)} must be installed. Run pip install {' '.join(missing)}, or "
            "fetch tokenizer.json as well"
        )
        raise ModelError(message)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
