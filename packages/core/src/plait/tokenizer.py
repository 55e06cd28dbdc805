"""Tokenizers: of a Hugging Face directory, or inside a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from plait.tokenizer_files import check_json_files, check_tokenizer_files, mended
from plait_kernels.errors import ModelError

if TYPE_CHECKING:
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
