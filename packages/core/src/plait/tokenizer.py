"""Tokenizers: of a Hugging Face directory, or inside a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plait.tokenizer_files import check_json_files, check_tokenizer_files, mended
from plait_kernels.errors import ModelError

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
        from plait.gguf_tokenizer import load_gguf_tokenizer

        return load_gguf_tokenizer(local)
    if not local.is_dir():
        message = (
            f"there is no tokenizer directory {str(path)!r}. Allowed: a directory with tokenizer "
            "files, a .gguf file, or an id on the hub, 'owner/repository'."
        )
        raise ModelError(message)
    check_tokenizer_files(local)
    return _load_directory(local, trust_remote_code)


def _load_directory(directory: Path, trust_remote_code: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(directory), trust_remote_code=trust_remote_code
            )
        except Exception:
            # What it stumbles over may be none of the tokenizer's business.
            with mended(directory) as copy:
                tokenizer = AutoTokenizer.from_pretrained(
                    str(copy), trust_remote_code=trust_remote_code
                )
            tokenizer.name_or_path = str(directory)
    except ModelError:
        raise
    except Exception as error:
        # transformers and tokenizers raise errors of many kinds, Exception itself among them.
        check_json_files(directory)
        message = (
            f"no tokenizer can be loaded from {str(directory)!r}: {type(error).__name__}: "
            f"{str(error)[:500]}. Allowed: a directory with tokenizer files or a .gguf file. Name "
            "another one with tokenizer=…, or pass token ids with skip_tokenizer_init=True."
        )
        raise ModelError(message) from error
    if isinstance(tokenizer.chat_template, str):
        # A byte order mark would be written into every prompt.
        tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")
    return tokenizer


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
