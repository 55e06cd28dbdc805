"""Tokenizers: of a Hugging Face directory, or inside a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plait_kernels.errors import ModelError
from plait_models.files.gguf_header import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    Tokenizer: TypeAlias = PreTrainedTokenizerBase


def load_tokenizer(path: str | Path, trust_remote_code: bool = False) -> Tokenizer:
    """Load a tokenizer.

    Parameters
    ----------
    path : str | Path
        A directory, or a ``.gguf`` file, whose metadata then hold the tokenizer and the chat
        template. ``~`` is the home directory.
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
    if not local.is_dir():
        message = (
            f"there is no tokenizer directory {str(path)!r}. Allowed: a directory with tokenizer "
            "files, a .gguf file, or an id on the hub, 'owner/repository'."
        )
        raise ModelError(message)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(local), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        message = (
            f"no tokenizer can be loaded from {str(path)!r}: {error}. Allowed: a directory with "
            "tokenizer files or a .gguf file. Name another one with tokenizer=…, or "
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
    from transformers import PreTrainedTokenizerFast

    metadata = read_header(path).metadata
    try:
        # AutoTokenizer would read the metadata twice, once for the model's config.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path.parent), gguf_file=path.name)
        _correct(tokenizer, metadata)
    except Exception as error:
        # transformers and tokenizers raise errors of many kinds; each is a damaged vocabulary.
        message = (
            f"the tokenizer in {path} cannot be read: {error!r}. Allowed: a GGUF file with "
            "tokenizer metadata. Name a tokenizer directory with tokenizer=…"
        )
        raise ModelError(message) from error
    return tokenizer


_GGUF_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens, as transformers and as GGUF name them."""


def _correct(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Set what versions of transformers take otherwise than the file says."""
    for name, key in _GGUF_TOKENS.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is None or getattr(tokenizer, f"{name}_token_id") == token_id:
            continue
        token = tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            message = f"{key}_token_id is {token_id}, and there are {len(tokenizer)} tokens"
            raise ValueError(message)
        setattr(tokenizer, f"{name}_token", token)
    for name in ("add_bos_token", "add_eos_token"):
        adds = metadata.get(f"tokenizer.ggml.{name}")
        if adds is not None and getattr(tokenizer, name) != adds:
            setattr(tokenizer, name, adds)
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        from tokenizers import pre_tokenizers

        # transformers takes every gpt2-like GGUF vocabulary for plain ByteLevel; this family cuts
        # text at each digit first, which changes the tokens of the spaces before a number.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
