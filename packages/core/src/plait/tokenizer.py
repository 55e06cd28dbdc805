"""Tokenizers: of a Hugging Face directory, or inside a GGUF file."""

from __future__ import annotations

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
