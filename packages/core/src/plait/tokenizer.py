"""Tokenizers: of a Hugging Face directory or hub id, or inside a GGUF file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from plait_kernels.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    Tokenizer: TypeAlias = PreTrainedTokenizerBase


def load_tokenizer(
    path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """Load a tokenizer.

    Parameters
    ----------
    path : str | Path
        A directory, a hub id, or a ``.gguf`` file, whose metadata then hold the tokenizer and the
        chat template. ``~`` is the home directory.
    revision : str | None
        Branch, tag or commit of a hub id.
    trust_remote_code : bool
        Run code that comes with the tokenizer.

    Raises
    ------
    ModelError
        There is no tokenizer there that can be read.
    """
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        return _load_gguf(local)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(local) if local.exists() else str(path),
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        message = (
            f"no tokenizer can be loaded from {str(path)!r}: {error}. Allowed: a directory with "
            "tokenizer files, a hub id or a .gguf file. Name another one with tokenizer=…, or "
            "pass token ids with skip_tokenizer_init=True."
        )
        raise ModelError(message) from error


def load_generation_config(path: str | Path) -> dict[str, Any]:
    """Read a model directory's generation defaults.

    Parameters
    ----------
    path : str | Path
        A model directory, or a ``.gguf`` file, which has none.

    Returns
    -------
    dict[str, Any]
        Content of ``generation_config.json``; where that file is missing, the end-of-sequence
        tokens of ``config.json``, as transformers has it; else empty.

    Raises
    ------
    ModelError
        A file is not JSON.
    """
    directory = Path(path).expanduser()
    own = directory / "generation_config.json"
    if own.is_file():
        return _read_json(own)
    config = directory / "config.json"
    eos = _read_json(config).get("eos_token_id") if config.is_file() else None
    return {} if eos is None else {"eos_token_id": eos}


def eos_token_ids(
    tokenizer: Tokenizer | None, generation_config: Mapping[str, Any]
) -> tuple[int, ...]:
    """Collect the tokens that end a sequence.

    Parameters
    ----------
    tokenizer : Tokenizer | None
    generation_config : Mapping[str, Any]
        ``eos_token_id`` there is one id or a list.

    Returns
    -------
    tuple[int, ...]
        Sorted, each once.
    """
    configured = generation_config.get("eos_token_id")
    ids = set(configured) if isinstance(configured, list | tuple) else {configured}
    if tokenizer is not None:
        ids.add(tokenizer.eos_token_id)
    return tuple(sorted(token for token in ids if token is not None))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path} is not JSON: {error}. Replace the file with the model's original."
        raise ModelError(message) from error
    return content


def _load_gguf(path: Path) -> Tokenizer:
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not path.is_file():
        message = f"there is no file {path}. Pass the path of a .gguf file that exists."
        raise ModelError(message)
    try:
        kind = _gguf_pre_tokenizer(path)
        # AutoTokenizer would read the whole metadata twice, once for the model's config.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)
    except (OSError, ValueError, KeyError, ImportError, struct.error) as error:
        message = (
            f"the tokenizer in {path} cannot be read: {error!r}. Allowed: a GGUF file with "
            "tokenizer metadata. Name a tokenizer directory with tokenizer=…"
        )
        raise ModelError(message) from error
    if kind == "smollm":
        # transformers takes every gpt2-like GGUF vocabulary for plain ByteLevel; this family cuts
        # text at each digit first, which changes the tokens of the spaces before a number.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    return tokenizer


_GGUF_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a GGUF metadata value, by its type number."""

_GGUF_STRING, _GGUF_ARRAY = 8, 9


def _gguf_pre_tokenizer(path: Path) -> str | None:
    """Return ``tokenizer.ggml.pre`` without reading the vocabulary into Python objects.

    The format is that of the GGUF specification, versions 2 and 3, little endian.
    """
    with path.open("rb") as file:
        magic, version, _, num_values = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            message = f"it starts with {magic!r}, version {version}, not with GGUF version 2 or 3"
            raise ValueError(message)
        for _ in range(num_values):
            key = _read_string(file)
            (kind,) = struct.unpack("<I", file.read(4))
            if key == b"tokenizer.ggml.pre" and kind == _GGUF_STRING:
                return _read_string(file).decode()
            _skip_value(file, kind)
    return None


def _read_string(file: BinaryIO) -> bytes:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length)


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _read_string(file)
    elif kind == _GGUF_ARRAY:
        element, length = struct.unpack("<IQ", file.read(12))
        if element in _GGUF_SCALARS:
            file.seek(length * _GGUF_SCALARS[element], 1)
            return
        for _ in range(length):
            _skip_value(file, element)
    elif kind in _GGUF_SCALARS:
        file.seek(_GGUF_SCALARS[kind], 1)
    else:
        message = f"a metadata value has the unknown type {kind}"
        raise ValueError(message)
